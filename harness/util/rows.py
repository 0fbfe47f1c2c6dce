"""Rows of files that people and tools write: JSON lines, JSON, CSV, TSV, parquet. Whatever reads rows reads them here.

A line ends at a line feed and nowhere else: U+2028, U+2029 and U+0085 may stand raw inside a JSON string, where
`str.splitlines` would cut it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.util.errors import Fault, Refused

ENDINGS = (".jsonl", ".parquet", ".json")


def objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of a file by its ending, numbers from 1: lines of a .jsonl, entries of a .json list, rows of a parquet
    file, or of a .csv or .tsv below its line of names. Raises Refused with the row's number for what is none."""
    readers = {".parquet": parquet, ".json": json_list, ".csv": table, ".tsv": table}
    for number, row in readers.get(path.suffix, json_lines)(path):
        if not isinstance(row, dict):
            raise Refused(Fault(f"{path}:{number}", f"is {_kind(row)}, no JSON object", "one object a row"))
        yield number, row


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of each line that is not blank; raises Refused with the line for what is no JSON."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, parsed(line, f"{path}:{number}")
    except OSError as error:
        raise Refused(Fault(str(path), f"cannot be read: {error.strerror or error}")) from None


def json_list(path: Path) -> Iterator[tuple[int, Any]]:
    """(place from 1, value) of each entry of a JSON file that holds one list."""
    value = parsed(read(path).removeprefix(b"\xef\xbb\xbf"), str(path))
    if not isinstance(value, list):
        raise Refused(Fault(str(path), f"holds {_kind(value)}", "a list of rows, or one row a line in a .jsonl file"))
    yield from enumerate(value, 1)


def table(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, row) of a .csv or .tsv file whose first line names the columns; an empty cell is left out. Raises
    Refused with the line for what is no such row."""
    # A cell may hold a whole picture in base64.
    csv.field_size_limit(2**31 - 1)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
            for number, row in enumerate(rows, 1):
                if None in row:
                    what = f"has {len(rows.fieldnames or ()) + len(row[None])} cells, and the first line names "
                    raise Refused(Fault(f"{path}:{rows.line_num}", f"{what}{len(rows.fieldnames or ())} columns"))
                yield number, {name: cell for name, cell in row.items() if cell not in (None, "")}
    except (csv.Error, UnicodeDecodeError) as error:
        raise Refused(
            Fault(str(path), f"is no readable {path.suffix[1:]} file: {error}", "UTF-8, quoted as RFC 4180 says")
        ) from None
    except OSError as error:
        raise Refused(Fault(str(path), f"cannot be read: {error.strerror or error}")) from None


def parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, row) of a parquet file, group by group; raises Refused for one that is damaged."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as opened:
            number = 0
            for group in range(opened.num_row_groups):
                for row in opened.read_row_group(group).to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise Refused(Fault(str(path), f"is no readable parquet file: {str(error).splitlines()[0][:200]}")) from None


def read(path: Path) -> bytes:
    """A file's bytes; raises Refused."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(Fault(str(path), f"cannot be read: {error.strerror or error}")) from None


def parsed(data: bytes, where: str) -> Any:
    """A JSON value; raises Refused, with what is wrong at which place, for anything else.

    Half of a surrogate pair is JSON by its grammar and no text: no file and no request could hold it.
    """
    try:
        text = data.decode("utf-8")
        value = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(Fault(where, f"is not UTF-8 text: byte {error.start} is {data[error.start]:#04x}")) from None
    except UnicodeEncodeError:
        raise Refused(Fault(where, "holds half of a surrogate pair (\\ud800 to \\udfff), which is no text")) from None
    except RecursionError:
        raise Refused(Fault(where, "is nested too deeply")) from None
    except ValueError as error:
        raise Refused(Fault(where, f"is not JSON: {error}")) from None
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number"}
    return names.get(type(value), "null")
