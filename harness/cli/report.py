"""The verbs that show: report, pick. No logic here, as in main.py, which lists them among its own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.util.errors import Fault, Refused
from harness.util.printable import complain


def add(verbs: Any) -> None:
    """Add the parsers to the command's verbs."""
    from reports.formats import FORMATS

    report = verbs.add_parser("report", help="the tables of a Run, or its page")
    report.add_argument("run", type=Path, help="a Run's folder, for example results/vl_accuracy")
    form = report.add_mutually_exclusive_group()
    form.add_argument(
        "--html", type=Path, nargs="?", const=Path(), metavar="FILE", help="write the page (default: RUN/report.html)"
    )
    for one in FORMATS:
        form.add_argument(f"--{one.name}", dest="form", action="store_const", const=one, help=f"print {one.title}")
    report.add_argument("--table", metavar="NAME", help="only this table, for example summary")
    report.add_argument("--lang", choices=("en", "zh"), default="en", help="the language (default: %(default)s)")
    what = "first keep the lost questions and their pictures in the Run, as far as its tasks are on this disk"
    report.add_argument("--questions", action="store_true", help=what)
    report.set_defaults(do=_report)

    pick = verbs.add_parser("pick", help="the smallest variant whose recovery is shown to be high enough, or none and why")
    pick.add_argument("run", type=Path, help="a Run's folder")
    pick.add_argument("--max-weights-gib", type=float, metavar="N", help="weights of at most so many GiB")
    pick.add_argument("--min-recovery", type=float, metavar="SHARE", help="lower bound of the recovery, for example 0.98")
    pick.set_defaults(do=_pick)


def _report(args: argparse.Namespace) -> int:
    from harness.record.folder import RunFolder
    from harness.run import lost_questions
    from harness.util import files
    from reports.page import html

    run = RunFolder.existing(args.run)
    if args.questions:
        lost_questions.keep(run, complain)
    if args.html is None:
        return _print(args, run)
    path = run.path / "report.html" if args.html == Path() else args.html
    if path.is_dir():
        raise Refused(Fault("--html", f"{path} is a folder", "name a file"))
    files.write_text(path, html.page(run, args.lang))
    print(path)
    return 0


def _print(args: argparse.Namespace, run: Any) -> int:
    from harness.util.progress import results
    from reports import tables
    from reports.formats import MARKDOWN

    if args.form is MARKDOWN and not args.table and args.lang == "en":
        print(tables.markdown(run))
        return 0
    made = tables.chosen(run, args.table, args.lang)
    if args.form:
        print(args.form.write(made), end="")
    else:
        for table in made:
            results().print(table.rich())
    return 0


def _pick(args: argparse.Namespace) -> int:
    from harness.record.folder import RunFolder
    from harness.util.progress import results
    from reports.pick import pick

    found = pick(RunFolder.existing(args.run), args.max_weights_gib, args.min_recovery)
    results().print(found.table().rich())
    print(found.chosen.name if found.chosen else "none")
    return found.status
