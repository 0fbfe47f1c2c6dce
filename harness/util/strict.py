"""The base of every model that people write or that is kept: unknown keys are errors, values do not change."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

LONGEST_NAME = 160
"""Bytes: a file's name may have 255, and a setting, a hash and an ending follow."""


def _safe_name(name: str) -> str:
    if not name or name.startswith(".") or any(c in '/\\"' or not c.isprintable() for c in name) or name != name.strip():
        raise ValueError("a name is used for files: no slash, quote, tab, line break or leading dot")
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"a name is used for files: {LONGEST_NAME} bytes at most, this one has {len(name.encode())}")
    return name


Name = Annotated[str, AfterValidator(_safe_name)]


class Strict(BaseModel):
    """Refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)
