"""How much a grid saves: six cells in one job against the same six alone.

`python -m tests.quantize.bench_grid SOURCE FOLDER [SAMPLES]`, with the quantize environment's interpreter, on an idle
machine. Prints seconds each and the ratio.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def timed(folder: Path, source: str, samples: int, cells: list[dict[str, Any]]) -> float:
    """Seconds of one `python -m quantize`, start-up included. Raises CalledProcessError when it fails."""
    job = folder / "job.json"
    job.write_text(json.dumps({"source": source, "calibration": {"samples": samples}, "cells": cells, "force": True}))
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "quantize", str(job)], check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - start


def main(source: str, folder: Path, samples: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cells = [
        {"name": f"g{g}_{o}", "recipe": {"group_size": g, "observer": o}, "output": str(folder / f"g{g}_{o}")}
        for g in (32, 64, 128)
        for o in ("minmax", "mse")
    ]
    together = timed(folder, source, samples, cells)
    print(f"grid of six: {together:.1f} s", flush=True)
    for cell in cells:
        shutil.rmtree(cell["output"])  # six checkpoints of the 8B shape are 40 GB
    alone = [timed(folder, source, samples, [c]) for c in cells]
    print(f"six alone: {', '.join(f'{s:.1f}' for s in alone)} s; ratio {together / sum(alone):.2f}")


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).resolve()), Path(sys.argv[2]).resolve(), int(sys.argv[3]) if len(sys.argv) > 3 else 128)
