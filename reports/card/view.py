"""A Run with some of its variants alone: what one model's card is made from. Read, never written to."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from harness.record.folder import RunFolder
from harness.record.records import Record
from harness.record.run_facts import RunFacts
from harness.workloads import kind_of


class RunView(RunFolder):
    """A Run as if it had been made for `variants` alone, compared with `baseline`.

    publishable: leave out what no card may show as measured: Cells that failed or are invalid, and accuracy of random
    weights. A Cell without a Record stays, whosever it is: nothing says which variant it belongs to.
    """

    def __init__(self, path: Path, baseline: str, variants: tuple[str, ...], publishable: bool = False):
        super().__init__(path)
        self.baseline, self.variants, self.publishable = baseline, variants, publishable

    @cached_property
    def facts(self) -> RunFacts:
        """run.json of these variants."""
        whole = RunFolder(self.path).read()
        kept = {name: facts for name, facts in whole.variants.items() if name in self.variants}
        cells = [key for key in whole.cells if self._holds(super(RunView, self).record(key))]
        return whole.model_copy(update={"baseline": self.baseline, "variants": kept, "cells": cells})

    def find(self) -> RunFacts:
        return self.facts

    def record(self, key: str) -> Record | None:
        record = super().record(key)
        if record is None or record.imported_from is None or record.status != "done":
            return record
        name = Path(record.imported_from).name
        mark = f"imported from {name}"
        return record.model_copy(update={"reason": record.reason or mark, "labels": [*record.labels, mark]})

    def missing(self) -> int:
        """How many planned Cells have no Record that can be read."""
        return sum(self.record(key) is None for key in self.facts.cells)

    def left_out(self) -> Iterator[Record]:
        """The Records of these variants that are not publishable."""
        whole = RunView(self.path, self.baseline, self.variants)
        return (r for r in whole.records() if not _publishable(r))

    def _holds(self, record: Record | None) -> bool:
        if record is None:
            return True
        return record.cell.variant in self.variants and (not self.publishable or _publishable(record))


def _publishable(record: Record) -> bool:
    return record.status == "done" and not (record.random_weights and kind_of(record.cell.workload).trained_only)
