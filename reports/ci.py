"""What continuous integration reads: JUnit, GitHub's annotations, the files of github-action-benchmark and pytest-benchmark."""

from __future__ import annotations

import datetime
import platform
import statistics
from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree import ElementTree

from harness.compare.answers import Comparison
from harness.compare.gate import Verdict, outcome
from harness.compare.trials import direction
from harness.record.records import Record, cell_label
from harness.util.printable import printable
from harness.workloads import kind_of
from reports.formats import markdown
from reports.tables import gate as tables

ANNOTATION = {"fail": "error", "blocked": "error", "inconclusive": "warning"}


def junit(name: str, verdicts: Sequence[Verdict]) -> str:
    """JUnit XML (pytest's xunit2): one case a line of the gate, its figures as properties.

    A fail is a `failure`; what is blocked or inconclusive is an `error` where it counts and `skipped` where it does not.
    """
    suites = ElementTree.Element("testsuites")
    bad = [v for v in verdicts if v.outcome == "fail"]
    unclear = [v for v in verdicts if v.outcome in ("blocked", "inconclusive")]
    errors = [v for v in unclear if v.required]
    counts = {"tests": len(verdicts), "failures": len(bad), "errors": len(errors), "skipped": len(unclear) - len(errors)}
    suite = ElementTree.SubElement(suites, "testsuite", {"name": name} | {k: str(v) for k, v in counts.items()})
    suite.set("time", "0")
    for v in verdicts:
        case = ElementTree.SubElement(suite, "testcase", {"classname": f"{name}.{v.kind}", "name": _clean(v.name), "time": "0"})
        properties = ElementTree.SubElement(case, "properties")
        for key, value in _figures(v).items():
            ElementTree.SubElement(properties, "property", {"name": key, "value": value})
        tag = {"fail": "failure", "pass": ""}.get(v.outcome, "error" if v.required else "skipped")
        if tag:
            ElementTree.SubElement(case, tag, {"message": _clean(f"{v.outcome}: {v.reason}")})
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _figures(v: Verdict) -> dict[str, str]:
    figures = {"verdict": v.outcome, "required": str(v.required).lower()}
    if v.value is not None:
        numbers = {"value": v.value.value, "low": v.value.low, "high": v.value.high, "limit": v.limit}
        figures |= {key: f"{number:.6g}" for key, number in numbers.items() if number is not None and number == number}
    return figures


def _clean(text: str) -> str:
    """XML 1.0 knows no control characters, not even escaped."""
    return "".join(c for c in text if c in "\t\n" or (ord(c) >= 32 and not 0xD800 <= ord(c) <= 0xDFFF and ord(c) < 0xFFFE))


def github_lines(verdicts: Iterable[Verdict]) -> str:
    """GitHub's workflow commands, a line for each verdict that is no pass and counts."""
    lines = []
    for v in verdicts:
        kind = ANNOTATION.get(v.outcome)
        if kind and (v.required or v.outcome == "fail"):
            lines.append(f"::{kind} title={_property(f'{v.outcome}: {v.name}')}::{_data(v.reason)}")
    return "\n".join(lines)


def _data(text: str) -> str:
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def summary(name: str, verdicts: Sequence[Verdict], crossings: Iterable[str] = ()) -> str:
    """The step summary: the gate's table as Markdown under a heading."""
    return f"## {name}: {outcome(verdicts)}\n\n{markdown.table(tables.table(verdicts, crossings))}\n"


def benchmark(
    records: Iterable[Record], comparisons: Iterable[Comparison]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """github-action-benchmark's arrays: figures of which more is better (its customBiggerIsBetter), and less is better.

    The tool reads one direction a file. Speeds are means over trials with their standard deviation; invalid Cells are out.
    """
    bigger: list[dict[str, Any]] = []
    smaller: list[dict[str, Any]] = []
    for (variant, workload, place, metric), (unit, values) in _by_metric(records).items():
        way = direction(metric, unit)
        if way:
            entry: dict[str, Any] = {"name": f"{variant}: {place} {metric}", "unit": unit, "value": statistics.fmean(values)}
            if len(values) > 1:
                entry["range"] = f"± {statistics.stdev(values):.4g}"
            if kind_of(workload).timed:
                entry["extra"] = f"{len(values)} trials"
            (bigger if way > 0 else smaller).append(entry)
    for c in comparisons:
        if c.recovery.value == c.recovery.value:
            name, half = f"{c.candidate}: {c.task} recovery", 50 * (c.recovery.high - c.recovery.low)
            bigger.append(
                {"name": name, "unit": "%", "value": 100 * c.recovery.value, "range": f"± {half:.3g}", "extra": f"n {c.n}"}
            )
    return bigger, smaller


def _by_metric(records: Iterable[Record]) -> dict[tuple[str, str, str, str], tuple[str, list[float]]]:
    """Values over trials by (variant, workload, point, metric), with the unit; of finished speed and memory Cells."""
    found: dict[tuple[str, str, str, str], tuple[str, list[float]]] = {}
    for record in records:
        if record.status != "done" or kind_of(record.cell.workload).compared_by != "trials":
            continue
        point = {key: value for key, value in record.cell.point.items() if key != "trial"}
        place = cell_label("", record.cell.workload, point).lstrip("/")
        for name, metric in record.metrics.items():
            if metric.value is not None:
                key = (record.cell.variant, record.cell.workload, place, name)
                found.setdefault(key, (metric.unit, []))[1].append(metric.value)
    return found


def pytest_benchmark(records: Sequence[Record]) -> dict[str, Any]:
    """pytest-benchmark's JSON, so that `pytest-benchmark compare` reads speed Cells: its unit is the second.

    Latencies are seconds a request; a rate of tokens or requests is shown as the seconds that one of them takes.
    """
    benchmarks = []
    for (variant, _, place, metric), (unit, values) in _by_metric(records).items():
        seconds = _seconds(unit, values)
        if not seconds or not direction(metric, unit):
            continue
        name = f"{place} {metric}"
        benchmarks.append(
            {
                "group": name,
                "name": f"{variant}: {name}",
                "fullname": f"{variant}/{name}",
                "params": {"variant": variant},
                "param": variant,
                "extra_info": {"unit": unit, "values": values},
                "options": {},
                "stats": _stats(seconds),
            }
        )
    first = next(iter(records), None)
    git = (first.provenance.git if first else None) or {}
    return {
        "machine_info": {"node": "", "machine": platform.machine(), "cpu": {}, "device": _device(first)},
        "commit_info": {
            "id": git.get("commit", "unknown"),
            "dirty": git.get("changed", False),
            "time": None,
            "project": "harness",
        },
        "benchmarks": benchmarks,
        "datetime": datetime.datetime.now(datetime.UTC).isoformat(),
        "version": "5.1.0",
    }


def _device(record: Record | None) -> str:
    return str(record.provenance.identity.get("device", {}).get("name", "unknown")) if record else "unknown"


def _seconds(unit: str, values: list[float]) -> list[float]:
    if unit.endswith("/s"):
        return [1 / value for value in values if value > 0]
    return [value / 1000 for value in values] if unit == "ms" else []


def _stats(seconds: list[float]) -> dict[str, Any]:
    """The figures that pytest-benchmark writes for its rounds; here a round is a trial."""
    ordered = sorted(seconds)
    low, middle, high = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
    spread, mean = statistics.stdev(ordered) if len(ordered) > 1 else 0.0, statistics.fmean(ordered)
    outliers = {"iqr_outliers": 0, "stddev_outliers": 0, "outliers": "0;0", "ld15iqr": ordered[0], "hd15iqr": ordered[-1]}
    return outliers | {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": mean,
        "stddev": spread,
        "rounds": len(ordered),
        "median": middle,
        "iqr": high - low,
        "q1": low,
        "q3": high,
        "ops": 1 / mean if mean else 0.0,
        "total": sum(ordered),
        "iterations": 1,
    }
