"""The tables of a Run, in the order they are shown. Others take `tables`, `of`, `chosen` and `markdown`.

A new table is one function in a file, and its entry in TABLES.
"""

from __future__ import annotations

from rich.console import Console

from harness.compare import tune
from harness.record.folder import RunFolder
from harness.record.records import computed_otherwise
from harness.util.errors import Fault, Refused
from reports.formats import markdown as markdown_format
from reports.languages import Words
from reports.run_data import RunData
from reports.table import OTHERWISE, RANDOM, Table
from reports.tables import speed, summary, variants
from reports.tables.answers import accuracy, divergence, scores
from reports.tables.others import others


def tables(run: RunFolder) -> list[Table]:
    """All tables of a Run, those with rows or notes only."""
    return of(RunData.of(run))


def of(source: RunData) -> list[Table]:
    """`tables` of a Run that was read already. A new table is one function and one line here."""
    made = [
        summary.summary(source),
        accuracy(source.accuracy, source.faults["accuracy"], source.baseline),
        divergence(source.divergence, source.faults["divergence"]),
        scores(source.records),
        speed.glance([*source.speed, *source.settings[0]]),
        speed.against(source.speed, source.faults["speed"]),
        speed.against(*source.settings, title="Settings against the first"),
        speed.tuned(tune.winners(source.settings[0], source.facts.settings)),
        *speed.speed(source.records),
        speed.memory(source.records),
        others(source.records),
        variants.storage(source.facts),
        variants.structure(source.facts),
        variants.engines(source.records, source.facts),
    ]
    shown = [table for table in made if len(table.frame) or table.notes]
    for table in shown if source.random_weights else []:
        table.notes.insert(0, RANDOM)
    otherwise = [
        OTHERWISE.format(variant=name, computed=computed, asked=asked)
        for name, (asked, computed) in computed_otherwise(source.records).items()
    ]
    for table in shown:
        table.notes[:0] = [*source.taken(), *otherwise]
    return shown


def chosen(run: RunFolder, name: str | None = None, language: str = "en") -> list[Table]:
    """All tables in a language, or the one called `name` (its title, or `summary` for Summary); raises Refused for another."""
    made = tables(run)
    if name is not None:
        found = [table for table in made if name in (table.slug, table.title)]
        known = [table.slug for table in made]
        Refused.if_any(
            [] if found else [Fault("--table", f"there is no table {name!r} here", f"there are: {', '.join(known)}")]
        )
        made = found
    return [Words(language).table(table) for table in made]


def markdown(run: RunFolder) -> str:
    """The Run's report.md."""
    source = RunData.of(run)
    return f"## {source.name}: {source.model}\n\n" + markdown_format.write(of(source))


def show(run: RunFolder, console: Console) -> None:
    """Print all tables."""
    for table in tables(run):
        console.print(table.rich())
