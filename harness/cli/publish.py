"""The verb publish. No logic here, as in main.py, which lists it among its own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.util.errors import Fault, Refused


def add(verbs: Any) -> None:
    """Add the parser to the command's verbs."""
    publish = verbs.add_parser("publish", help="a Run's numbers on its model's ModelScope page: a diff, with --apply a commit")
    publish.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a Run's folder, or one for each suite")
    publish.add_argument("--repo", required=True, metavar="OWNER/NAME", help="the model's repository; it must be there")
    publish.add_argument("--variant", help="which variant the repository holds (default: the only one beside the baseline)")
    publish.add_argument("--revision", default="master", metavar="BRANCH", help="the branch to write to (default: %(default)s)")
    publish.add_argument("--lang", choices=("en", "zh"), default="en", help="the block's language (default: %(default)s)")
    publish.add_argument("--base-model", metavar="OWNER/NAME", help="what it was quantized from, where the suite does not say")
    publish.add_argument("--model-index", action="store_true", help="write Hugging Face's model-index as well")
    publish.add_argument("--weights", action="store_true", help="send the checkpoint's files as well, those that differ")
    what = publish.add_mutually_exclusive_group()
    what.add_argument("--apply", action="store_true", help="make it so, by one commit; needs MODELSCOPE_API_TOKEN")
    what.add_argument("--create", action="store_true", help="only create the repository, with --visibility; write nothing")
    publish.add_argument("--visibility", choices=("private", "public"), help="for --create: who may see it")
    publish.add_argument("--anyway", action="store_true", help="--apply although Cells or a gate failed; the card says so")
    publish.add_argument("--partial", action="store_true", help="publish a Run that stopped before the last question")
    publish.set_defaults(do=_publish)


def _publish(args: argparse.Namespace) -> int:
    from harness.util.progress import Reporter
    from reports.card import publish

    if args.create != bool(args.visibility):
        raise Refused(Fault("--create and --visibility", "belong together", "--create --visibility private, or public"))
    request = publish.Request(
        args.runs,
        args.repo,
        args.revision,
        args.variant,
        args.base_model,
        args.lang,
        args.model_index,
        args.weights,
        args.apply,
        args.anyway,
        args.partial,
    )
    with Reporter() as report:
        if args.create:
            publish.create(args.repo, args.visibility, report)
        else:
            publish.publish(request, report, show=print)
    return 0
