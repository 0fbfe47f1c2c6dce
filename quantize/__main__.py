"""`python -m quantize JOB.json`: build a job's cells. Events on standard output, one JSON object a line; logs on
standard error. Exit status: 0 all built, 1 a cell failed, 2 refused, 130 interrupted."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from harness.util.errors import Fault, Refused
from harness.util.processes import die_with_parent, own_stdout
from quantize import upstream
from quantize.recipe import Event, Job


def main(arguments: list[str]) -> int:
    """Run the job named on the command line; see the module's docstring for the exit status."""
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print("usage: python -m quantize JOB.json", file=sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    die_with_parent()
    signal.signal(signal.SIGTERM, _terminated)
    events = own_stdout()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")

    def report(event: Event) -> None:
        events.write(event.model_dump_json(exclude_none=True) + "\n")
        events.flush()
        print(event.message, file=sys.stderr)

    try:
        job = read_job(Path(arguments[0]))
        upstream.prepare()
        from quantize.job import build

        return 1 if build(job, report) else 0
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def read_job(path: Path) -> Job:
    """The job a file describes. Raises Refused with one fault for each thing wrong in it."""
    try:
        return Job.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(Fault(str(path), f"cannot be read ({error.strerror})")) from None
    except ValidationError as error:
        raise Refused(*(Fault(f"{path}: {_place(e['loc'])}", e["msg"]) for e in error.errors())) from None


def _place(keys: tuple[int | str, ...]) -> str:
    """The key of the file; pydantic's own mark of a recipe's method, in brackets, is none."""
    return ".".join(str(key) for key in keys if not str(key).startswith("[")) or "the file"


def _terminated(number: int, frame: FrameType | None) -> None:
    # An exception, so that temporary folders are removed on the way out.
    sys.exit(128 + number)


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except SystemExit as ended:  # SIGTERM
        status = int(ended.code or 0)
    logging.shutdown()
    sys.stderr.flush()
    # Everything is written and closed, or given up in a thread that may not return. And taking torch and llm-compressor
    # apart module by module costs two seconds more.
    os._exit(status)
