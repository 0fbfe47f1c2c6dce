"""The plots of a Run, in the order they are shown."""

from __future__ import annotations

from collections.abc import Iterator

from reports.plots.accuracy import bets, changes, forest, heat
from reports.plots.plot import Plot
from reports.plots.speed import memory, pareto, tradeoff
from reports.run_data import RunData


def plots(source: RunData) -> Iterator[Plot]:
    """All plots that the Run has figures for. A new plot is one function and one entry here."""
    for make in (forest, bets, changes, heat, tradeoff, memory, pareto):
        yield from make(source)
