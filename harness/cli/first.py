"""The verbs that help to a first suite: init and schema. No logic here, as in main.py, which lists them among its own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from harness.util.errors import Fault, Refused

TEMPLATES = Path(__file__).resolve().parents[1] / "suite" / "templates"
"""A suite file with comments for each of the ways to begin."""


def add(verbs: Any) -> None:
    """Add the parsers to the command's verbs."""
    init = verbs.add_parser(
        "init",
        help="a first suite, with comments",
        description="Print a first suite with comments, or write it to FILE. Change it, then: plan FILE, run FILE.",
        epilog="For example: init first.yaml; init mine.yaml --template questions",
    )
    init.add_argument("file", type=Path, nargs="?", help="where to write it; without it the suite is printed")
    init.add_argument(
        "--template",
        choices=sorted(path.stem for path in TEMPLATES.glob("*.yaml")),
        default="demo",
        help="the model that ships; a model of a hub; a quantized checkpoint that exists; your own questions (default: demo)",
    )
    init.set_defaults(do=_init)

    schema = verbs.add_parser("schema", help="the suite's JSON Schema, for editors")
    schema.set_defaults(do=_schema)


def _init(args: argparse.Namespace) -> int:
    from harness.util import files

    text = (TEMPLATES / f"{args.template}.yaml").read_text(encoding="utf-8")
    if args.file is None:
        print(text, end="")
        return 0
    if args.file.exists():
        raise Refused(Fault(str(args.file), "is there already, and nothing was written", "name another file"))
    if why := files.unwritable(args.file.parent):
        raise Refused(Fault(str(args.file), f"cannot be written: {why}", "name another file"))
    files.write_text(args.file, text)
    print(f"{args.file} is written; next: python -m harness plan {args.file}")
    return 0


def _schema(_: argparse.Namespace) -> int:
    from harness.suite.schema import Suite

    print(json.dumps(Suite.model_json_schema(), indent=1))
    return 0
