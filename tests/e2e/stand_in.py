"""What stands in for an engine where only the executor is under test: Records at once, and a journal of who made which.

`python -m tests.e2e.stand_in run SUITE ...` is `python -m harness` with it. $HARNESS_STAND_IN_JOURNAL names the journal, a
line when a Cell begins and when it ends; _S the seconds a Cell takes; _SAMPLES its samples; _HOLD a variant whose Cells wait
until the file _GO is there.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from pathlib import Path

from harness import cli, measure, run, workloads
from harness.engine import EngineFacts
from harness.groups import Chain, Group
from harness.progress import Reporter
from harness.store import RunFolder
from tests.conftest import sample


def setting(name: str, otherwise: str = "") -> str:
    return os.environ.get(f"HARNESS_STAND_IN_{name}", otherwise)


def group(given: Chain, one: Group, folder: RunFolder, report: Reporter) -> list[str]:
    """In place of measure.group."""
    report.line(f"stand-in serves {one.variant.name}")
    for cell in one.cells:
        with Path(setting("JOURNAL")).open("a") as journal:
            journal.write(f"began {cell.label} {os.getpid()}\n")
        while setting("HOLD") == one.variant.name and not Path(setting("GO")).exists():
            time.sleep(0.05)
        time.sleep(float(setting("S", "0")))
        record = measure._record(one, cell, EngineFacts(vllm="0", arguments=[], start_s=0), "done", None)
        folder.add(record, [sample(str(i), 1.0) for i in range(int(setting("SAMPLES", "2")))])
        with Path(setting("JOURNAL")).open("a") as journal:
            journal.write(f"ended {cell.label} {os.getpid()}\n")
    return []


if __name__ == "__main__":
    from tests.e2e import stand_in  # by this name, not as __main__, workers find it

    run.measure.chain = functools.partial(measure.chain, each=stand_in.group)
    run.preflight = lambda *_, **__: []
    workloads.prepare = lambda _: None
    sys.exit(cli.main(sys.argv[1:]))
