"""Round to nearest: what a method that searches for scales must be better than."""

from __future__ import annotations

from typing import Literal

from quantize.methods.base import Rounding


class Rtn(Rounding):
    """Rounding alone."""

    of_earlier_versions = True
    tag = "rtn"

    method: Literal["rtn"] = "rtn"
    """Rounding alone."""
