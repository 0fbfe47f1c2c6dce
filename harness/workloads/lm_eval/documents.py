"""A task's documents, each reachable whatever becomes of the others: one damaged picture takes no task down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.util import pictures


class Documents:
    """The documents of one task in lm-eval's order, as lm-eval's own sequence is."""

    def __init__(self, rows: Any):
        self._rows = rows if hasattr(rows, "__getitem__") and hasattr(rows, "__len__") else list(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = self._rows[index]
        return row

    def stored(self, index: int) -> dict[str, Any]:
        """A document as it is stored, its pictures not decoded: quick, and never refused."""
        if not hasattr(self._rows, "with_format"):
            row: dict[str, Any] = self._rows[index]
            return row
        found: dict[str, Any] = self._rows.with_format("arrow")[index].to_pylist()[0]
        return found


def forgive() -> None:
    """Let a picture that cannot be decoded come as it is stored, {"bytes": ..., "path": ...}, from every data set that is
    read in this process: its document's other fields can be read, and whoever wants the picture is told why there is none.
    """
    import datasets

    decode = datasets.Image.decode_example
    if getattr(decode, "forgives", False):
        return

    def decode_or_keep(self: Any, value: Any, *more: Any, **named: Any) -> Any:
        try:
            return decode(self, value, *more, **named)
        except Exception:  # Pillow raises a dozen kinds for a damaged file
            return value

    decode_or_keep.forgives = True  # type: ignore[attr-defined]
    datasets.Image.decode_example = decode_or_keep


def shown(value: Any, folder: Path | None) -> list[Any]:
    """The pictures of what a task's `doc_to_image` gave, in their order, as they are sent.

    value: one picture or a list of them, lists in lists too; None for none. Raises ValueError with the reason, in words that
    follow a document's name.
    """
    flat = list(_flat(value)) if value is not None else []
    found = []
    for number, one in enumerate(flat, 1):
        try:
            found.append(pictures.opened(one, folder))
        except ValueError as error:
            raise ValueError(f"its picture {number if len(flat) > 1 else ''}".rstrip() + f" {error}") from None
    return found


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for one in value:
            yield from _flat(one)
    else:
        yield value
