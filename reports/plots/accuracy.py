"""Plots of accuracy: recovery with intervals, the grid of recipes, answers that changed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from harness.compare.answers import Comparison
from harness.compare.sequential import ALPHA
from reports.plots.plot import FEW, GREYED, PALETTE, Plot, Rows, chart, tips, variant_colour
from reports.run_data import RunData
from reports.tables.summary import lines


def _compared(source: RunData) -> tuple[list[Comparison], list[str]]:
    """The comparisons that are drawn, tasks and totals or totals alone, and their candidates."""
    names = list(dict.fromkeys(c.candidate for c in source.accuracy))
    known = [c for c in source.accuracy if c.recovery.value == c.recovery.value]
    if len(names) > FEW:
        known = [c for c in known if c is source.overall(c.candidate)]
    return known, names


def forest(source: RunData) -> Iterator[Plot]:
    """Recovery with its interval, by task and in total."""
    found, names = _compared(source)
    if not found or source.random_weights:
        return
    many = len(names) > FEW
    rows: Rows = [
        {
            "variant": c.candidate,
            "task": c.task,
            "recovery": 100 * c.recovery.value,
            "low": 100 * c.recovery.low,
            "high": 100 * c.recovery.high,
            "n": c.n,
            "verdict": c.verdict,
            "total": c.total,
        }
        for c in found
    ]
    rows.sort(key=lambda row: (not row["total"], -row["recovery"] if many else 0))
    columns = {
        "variant": "variant",
        "task": "task",
        "recovery": "recovery %",
        "low": "low",
        "high": "high",
        "n": "n",
        "verdict": "verdict",
    }
    field = "variant" if many else "task"
    order = list(dict.fromkeys(row[field] for row in rows))
    y: dict[str, Any] = {"field": field, "type": "nominal", "sort": order, "title": None, "axis": {"labelLimit": 220}}
    place = {"y": y} | ({} if many else {"yOffset": {"field": "variant", "type": "nominal", "sort": names}})
    colour = {"value": PALETTE[1]} if many else variant_colour(source, names)
    x = {"field": "recovery", "type": "quantitative", "scale": {"zero": False}, "title": "recovery %"}
    x |= {"axis": {"orient": "top" if many else "bottom"}}
    bold = {"condition": {"test": "datum.total", "value": 4}, "value": 2}
    layers = [
        {"mark": {"type": "rule", "strokeDash": [4, 4], "color": GREYED}, "encoding": {"x": {"datum": 100}}},
        {
            "mark": {"type": "rule"},
            "encoding": place
            | {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "color": colour, "size": bold, "tooltip": tips(columns)},
        },
        {
            "mark": {"type": "point", "filled": True, "opacity": 1},
            "encoding": place
            | {
                "x": x,
                "color": colour,
                "size": {"condition": {"test": "datum.total", "value": 130}, "value": 70},
                "shape": {"condition": {"test": "datum.total", "value": "diamond"}, "value": "circle"},
                "tooltip": tips(columns),
            },
        },
    ]
    height = len(order) * (16 if many else 16 * len(names) + 10)
    caption = (
        "The share of the baseline's score that is left, with its 95 % interval. An interval that reaches the dashed line at "
        "100 does not show a loss; one that reaches far below it does not rule one out."
    )
    yield Plot("recovery", "Recovery", caption, chart(rows, height, layer=layers), rows, columns)


def heat(source: RunData) -> Iterator[Plot]:
    """Recovery by group size and observer, where a grid of recipes was measured."""
    rows: Rows = []
    for line in lines(source):
        made = source.facts.variant(line.name).recipe or {}
        if source.random_weights or line.recovery is None or made.get("group_size") is None or not made.get("observer"):
            continue
        kind = [made.get("method"), f"INT{made.get('num_bits')}", "symmetric" if made.get("symmetric") else "asymmetric"]
        size = made["group_size"]
        rows.append(
            {
                "variant": line.name,
                "group": "per channel" if size == -1 else str(size),
                "size": 10**9 if size == -1 else size,
                "observer": made["observer"],
                "kind": ", ".join(map(str, kind)),
                "recovery": 100 * line.recovery.value,
                "low": 100 * line.recovery.low,
                "high": 100 * line.recovery.high,
                "shown": f"{100 * line.recovery.value:.2f}",
            }
        )
    if len({(row["group"], row["observer"]) for row in rows}) < 2:
        return
    several = len({row["kind"] for row in rows}) > 1
    for row in rows:
        row["label"] = f"{row['observer']} ({row['kind']})" if several else row["observer"]
    columns = {
        "variant": "variant",
        "group": "group size",
        "label": "observer",
        "recovery": "recovery %",
        "low": "low",
        "high": "high",
    }
    groups = [group for _, group in sorted({(row["size"], row["group"]) for row in rows})]
    middle = (min(row["recovery"] for row in rows) + max(row["recovery"] for row in rows)) / 2
    encoding = {
        "x": {"field": "group", "type": "nominal", "sort": groups, "title": "group size", "axis": {"labelAngle": 0}},
        "y": {"field": "label", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 220}},
    }
    colour = {
        "field": "recovery",
        "type": "quantitative",
        "scale": {"scheme": "blues", "zero": False},
        "legend": {"title": "recovery %", "orient": "top", "gradientLength": 160},
    }
    contrast = {"condition": {"test": f"datum.recovery > {middle}", "value": "white"}, "value": "#12263a"}
    layers = [
        {"mark": {"type": "rect"}, "encoding": {"color": colour, "tooltip": tips(columns)}},
        {"mark": {"type": "text", "fontSize": 12}, "encoding": {"text": {"field": "shown"}, "color": contrast}},
    ]
    caption = "Recovery of each recipe of the grid. Cells whose intervals overlap (in the table of figures) are not told apart."
    spec = chart(rows, 44 * len({row["label"] for row in rows}), encoding=encoding, layer=layers)
    yield Plot("heat", "Group size and observer", caption, spec, rows, columns)


def changes(source: RunData) -> Iterator[Plot]:
    """How many answers changed, and to what, by task."""
    found, names = _compared(source)
    if not found or source.random_weights:
        return
    rows: Rows = []
    for c in sorted(found, key=lambda c: not c.total):
        label = c.candidate if len(names) > FEW else f"{c.task} · {c.candidate}" if len(names) > 1 else c.task
        kinds = {"lost": c.lost, "gained": c.gained, "changed, score alike": max(c.flips - c.lost - c.gained, 0)}
        for order, (kind, count) in enumerate(kinds.items()):
            rows.append(
                {"label": label, "variant": c.candidate, "task": c.task, "kind": kind, "count": count, "order": order}
                | {"share": 100 * count / c.n}
            )
    columns = {"variant": "variant", "task": "task", "kind": "kind", "count": "questions", "share": "of all %"}
    encoding = {
        "y": {"field": "label", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 260}},
        "x": {"field": "share", "type": "quantitative", "title": "questions %", "stack": "zero"},
        "color": {
            "field": "kind",
            "type": "nominal",
            "scale": {"domain": ["lost", "gained", "changed, score alike"], "range": ["#d1493f", "#17a07a", "#b7bcc2"]},
            "legend": {"orient": "top", "title": None},
        },
        "order": {"field": "order", "type": "quantitative"},
        "tooltip": tips(columns),
    }
    caption = "Lost: right before, wrong now. Gained: the reverse. The rest changed its words but not its score."
    spec = chart(rows, 24 * len({row["label"] for row in rows}), mark={"type": "bar"}, encoding=encoding)
    yield Plot("changes", "Answer changes by task", caption, spec, rows, columns)


def bets(source: RunData) -> Iterator[Plot]:
    """How the evidence for a verdict grew, question after question."""
    found = [one for one in source.early if not one.noise]
    if not found or len(found) > FEW:
        return
    rows: Rows = [
        {"variant": one.candidate, "asked": asked, "capital": capital, "for": claim}
        for one in found
        for claim, capitals in (("kept", one.above), ("lost", one.below))
        for asked, capital in zip(one.asked, capitals, strict=True)
        if claim == "kept" or max(capitals) > 0.5
    ]
    names = [one.candidate for one in found]
    enough = -math.log10(ALPHA)
    decided = {one.candidate: f"{one.early.outcome} after {one.early.questions}" for one in found if one.early.outcome}
    columns = {"variant": "variant", "recovery": "recovery to keep %", "decided": "verdict", "questions": "questions"}
    figures: Rows = [
        {
            "variant": one.candidate,
            "recovery": 100 * one.limit,
            "decided": decided.get(one.candidate, "not decided"),
            "questions": one.questions,
        }
        for one in found
    ]
    dash = {"field": "for", "type": "nominal", "scale": {"domain": ["kept", "lost"], "range": [[1, 0], [5, 4]]}}
    layers = [
        {"mark": {"type": "rule", "strokeDash": [4, 4], "color": GREYED}, "encoding": {"y": {"datum": enough}}},
        {
            "mark": {"type": "line", "interpolate": "step-after", "clip": True},
            "encoding": {
                "x": {"field": "asked", "type": "quantitative", "title": "questions asked"},
                "y": {
                    "field": "capital",
                    "type": "quantitative",
                    "title": "evidence, powers of 10",
                    "scale": {"domain": [-2, max(enough + 1, 3)]},
                },
                "color": variant_colour(source, names),
                "strokeDash": dash | {"legend": None},
                "tooltip": tips({"variant": "variant", "asked": "questions", "capital": "evidence", "for": "for"}),
            },
        },
    ]
    caption = (
        "What a bet on the recovery that the gate asks for grows to, were both arms asked in a random order; dashed, a bet "
        "against it. The first to reach the dashed grey line decides: one may stop there and be wrong in 1 % of Runs."
    )
    yield Plot("bets", "A verdict before the last question", caption, chart(rows, 260, layer=layers), figures, columns)
