"""Round to nearest: what a method that searches for scales must be better than."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from quantize.methods.base import Rounding, Sentence, Workbench, Written


class Rtn(Rounding):
    """Rounding alone."""

    tag = "rtn"

    method: Literal["rtn"] = "rtn"
    """Rounding alone."""

    def build(self, bench: Workbench, folder: Path) -> Written:
        return self.rounded(bench, folder)

    @classmethod
    def told(cls, recipe: Mapping[str, Any], search: Mapping[str, Any]) -> Iterable[Sentence]:
        return [("Observer {observer}.", {"observer": recipe["observer"]})]
