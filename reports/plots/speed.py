"""Plots of what a variant wins: latency against throughput, memory, and accuracy against size and speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from harness.workloads.memory import Memory
from reports.plots.plot import GREYED, PALETTE, Plot, Rows, Spec, chart, tips, variant_colour
from reports.run_data import RunData
from reports.tables import speed
from reports.tables.summary import Line, lines

LATENCIES = {"mean_e2el_ms": "end to end ms", "mean_ttft_ms": "TTFT ms", "mean_tpot_ms": "TPOT ms"}
PARTS = {"weights_gib": "weights", "kv_cache_gib": "KV cache", "graphs_gib": "graphs", "other_gib": "rest"}


def tradeoff(source: RunData) -> Iterator[Plot]:
    """Latency against throughput as more is asked at once, a plot for each load."""
    rows: Rows = []
    for (variant, _), trials in speed.points(source.records).items():
        point = trials[0].cell.point
        level = f"{point['concurrency']}" if "concurrency" in point else f"{point['request_rate']:g}/s"
        figures = {key: speed.mean(trials, key)[0] for key in ("output_throughput", *LATENCIES)}
        if figures["output_throughput"] is None:
            continue
        row = {"variant": variant, "load": point["load"], "level": level, "order": float(level.rstrip("/s"))}
        rows.append(row | {key: mean.value if mean else None for key, mean in figures.items()} | {"trials": len(trials)})
    columns = {"variant": "variant", "level": "requests at once", "output_throughput": "output tokens/s"} | LATENCIES
    names = [name for name in source.variants if any(row["variant"] == name for row in rows)]
    for number, load in enumerate(dict.fromkeys(row["load"] for row in rows)):
        mine = sorted((row for row in rows if row["load"] == load), key=lambda row: row["order"])
        yield Plot(
            f"tradeoff-{number}",
            f"Latency against throughput: {load}",
            "One line a variant, one point a number of requests at once. Lower and further right is better.",
            _tradeoff(mine, variant_colour(source, names), columns),
            mine,
            columns,
        )


def _tradeoff(rows: Rows, colour: Spec, columns: dict[str, str]) -> Spec:
    x = {
        "field": "output_throughput",
        "type": "quantitative",
        "title": "output tokens/s",
        "scale": {"zero": False, "nice": True},
    }
    y = {"field": "latency", "type": "quantitative", "title": None, "scale": {"zero": False, "nice": True}}
    choice = {
        "name": "shown",
        "value": next(iter(LATENCIES)),
        "bind": {"input": "select", "options": list(LATENCIES), "labels": list(LATENCIES.values()), "name": "latency "},
    }
    pick = [
        {"fold": list(LATENCIES), "as": ["key", "latency"]},
        {"filter": "datum.key === shown && isValid(datum.latency)"},
    ]
    line = {"mark": {"type": "line", "strokeWidth": 2}, "encoding": {"order": {"field": "order", "type": "quantitative"}}}
    dots = {"mark": {"type": "point", "filled": True, "size": 70, "opacity": 1}, "encoding": {"tooltip": tips(columns)}}
    text = {
        "mark": {"type": "text", "dy": -11, "fontSize": 11},
        "encoding": {"text": {"field": "level"}},
    }
    encoding = {"x": x, "y": y, "color": colour}
    return chart(rows, 300, params=[choice], transform=pick, encoding=encoding, layer=[line, dots, text])


def memory(source: RunData) -> Iterator[Plot]:
    """What an engine's memory is spent on."""
    rows: Rows = []
    records = source.of_workload((Memory.name,))
    loads = len({r.cell.point["load"] for r in records})
    for r in records:
        for number, (key, part) in enumerate(PARTS.items()):
            metric = r.metrics.get(key)
            if metric is not None and metric.value is not None:
                label = f"{r.cell.variant} · {r.cell.point['load']}" if loads > 1 else r.cell.variant
                rows.append({"variant": label, "part": part, "gib": metric.value, "order": number})
    if not any(row["part"] == "weights" for row in rows):
        return
    columns = {"variant": "variant", "part": "part", "gib": "GiB"}
    parts = list(PARTS.values())
    encoding = {
        "y": {"field": "variant", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 220}},
        "x": {"field": "gib", "type": "quantitative", "title": "GiB", "stack": "zero"},
        "color": {
            "field": "part",
            "type": "nominal",
            "scale": {"domain": parts, "range": ["#1f83d6", "#8fc4ee", "#e0672e", "#b7bcc2"]},
            "legend": {"orient": "top", "title": None, "columns": 2},
        },
        "order": {"field": "order", "type": "quantitative"},
        "tooltip": tips(columns),
    }
    caption = (
        "vLLM fills the KV cache with what is left, so the whole says little: smaller weights (dark) become a larger cache "
        "(light). The rest is the device's peak less the parts named."
    )
    spec = chart(
        rows,
        30 * len({row["variant"] for row in rows}),
        mark={"type": "bar", "stroke": "white", "strokeWidth": 0.5},
        encoding=encoding,
    )
    yield Plot("memory", "Memory", caption, spec, rows, columns)


def dominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of (cost, gain) points another one beats: costs no more, gives no less, and is better in one of the two."""
    return [any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points) for cost, gain in points]


def pareto(source: RunData) -> Iterator[Plot]:
    """Accuracy against size and against speed; a variant that another one beats in both is grey."""
    found = [line for line in lines(source) if line.score is not None]
    axes: tuple[tuple[str, str, str, Callable[[Line], float | None], int], ...] = (
        ("size", "Accuracy against weights", "weights, GiB", lambda line: line.size_gib, 1),
        ("speed", "Accuracy against speed", "output tokens/s", lambda line: _rate(line), -1),
    )
    for name, title, unit, value, sign in axes:
        known = [(line, x) for line in found if (x := value(line)) is not None]
        if len(known) < 2 or len({x for _, x in known}) < 2:
            continue
        beaten = dominated([(sign * x, line.score or 0.0) for line, x in known])
        if name == "size" and max(x for _, x in known) < 0.1:
            known, unit = [(line, 1024 * x) for line, x in known], "weights, MiB"
        rows = [_pareto_row(line, x, worse) for (line, x), worse in zip(known, beaten, strict=True)]
        columns = {"variant": "variant", "x": unit, "accuracy": "accuracy %", "low": "low", "high": "high", "state": "state"}
        caption = "Upper left is better." if sign > 0 else "Upper right is better."
        caption += " Grey: another variant is at least as good in both. Bars: the 95 % interval of the recovery."
        yield Plot(f"pareto-{name}", title, caption, _pareto(rows, unit, columns), rows, columns)


def _rate(line: Line) -> float | None:
    best = line.saturated or line.single
    return best.value if best else None


def _pareto_row(line: Line, x: float, beaten: bool) -> dict[str, Any]:
    bounds: dict[str, float | None] = {"low": None, "high": None}
    if line.recovery is not None and line.comparison is not None:
        base = 100 * line.comparison.baseline_score
        bounds = {"low": base * line.recovery.low, "high": base * line.recovery.high}
    state = "dominated" if beaten else "not dominated"
    return {"variant": line.name, "x": x, "accuracy": 100 * (line.score or 0.0), "state": state} | bounds


def _pareto(rows: Rows, unit: str, columns: dict[str, str]) -> Spec:
    colour = {
        "field": "state",
        "type": "nominal",
        "scale": {"domain": ["not dominated", "dominated"], "range": [PALETTE[1], GREYED]},
        "legend": {"orient": "top", "title": None, "symbolType": "circle"},
    }
    x = {"field": "x", "type": "quantitative", "title": unit, "scale": {"zero": False, "padding": 24}}
    y = {"field": "accuracy", "type": "quantitative", "title": "accuracy %", "scale": {"zero": False, "padding": 12}}
    bars = {"mark": {"type": "rule", "opacity": 0.6}, "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}}}
    dots = {"mark": {"type": "point", "filled": True, "size": 110, "opacity": 1}, "encoding": {"tooltip": tips(columns)}}
    layers = [bars, dots] if any(row["low"] is not None for row in rows) else [dots]
    middle = (min(row["x"] for row in rows) + max(row["x"] for row in rows)) / 2
    side, away = ({"expr": f"datum.x > {middle} ? {one} : {other}"} for one, other in (("'right'", "'left'"), (-8, 8)))
    if len(rows) <= 12:
        layers.append(
            {
                "mark": {"type": "text", "align": side, "dx": away, "dy": -8, "fontSize": 11, "limit": 150},
                "encoding": {"text": {"field": "variant"}, "color": {"value": "black"}},
            }
        )
    return chart(rows, 260, encoding={"x": x, "y": y, "color": colour}, layer=layers)
