"""The verbs. No logic here: each reads its arguments, calls the module that does the work, prints, returns the status.

Exit status: 0 done; 1 a Cell, a build or a gate failed, or a checkpoint has faults; 2 refused before any work; 3 a gate is
inconclusive or blocked, or none can be picked; 130 interrupted. Heavy imports stand inside the verbs, so that --help
answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import __version__
from harness.cli import first, judge, publish, report
from harness.util.errors import CellFailed, Damaged, Fault, Refused, condensed
from harness.util.printable import complain

CHECKPOINT = "a checkpoint folder, `demo`, or a hub id whose files lie under models/"


def _suite_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", type=Path, help="a suite file, for example suites/vl_accuracy.yaml")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one key of the suite, for example engine.max_num_seqs=8 (repeatable)",
    )
    parser.add_argument("--only", metavar="PATTERN", help="only the Cells whose name, variant/workload/task, matches")
    parser.add_argument("--output", type=Path, help="folder of the Run (default: results/NAME of the suite)")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        default=Path("checkpoints"),
        help="folder for the checkpoints that are built (default: %(default)s)",
    )
    parser.add_argument("--executor", metavar="NAME", help="who measures: local, or ray for a cluster (default: the suite's)")
    parser.add_argument("--address", metavar="HOST:PORT", help="where the cluster's head listens (default: auto)")


def _until(parser: argparse.ArgumentParser) -> None:
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument(
        "--until-decided",
        action="store_true",
        help="stop asking as soon as the gate's recovery is shown to be kept or lost (accuracy.stop: decided)",
    )
    asked.add_argument("--to-the-end", action="store_true", help="ask the rest of a Run that stopped when it was decided")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness",
        description="Measure what quantizing a vision-language model cost and won.",
        epilog="Exit status: 0 done; 1 a Cell, a build or a gate failed, or a checkpoint has faults; 2 refused before any "
        "work; 3 a gate is inconclusive or blocked, or none can be picked; 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"harness {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    run = verbs.add_parser("run", help="build what is missing, measure what is missing, print the tables")
    _suite_arguments(run)
    how = run.add_mutually_exclusive_group()
    how.add_argument("--resume", action="store_true", default=True, help="go on with the Run that is there (the default)")
    how.add_argument("--fresh", action="store_true", help="keep the earlier Run aside and measure everything anew")
    _until(run)
    run.set_defaults(do=_run)

    plan = verbs.add_parser("plan", help="what run would do, and every refusal at once")
    _suite_arguments(plan)
    _until(plan)
    plan.set_defaults(do=_plan)

    quantize = verbs.add_parser("quantize", help="build the suite's variants alone")
    _suite_arguments(quantize)
    quantize.add_argument("--force", action="store_true", help="build again what is there")
    quantize.set_defaults(do=_quantize)

    check = verbs.add_parser("verify", help="everything that is wrong with a checkpoint, in one pass")
    check.add_argument("checkpoint", help=CHECKPOINT)
    check.add_argument("--source", help="the checkpoint it was made from")
    check.add_argument("--json", action="store_true", help="print JSON instead of tables")
    check.set_defaults(do=_verify)

    infer = verbs.add_parser("infer", help="one answer from vLLM")
    infer.add_argument("checkpoint", help=CHECKPOINT)
    infer.add_argument("--image", type=Path, action="append", default=[], help="a picture (repeatable)")
    infer.add_argument("--prompt", required=True, help="the question")
    infer.add_argument("--max-tokens", type=int, default=128, help="longest answer (default: %(default)s)")
    infer.add_argument("--max-model-len", type=int, help="longest prompt plus answer (default: the model's own)")
    infer.set_defaults(do=_infer)

    fetch = verbs.add_parser("fetch", help="bring a model or a data set from a hub; goes on where it broke off")
    fetch.add_argument("kind", choices=("model", "dataset"), help="what it is")
    fetch.add_argument("name", metavar="OWNER/NAME", help="its name on the hub, for example Qwen/Qwen3-VL-8B-Instruct")
    fetch.add_argument(
        "--from",
        dest="source",
        choices=("modelscope", "huggingface"),
        default="modelscope",
        help="the hub (default: %(default)s); a token is taken from MODELSCOPE_API_TOKEN or HF_TOKEN",
    )
    fetch.add_argument("--revision", help="a branch, a tag or a commit (default: the hub's main branch)")
    fetch.add_argument("--output", type=Path, help="the folder (default: models/OWNER/NAME or data/OWNER/NAME)")
    fetch.set_defaults(do=_fetch)

    report.add(verbs)

    tune = verbs.add_parser("tune", help="which engine settings of the suite's settings axis won, and by how much")
    _suite_arguments(tune)
    tune.set_defaults(do=_tune, fresh=False)

    shape = verbs.add_parser("shape", help="a checkpoint of random weights in a real model's shape, for size, memory and speed")
    shape.add_argument("name", help="for example qwen3_vl_8b")
    shape.add_argument("--output", type=Path, help="the folder (default: models/shapes/NAME)")
    shape.set_defaults(do=_shape)

    judge.add(verbs)
    publish.add(verbs)
    first.add(verbs)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, do, and turn every expected way to end into one line and a status."""
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return int(given.do(given))
    except Refused as refused:
        for fault in _told(refused.faults, given):
            complain(f"refused: {fault}")
        return 2
    except CellFailed as error:
        complain(f"failed: {error}")
        return 1
    except KeyboardInterrupt:
        complain("interrupted; what was measured stays, the same command goes on from there")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        complain(f"failed: {where}{error.strerror or error}; what was measured before stays")
        return 1


def _told(faults: Sequence[Fault], args: argparse.Namespace) -> list[Fault]:
    """A line for each thing that is wrong, with the line of the suite file where that is to be mended."""
    found = condensed(faults)
    if "suite" not in args:
        return found
    from harness.suite import yaml_faults
    from harness.workloads import workload_names

    return yaml_faults.located(found, args.suite, args.overrides, workload_names())


def _terminated(*_: object) -> None:
    """SIGTERM ends like Ctrl-C, so that every engine is stopped on the way out."""
    raise KeyboardInterrupt


def _suite_and_folder(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    from harness.record.folder import RunFolder
    from harness.suite.schema import load_suite

    named = {"executor": args.executor, "cluster.address": args.address}
    overrides = [*args.overrides, *(f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None)]
    order = ["workloads.accuracy.order=shuffled", "workloads.accuracy.divergence=0"]
    if getattr(args, "until_decided", False):
        order.append("workloads.accuracy.stop=decided")
    elif getattr(args, "to_the_end", False):
        order.append("workloads.accuracy.stop=null")
    else:
        order = []
    asked = dict(load_suite(args.suite, overrides).workloads.asked()) if order else {}
    if getattr(asked.get("accuracy"), "divergence", None):
        complain("accuracy.divergence is left out: it needs the baseline's answers task by task")
    overrides += order
    suite = load_suite(args.suite, overrides)
    return suite, RunFolder(args.output or Path("results") / suite.name)


def _run(args: argparse.Namespace) -> int:
    from harness.run import lost_questions
    from harness.run.execute import run_suite
    from harness.util import files
    from harness.util.progress import Reporter, results
    from reports import tables

    suite, folder = _suite_and_folder(args)
    with Reporter() as report:
        _, failures = run_suite(suite, folder, args.checkpoints, report, args.only, args.fresh)
        report.stage("keeping the questions that were lost")
        lost_questions.keep(folder, report.line)
    tables.show(folder, results())
    files.write_text(folder.path / "report.md", tables.markdown(folder))
    complain(f"\nRecords and report: {folder.path}; the page: python -m harness report {folder.path} --html")
    if any(not record.whole for record in folder.records()):
        complain("Asking stopped when it was decided: `python -m harness gate` judges it; --to-the-end asks the rest")
    for failure in failures:
        complain(f"failed: {failure}")
    return 1 if failures else 0


def _plan(args: argparse.Namespace) -> int:
    # A suite that is wrong is refused before anything heavy is imported.
    suite, folder = _suite_and_folder(args)
    from harness.cli import planned as report
    from harness.plan.plan import make_plan
    from harness.run.execute import documents, refusals
    from harness.run.executors import executor
    from harness.util.progress import results

    with executor(suite) as where:
        plan = make_plan(suite, args.checkpoints, args.only)
        report.show(plan, folder, results(), where)
        found = refusals(plan, folder, args.checkpoints, where)
        Refused.if_any([*found, *documents(plan, folder, found)])
    return 0


def _quantize(args: argparse.Namespace) -> int:
    from harness.plan.plan import make_plan
    from harness.run.execute import build_variants, folder_faults
    from harness.run.executors import executor
    from harness.util.progress import Reporter

    suite, folder = _suite_and_folder(args)
    with executor(suite) as where, Reporter() as report:
        plan = make_plan(suite, args.checkpoints, args.only)
        # To build it again is the remedy for a damaged product, so its fault does not stand in the way.
        faults = [*folder_faults(plan, folder, args.checkpoints), *plan.faults]
        Refused.if_any(f for f in faults if not (args.force and isinstance(f, Damaged)))
        variants = [v for v in plan.variants if v.recipe] if args.force else plan.to_build()
        failures = build_variants(plan, variants, folder.logs, where, report, args.force)
    for variant in make_plan(suite, args.checkpoints, args.only).variants:
        print(f"{variant.name}\t{variant.path}\t{'ready' if variant.built else 'not built'}")
    for failure in failures:
        complain(f"failed: {failure}")
    return 1 if failures else 0


def _verify(args: argparse.Namespace) -> int:
    from harness.checkpoints import verify
    from harness.checkpoints.locate import resolve_model
    from harness.util.progress import results
    from reports.tables import checkpoint as report

    found = verify.verify(resolve_model(args.checkpoint), resolve_model(args.source) if args.source else None)
    if args.json:
        print(found.model_dump_json(indent=1))
    else:
        report.show(found, results())
    return 1 if found.faults else 0


def _infer(args: argparse.Namespace) -> int:
    from harness.run.infer import infer
    from harness.util.progress import Reporter

    with Reporter() as report:
        answer = infer(args.checkpoint, args.image, args.prompt, args.max_tokens, args.max_model_len, report)
    print(answer)
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from harness.hub.fetch import fetch
    from harness.util.progress import Reporter

    with Reporter() as report:
        folder = fetch(args.kind, args.name, args.source, args.revision, args.output, report)
    print(folder)
    return 0


def _tune(args: argparse.Namespace) -> int:
    from harness.compare import tune
    from harness.run.execute import run_suite
    from harness.util.progress import Reporter, results
    from reports.tables import speed

    suite, folder = _suite_and_folder(args)
    settings = tune.settings_of(suite)
    with Reporter() as report:
        _, failures = run_suite(suite, folder, args.checkpoints, report, args.only)
    axis = folder.read().settings
    comparisons, faults = tune.compare_settings(list(folder.records()), axis)
    console = results()
    console.print(speed.against(comparisons, faults, f"Settings against {settings[0]}").rich())
    console.print(speed.tuned(tune.winners(comparisons, axis)).rich())
    for failure in failures:
        complain(f"failed: {failure}")
    return 1 if failures else 0


def _shape(args: argparse.Namespace) -> int:
    from harness.checkpoints import shape
    from harness.util import environments

    environments.prepare_imports()
    print(shape.make(args.name, args.output))
    return 0
