"""The base of every model that people write or that is kept: unknown keys are errors, values do not change."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

LARGEST = 2**63 - 1
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

    @model_validator(mode="before")
    @classmethod
    def _no_slips(cls, data: Any) -> Any:
        """What pydantic would take for something that nobody meant: truth values as numbers, numbers that no machine word
        holds, an empty text as the folder one is in."""
        if not isinstance(data, dict):
            return data
        for name, field in cls.model_fields.items():
            value, kinds = data.get(name), _kinds(cast("Any", field.annotation))
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, bool) and not kinds & {bool, Any} and kinds & {int, float}:
                    raise ValueError(f"{name} is {str(one).lower()}, which is no number: YAML reads yes, no, on and off so")
                if isinstance(one, int) and not isinstance(one, bool) and abs(one) > LARGEST and kinds & {int, float}:
                    raise ValueError(f"{name} is {one}, a number too large for anything here")
                if one == "" and Path in kinds:
                    raise ValueError(f"{name} is empty: name a file or a folder")
        return data


@cache
def _kinds(annotation: Any) -> frozenset[Any]:
    """The plain types that an annotation is made of."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return frozenset({type(value) for value in inner})
    return frozenset().union(*map(_kinds, inner)) if inner else frozenset({annotation})
