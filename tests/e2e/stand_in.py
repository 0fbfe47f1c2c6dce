"""What stands in for an engine where only the executor is under test: Records at once, and a journal of who made which.

`python -m tests.e2e.stand_in run SUITE ...` is `python -m harness` with it. $HARNESS_STAND_IN_JOURNAL names the journal, a
line when a Cell begins and when it ends; _S the seconds a Cell takes; _FSYNC_S those of a write; _SAMPLES its samples; _HOLD
a variant whose Cells wait until the file _GO is there.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from pathlib import Path

from harness import workloads
from harness.cli import main
from harness.engine.log import EngineFacts
from harness.engine.session import Session
from harness.plan.plan import PlannedCell
from harness.plan.schedule import Chain, Group
from harness.record.folder import RunFolder
from harness.record.records import Metric
from harness.record.samples import Sample, TokenScores
from harness.run import execute, measure
from harness.run.executors import WorkResult
from harness.util import environments, files
from harness.util.progress import Reporter
from harness.workloads.load import Load
from tests.helpers.records import sample


def setting(name: str, otherwise: str = "") -> str:
    return os.environ.get(f"HARNESS_STAND_IN_{name}", otherwise)


TOKENS = TokenScores(task="t", doc_id="1", tokens=[1], logprobs=[{1: -0.1, 2: -3.0}], best=[1])

ENGINE = "import time; print('up', flush=True); time.sleep(600)"


def answers() -> list[Sample]:
    return [sample(str(i), 1.0) for i in range(int(setting("SAMPLES", "2")))]


def group(given: Chain, one: Group, folder: RunFolder, session: Session, report: Reporter) -> WorkResult:
    """In place of measure.measure_group."""
    if slow := float(setting("FSYNC_S", "0")):
        files.os.fsync = lambda _: time.sleep(slow)  # type: ignore[attr-defined]
    report.line(f"stand-in serves {one.variant.name}")
    # As an engine is started, so that whoever ends this process must end it too.
    process = environments.serve().start(
        ["-c", "import time; print('up', flush=True); time.sleep(600)"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline()
    later: list[str] = []
    try:
        for cell in one.cells:
            # Another run may have some of the baseline's answers in hand; measure_group waits for them in the same way.
            if measure._relative(cell) and not measure._answered(given, one, folder, 60.0, report):
                later.append(cell.id.key)
                continue
            _write("began", cell)
            while setting("HOLD") == one.variant.name and not Path(setting("GO")).exists():
                time.sleep(0.05)
            time.sleep(float(setting("S", "0")))
            # As in a real Run, only answers have a score.
            answered = cell.workload == "accuracy"
            score = {"score": Metric(value=1.0, unit="share", n=2, stderr=0.1)}
            measured = workloads.Measurement(score if answered else {})
            record = measure.record_of(one, cell, EngineFacts(vllm="0", arguments=[], start_s=0), "done", None, measured)
            folder.add(record, answers() if answered else [TOKENS])
            _write("ended", cell)
    finally:
        environments.stop(process)
    return WorkResult([], later, f"the chain of {given.suite.baseline}" if later else "")


def _write(what: str, cell: PlannedCell) -> None:
    with Path(setting("JOURNAL")).open("a") as journal:
        journal.write(f"{what} {cell.label} {os.getpid()}\n")


if __name__ == "__main__":
    from tests.e2e import stand_in  # by this name, not as __main__, workers find it

    execute.measure.measure_chain = functools.partial(measure.measure_chain, each=stand_in.group)
    execute.preflight = lambda *_, **__: []
    Load.before_engines = classmethod(lambda cls, session: None)  # type: ignore[method-assign, assignment]
    sys.exit(main.main(sys.argv[1:]))
