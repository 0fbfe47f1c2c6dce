"""The verbs that judge: compare, gate, import. No logic here, as in main.py, which lists them among its own."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from harness.util.errors import Fault, Refused, nearest


def add(verbs: Any) -> None:
    """Add the parsers to the command's verbs."""
    compare = verbs.add_parser("compare", help="two variants of a Run, or a Run with an earlier one, question by question")
    compare.add_argument("run", type=Path, help="a Run's folder")
    compare.add_argument("--baseline", type=Path, metavar="RUN", help="an earlier Run: its variants are the baselines")
    compare.add_argument("--variants", nargs=2, metavar=("BASELINE", "CANDIDATE"), help="only these two")
    compare.add_argument("--anyway", action="store_true", help="compare arms that were not measured alike, under a warning")
    compare.add_argument("--early", action="store_true", help="also: how many questions would have been enough for a verdict")
    compare.add_argument("--limit", type=float, metavar="R", help="with --early: recovery to keep (default: the suite's gate)")
    compare.add_argument("--seed", type=int, default=0, help="with --early: of the order of questions (default: %(default)s)")
    compare.add_argument("--markdown", action="store_true", help="print Markdown")
    compare.set_defaults(do=_compare)

    gate = verbs.add_parser("gate", help="pass, fail, inconclusive or blocked, with the reason for each line")
    gate.add_argument("run", type=Path, help="a Run's folder")
    gate.add_argument("--baseline", type=Path, metavar="RUN", help="an earlier Run of the same device, for the history")
    gate.add_argument("--policy", type=Path, metavar="FILE", help="what is asked (default: the suite's gate section)")
    gate.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML, a case a line")
    gate.add_argument("--github", action="store_true", help="print GitHub annotations and write the step summary")
    gate.add_argument(
        "--benchmark-json",
        type=Path,
        metavar="FILE",
        help="write github-action-benchmark's array: rates and recoveries; times and sizes beside it as *.smaller.json",
    )
    gate.add_argument("--pytest-benchmark-json", type=Path, metavar="FILE", help="write what `pytest-benchmark compare` reads")
    gate.set_defaults(do=_gate)

    bring = verbs.add_parser("import", help="results of lm-eval or vllm bench, made by hand, as Records of a Run")
    bring.add_argument("files", type=Path, nargs="+", metavar="FILE", help="results_*.json of lm-eval, or a vllm bench result")
    bring.add_argument("--run", type=Path, required=True, help="the Run's folder; made when it is not there")
    bring.add_argument("--variant", required=True, help="the variant that was measured")
    bring.add_argument("--load", default="imported", help="name of a bench file's traffic (default: %(default)s)")
    bring.add_argument("--workload", metavar="NAME", help="what a bench file measured")
    bring.add_argument(
        "--pair-by", choices=("id", "position"), default="id", help="what pairs questions (default: %(default)s)"
    )
    bring.add_argument("--device", help="name of the device, which the files do not hold")
    bring.set_defaults(do=_import)


def _compare(args: argparse.Namespace) -> int:
    from harness.compare.everything import compare_all
    from harness.record.folder import RunFolder
    from harness.util.progress import results
    from reports.formats import markdown
    from reports.tables import answers, speed

    run = RunFolder.existing(args.run)
    earlier = RunFolder.existing(args.baseline) if args.baseline else None
    early = (_limit(args.limit, run), args.seed) if args.early else None
    found = compare_all(run, earlier, tuple(args.variants) if args.variants else None, args.anyway, early)
    if not args.anyway:
        Refused.if_any(found.faults)
    shown = [
        answers.accuracy(found.accuracy, found.left_out["accuracy"], found.baseline),
        answers.early(found.early),
        answers.divergence(found.divergence, found.left_out["divergence"]),
        speed.against(found.speed, found.left_out["speed"]),
    ]
    shown = [table for table in shown if len(table.frame) or table.notes]
    warnings = [f"WARNING, does not count: {fault}" for fault in found.damaged]
    warnings += [f"WARNING, not measured alike: {fault}" for fault in found.faults]
    if args.markdown:
        print("\n\n".join([*warnings, *(markdown.table(table) for table in shown)]))
    else:
        for warning in warnings:
            print(warning)
        for table in shown:
            results().print(table.rich())
    return 0


def _limit(given: float | None, run: Any) -> float:
    """The recovery that must be kept: what was given, else what the Run's own gate asks for."""
    from harness.suite.gate_policy import policy_of

    if given is None:
        return policy_of(run.read().suite.get("gate") or {}, run.path / "run.json").accuracy.min_recovery
    Refused.if_any([] if 0 < given < 1 else [Fault("--limit", f"is {given:g}", "a share between 0 and 1, for example 0.98")])
    return given


def _gate(args: argparse.Namespace) -> int:
    from harness.compare.gate import judge, outcome, status
    from harness.compare.runs import compare_run
    from harness.compare.trials import compare_speed, crossovers
    from harness.record.folder import RunFolder
    from harness.suite.gate_policy import load_policy, policy_of
    from harness.util import files
    from harness.util.progress import results
    from reports import ci
    from reports.tables import gate

    run = RunFolder.existing(args.run)
    earlier = RunFolder.existing(args.baseline) if args.baseline else None
    facts = run.read()
    policy = load_policy(args.policy) if args.policy else policy_of(facts.suite.get("gate") or {}, run.path / "run.json")
    # Not after the verdict: a gate that could not write would end like one that failed.
    Refused.if_any(_unwritable("--junit", args.junit))
    Refused.if_any(_unwritable("--benchmark-json", args.benchmark_json))
    Refused.if_any(_unwritable("--pytest-benchmark-json", args.pytest_benchmark_json))
    found = judge(run, policy, earlier)
    crossings = crossovers(compare_speed(run, facts.baseline)[0])
    name = run.suite_name
    results().print(gate.table(found, crossings).rich())
    records = list(run.records())
    if args.junit:
        files.write_text(args.junit, ci.junit(name, found))
    if args.benchmark_json:
        bigger, smaller = ci.benchmark(records, compare_run(run, facts.baseline)[0])
        files.write_json(args.benchmark_json, bigger)
        files.write_json(args.benchmark_json.with_suffix(".smaller.json"), smaller)
    if args.pytest_benchmark_json:
        files.write_json(args.pytest_benchmark_json, ci.pytest_benchmark(records))
    if args.github:
        print(ci.github_lines(found))
        step = os.environ.get("GITHUB_STEP_SUMMARY")
        if step:
            with Path(step).open("a", encoding="utf-8") as file:
                file.write(ci.summary(name, found, crossings))
    print(f"gate: {outcome(found)}", file=sys.stderr)
    return status(found)


def _unwritable(option: str, path: Path | None) -> list[Fault]:
    """Why a file cannot be written where an option asks for it."""
    from harness.util import files

    why = None if path is None else "is a folder" if path.is_dir() else files.unwritable(path.parent)
    return [Fault(f"{option} {path}", f"cannot be written: {why}", "name a file")] if why else []


def _import(args: argparse.Namespace) -> int:
    from harness.record.folder import RunFolder
    from harness.workloads import kind_of, kinds
    from harness.workloads.imported import Place, import_files

    if not args.variant.strip() or "/" in args.variant:
        raise Refused(Fault("--variant", f"is {args.variant!r}", "a name without a slash"))
    benched = [name for name, kind in kinds().items() if kind.under_load]
    if args.workload and args.workload not in benched:
        what = f"is {args.workload!r}{nearest(args.workload, benched)}"
        raise Refused(Fault("--workload", what, f"one of {', '.join(benched)}"))
    place = Place(args.variant, args.load, args.workload, args.device, args.pair_by == "position")
    for record in import_files(RunFolder(args.run), args.files, place):
        note = "" if record.status == "done" else f"\t{record.status}: {record.reason}"
        if not note and kind_of(record.cell.workload).compared_by == "answers" and not record.samples:
            note = "\ta score alone: no samples stand beside it (--log_samples), so it is compared with nothing"
        print(f"{record.cell.label}\t{record.imported_from}{note}")
    return 0
