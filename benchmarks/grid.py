"""How much a grid saves: six cells in one job against single builds of them, and where the time of each went.

`python -m benchmarks.grid SOURCE FOLDER [--samples 16] [--singles 2] [--only grid|singles]
[--keep g128_mse=PATH]`, on an idle machine.
The quantize environment is found as the harness finds it (HARNESS_QUANTIZE_PYTHON, HARNESS_QUANTIZE_PYTHONPATH, or
.venv-quantize). Results go to standard output and to FOLDER/grid.json after each build, so that one that is cut
short, or the two halves of `--only`, still give one table. Finished checkpoints are removed at once: six of the 8B
shape are 40 GB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness.util import environments
from harness.util.files import write_json

STAGES = ("search", "round", "pack", "lay_out", "wait", "write", "verify", "hash", "cell")
"""What a manifest says of a cell's seconds, in order; `wait`: for the cell before to be finished."""


def build(folder: Path, name: str, job: dict[str, Any], keep: dict[str, Path]) -> dict[str, Any]:
    """One `python -m quantize`, start-up included: seconds, the manifests' own seconds, peak memory.

    Raises RuntimeError with the end of its log when it fails.
    """
    path, log = folder / f"{name}.json", folder / f"{name}.log"
    path.write_text(json.dumps(job))
    found: dict[str, Any] = {"cells": {}}
    start = time.perf_counter()
    with log.open("wb") as output:
        process = environments.quantize().start(["-m", "quantize", str(path)], stdout=subprocess.PIPE, stderr=output)
        assert process.stdout is not None and process.stdin is not None
        for line in process.stdout:
            event = json.loads(line)
            print(f"{time.perf_counter() - start:7.1f} s {name}: {event['message']}", file=sys.stderr, flush=True)
            if event["kind"] == "cell_done":
                take(Path(event["output"]), found, keep)
        status = process.wait()
        found["seconds"] = round(time.perf_counter() - start, 1)
        process.stdin.close()
    if status:
        raise RuntimeError(f"{name} ended with status {status}: {log.read_text(errors='replace')[-2000:]}")
    return found


def take(checkpoint: Path, found: dict[str, Any], keep: dict[str, Path]) -> None:
    """Keep what the manifest says of time, memory and content, and remove the checkpoint, or move it where it is kept."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    seconds = manifest["seconds"]
    found["cells"][manifest["name"]] = {stage: seconds[stage] for stage in STAGES if stage in seconds}
    found["once"] = {key: value for key, value in seconds.items() if key not in STAGES}
    found["peak_gib"] = {key: value and round(value / 2**30, 1) for key, value in manifest["peak_bytes"].items()}
    found.setdefault("content", {})[manifest["name"]] = manifest["content_sha256"]
    if (place := keep.get(checkpoint.name)) and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(checkpoint, place)
    else:
        shutil.rmtree(checkpoint)


def summary(results: dict[str, Any], count: int) -> dict[str, Any]:
    """The ratio of the grid to as many single builds as it has cells, and whether both gave the same bytes."""
    singles = [one for name, one in results.items() if name.startswith("single_")]
    grid = results.get("grid")
    if not singles or not grid:
        return {}
    mean = sum(one["seconds"] for one in singles) / len(singles)
    return {
        "grid_s": grid["seconds"],
        "single_mean_s": round(mean, 1),
        "singles_measured": f"{len(singles)} of {count}"
        + ("; the others are taken to cost their mean" if len(singles) < count else ""),
        "ratio": round(grid["seconds"] / (count * mean), 3),
        "same_content": all(grid["content"][name] == sha for one in singles for name, sha in one["content"].items()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=128, help="calibration samples")
    parser.add_argument("--n-grid", type=int, default=20, help="points of the search; fewer where there is no GPU")
    parser.add_argument("--singles", type=int, default=6, help="how many of the six to build alone; they cost alike")
    parser.add_argument("--only", choices=("grid", "singles"))
    parser.add_argument("--keep", metavar="CELL=PATH", help="where to move one cell's checkpoint")
    given = parser.parse_args()
    cell, _, path = (given.keep or "").partition("=")
    keep = {cell: Path(path).resolve()} if path else {}
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    cells = [
        {"name": n, "recipe": {"group_size": g, "observer": o, "n_grid": given.n_grid}, "output": str(folder / n)}
        for g in (32, 64, 128)
        for o in ("minmax", "mse")
        for n in [f"g{g}_{o}"]
    ]
    base = {"source": str(given.source.resolve()), "calibration": {"samples": given.samples}, "force": True}
    kept = folder / "grid.json"
    results: dict[str, Any] = json.loads(kept.read_text()) if given.only and kept.is_file() else {}
    jobs = {"grid": cells} if given.only != "singles" else {}
    if given.only != "grid":
        # Spread over the six: with two, the first (32, minmax) and the last (128, mse).
        last = max(1, given.singles - 1)
        chosen = [cells[round(i * (len(cells) - 1) / last)] for i in range(given.singles)]
        jobs |= {f"single_{cell['name']}": [cell] for cell in chosen}
    for name, job in jobs.items():
        results[name] = build(folder, name, {**base, "cells": job}, keep)
        results["summary"] = summary(results, len(cells))
        write_json(kept, results)
    print(kept.read_text())


if __name__ == "__main__":
    main()
