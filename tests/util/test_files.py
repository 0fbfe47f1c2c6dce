"""Files are whole or absent."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from harness.util import files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"v": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(path, {"v": 2})
    assert path.read_text() == '{\n "v": 1\n}\n'
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path):
    with files.new_folder(tmp_path / "done") as folder:
        (folder / "x").write_text("x")
        assert not (tmp_path / "done").exists()
    with pytest.raises(RuntimeError), files.new_folder(tmp_path / "failed"):
        raise RuntimeError
    assert os.listdir(tmp_path) == ["done"]


def test_hashes_of_files_make_the_folders_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PIECE", 7)
    contents = {"b": b"x" * 20, "a.json": b"", "skipped": b"1"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    found = files.files_sha256(tmp_path, skip=("skipped",))
    assert found == {name: hashlib.sha256(contents[name]).hexdigest() for name in ("a.json", "b")}
    lines = "".join(f"{name}\0{sha}\n" for name, sha in found.items())
    assert files.folder_sha256(tmp_path, skip=("skipped",)) == hashlib.sha256(lines.encode()).hexdigest()
    assert files.joined_sha256(dict(reversed(found.items()))) == files.folder_sha256(tmp_path, skip=("skipped",))


def test_digest_does_not_depend_on_key_order():
    assert files.digest({"a": 1, "b": [2]}) == files.digest({"b": [2], "a": 1}) != files.digest({"a": 1, "b": [3]})


def test_the_lock_names_its_holder_and_falls_with_it(tmp_path):
    path = tmp_path / "lock"
    code = (
        f"import sys; from harness.util import files; from pathlib import Path\nwith files.lock(Path({str(path)!r})): "
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(files.Locked) as caught, files.lock(path):
        pass
    assert caught.value.holder == str(holder.pid)
    holder.kill()
    holder.wait()
    with files.lock(path):
        pass


def test_a_lock_that_another_process_holds_is_seen_and_none_is_made(tmp_path):
    place = tmp_path / "lock"
    assert not files.held(place) and not place.exists()
    code = f"import fcntl; f = open({str(place)!r}, 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('has it', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"has it\n" and files.held(place)
        other.communicate(b"\n")
    assert not files.held(place)
