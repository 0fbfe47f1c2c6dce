"""The one reader of rows: what is a row, and how a bad one is named."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.util import rows
from harness.util.errors import Refused

ROWS = [{"a": "one\u2028two\u2029three\u0085four"}, {"a": "\U0001f600"}]


@pytest.mark.parametrize("ending", rows.ENDINGS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, ending):
    path = tmp_path / f"data{ending}"
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=1)
    elif ending == ".json":
        path.write_text(json.dumps(ROWS))
    else:
        # A byte order mark, Windows line ends and blank lines are no rows.
        lines = "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
        path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert [row for _, row in rows.objects(path)] == ROWS


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl:2: is not JSON"),
        ("a.jsonl", b'{"a": "\xff"}', "a.jsonl:1: is not UTF-8 text: byte 7 is 0xff"),
        ("a.jsonl", b"[1]", "a.jsonl:1: is a list, no JSON object"),
        ("a.jsonl", b"null", "a.jsonl:1: is null, no JSON object"),
        ("a.jsonl", b'{"a": "\\uD800"}', "a.jsonl:1: holds half of a surrogate pair"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1: is nested too deeply"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "a.jsonl:1: is not JSON"),
        ("a.json", b'{"a": 1}', "a.json: holds an object; a list of rows"),
        ("a.json", b"[1]", "a.json:1: is a number, no JSON object"),
        ("a.parquet", b"PAR1xPAR1", "a.parquet: is no readable parquet file"),
        ("none.jsonl", None, "none.jsonl: cannot be read: No such file"),
    ],
)
def test_what_is_no_row_is_named(tmp_path, name, data, told):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(Refused) as refused:
        list(rows.objects(tmp_path / name))
    assert told in str(refused.value.faults[0])


def test_a_pair_of_surrogates_is_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": "\\ud83d\\ude00"}')
    assert [row for _, row in rows.objects(tmp_path / "a.jsonl")] == [{"a": "\U0001f600"}]
