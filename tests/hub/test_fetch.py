"""Fetching, with the real clients of both hubs against a hub on the loopback interface."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import hub
from harness.checkpoints.locate import resolve_model
from harness.cli import main
from harness.hub import base, modelscope
from harness.hub import fetch as fetching
from harness.util import files
from harness.util.errors import CellFailed, Refused
from tests.helpers.fetched import FIRST, NAME, NEEDED, SECOND, TOKEN, environment, get, held_by, partial, repository
from tests.helpers.hub_server import HubServer, serving
from tests.helpers.records import ROOT

SOURCES = pytest.mark.parametrize("source", ["modelscope", "huggingface"])


@pytest.fixture
def model(tmp_path: Path) -> dict[str, bytes]:
    return repository(tmp_path)


@pytest.fixture
def server(tmp_path: Path, model: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    modelscope.client()  # sets what the client reads when it is imported
    from modelscope_hub import _download, _legacy_api

    monkeypatch.chdir(tmp_path)
    with serving(HubServer({f"models/{NAME}": model})) as held:
        for name, value in environment(tmp_path, held).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(base, "PAUSES", (0.01, 0.01))
        monkeypatch.setattr(_download, "DOWNLOAD_INTEGRITY_RETRY_BACKOFF", 0.01)
        monkeypatch.setattr(_legacy_api, "REPO_TREE_PAGE_MAX_ATTEMPTS", 1)
        yield held


@pytest.fixture(autouse=True)
def no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODELSCOPE_API_TOKEN", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@SOURCES
def test_what_is_needed_arrives_and_nothing_else(server, model, source, capfd):
    folder = get(source)
    assert folder == Path("models") / NAME
    assert held_by(folder) == NEEDED
    assert all((folder / p).read_bytes() == model[p] for p in NEEDED)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    assert [p.name for p in (folder / ".fetch").iterdir()] == ["record.json"]
    assert not Path("state").exists()
    told = capfd.readouterr()
    assert "11 files" in told.err and "is complete" in told.err and told.out == ""


@SOURCES
def test_a_second_fetch_says_that_all_is_there(server, source, capfd):
    folder = get(source)
    before = len(server.fetched())
    capfd.readouterr()
    get(source)
    assert "nothing to fetch" in capfd.readouterr().err
    assert len(server.fetched()) == before
    server.repos[f"models/{NAME}"]["README.md"] = b"# changed"
    get(source)
    assert (folder / "README.md").read_bytes() == b"# changed" and len(server.fetched()) == before


@SOURCES
def test_only_what_is_missing_or_differs_is_fetched(server, model, source):
    folder = get(source)
    shutil.rmtree(folder / ".fetch")  # as another program would have fetched it
    server.asked.clear()
    (folder / FIRST).write_bytes(bytes(len(model[FIRST])))  # the right size, another content
    (folder / "config.json").unlink()
    get(source)
    assert server.fetched() == [FIRST]
    assert (folder / FIRST).read_bytes() == model[FIRST] and held_by(folder) == NEEDED


@SOURCES
def test_a_cut_connection_goes_on_where_it_broke(server, model, source, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # 10 MB: less than that is not kept
    server.cut = {SECOND: 5000}
    folder = get(source)
    assert (folder / SECOND).read_bytes() == model[SECOND]
    assert server.fetched().count(SECOND) == 1 and f"{SECOND}@5000" in server.fetched()


def test_a_killed_fetch_goes_on(server, model, tmp_path):
    server.stall = {SECOND: 6000}
    command = [sys.executable, "-m", "harness", "fetch", "model", NAME]
    process = subprocess.Popen(command, cwd=tmp_path, env=dict(os.environ, PYTHONPATH=str(ROOT)), stderr=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while not (partial(tmp_path).is_file() and partial(tmp_path).stat().st_size == 6000):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not Path("models", NAME).exists()
    server.asked.clear()
    folder = get()
    assert server.fetched() == [f"{SECOND}@6000"]
    assert (folder / SECOND).read_bytes() == model[SECOND]
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_without_hashes_a_part_is_not_trusted(server, model, tmp_path):
    server.hashes = False
    partial(tmp_path).parent.mkdir(parents=True)
    partial(tmp_path).write_bytes(bytes(6000))
    assert (get() / SECOND).read_bytes() == model[SECOND]
    assert f"{SECOND}@6000" not in server.fetched()


def test_a_stale_part_is_thrown_away(server, model, tmp_path):
    partial(tmp_path).parent.mkdir(parents=True)
    partial(tmp_path).write_bytes(bytes(6000))
    assert (get() / SECOND).read_bytes() == model[SECOND]


@SOURCES
def test_a_missing_shard_is_told_before_any_weight_is_fetched(server, source):
    del server.repos[f"models/{NAME}"][SECOND]
    with pytest.raises(CellFailed, match=f"is not whole: {fetching.INDEX} names {SECOND}"):
        get(source)
    assert server.fetched() == [] and not Path("models", NAME).exists()


@pytest.mark.parametrize(("content", "told"), [(b"\xff" * 99, "not a whole safetensors file"), (None, "lacks b.weight")])
def test_a_shard_that_cannot_be_read_fails_the_fetch(server, model, content, told):
    server.repos[f"models/{NAME}"][SECOND] = content or model[FIRST]
    with pytest.raises(CellFailed, match=told):
        get()
    assert not Path("models", NAME).exists()


@SOURCES
def test_forged_bytes_never_get_the_file_s_name(server, source):
    server.forged = {FIRST}
    with pytest.raises(CellFailed, match=f"what arrives of {FIRST} is not what the hub lists"):
        get(source)
    assert not list(Path("models").rglob(FIRST))


@SOURCES
@pytest.mark.parametrize(
    ("name", "revision", "told"), [("Qwen/Nothing", None, "there is no such model"), (NAME, "v9", "there is no revision v9")]
)
def test_what_the_hub_does_not_hold_is_refused(server, source, name, revision, told):
    with pytest.raises(Refused, match=told):
        get(source, name, revision)
    assert not Path("models").exists()


def test_the_revisions_there_are_are_named(server):
    with pytest.raises(Refused, match=r"it has v1\.0, master"):
        get(revision="main")


@SOURCES
@pytest.mark.parametrize(("given", "told"), [(TOKEN, "is wrong or has run out"), (None, "token")])
def test_a_wrong_token_or_none_is_refused(server, source, given, told, monkeypatch):
    server.token = "another"
    variable = "MODELSCOPE_API_TOKEN" if source == "modelscope" else "HF_TOKEN"
    if given:
        monkeypatch.setenv(variable, given)
    with pytest.raises(Refused, match=told) as refused:
        get(source)
    assert variable in str(refused.value) and TOKEN not in str(refused.value) and "\n" not in str(refused.value)
    assert not Path("models").exists()


@SOURCES
@pytest.mark.parametrize("status", [401, 403])
def test_files_that_may_not_be_read_are_refused(server, source, status):
    server.denied = status
    with pytest.raises(Refused, match="token"):
        get(source)
    assert not Path("models", NAME).exists()


@SOURCES
def test_the_token_goes_to_the_hub_alone(server, source, monkeypatch, capfd, tmp_path):
    server.token = TOKEN
    monkeypatch.setenv("MODELSCOPE_API_TOKEN" if source == "modelscope" else "HF_TOKEN", TOKEN)
    get(source)
    server.repos.clear()
    with pytest.raises(Refused) as refused:
        get(source)
    told = capfd.readouterr()
    assert TOKEN not in told.out + told.err + str(refused.value)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    cdn = [one for one in server.asked if one.path.startswith("/cdn/")]
    assert cdn and not any(one.secrets for one in cdn)
    assert any(TOKEN in one.secrets for one in server.asked)


@SOURCES
def test_a_hub_that_is_down_fails_in_one_line(server, source, monkeypatch):
    for name in ("MODELSCOPE_ENDPOINT", "HF_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(hub.Unreachable, match=r"^127\.0\.0\.1:9 cannot be reached \(Connection refused\)$"):
        get(source)
    assert time.monotonic() - began < 5 and not Path("models").exists()


@SOURCES
def test_a_complete_folder_outlives_its_hub(server, source, monkeypatch, capfd):
    folder = get(source)
    for name in ("MODELSCOPE_ENDPOINT", "HF_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert get(source) == folder
    assert "whether the hub has changed since is not known" in capfd.readouterr().err
    (folder / FIRST).unlink()
    with pytest.raises(hub.Unreachable):
        get(source)


def test_a_hub_that_fails_midway_is_given_up_once(server, monkeypatch):
    server.denied = 503
    with pytest.raises(hub.Unreachable, match="answers with status 503; what has arrived stays"):
        get()
    asked = [one for one in server.asked if "FilePath" in one.path]
    assert len(asked) <= fetching.WORKERS * (len(base.PAUSES) + 1)


def test_no_room_is_refused_before_anything_is_written(server, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(Refused, match=r"are needed and 0\.0 MiB are free"):
        get()
    assert not Path("models").exists()


def test_a_disk_that_fills_up_fails_in_one_line(server, tmp_path):
    partial(tmp_path).parent.mkdir(parents=True)
    partial(tmp_path).symlink_to("/dev/full")  # takes no byte: the kernel says that the disk is full
    with pytest.raises(CellFailed, match=r"cannot write .*No space left on device; what has arrived stays"):
        get()


@pytest.mark.parametrize("name", ["Qwen", "Qwen/a/b", "../x/y", "Qwen/..", "/a/b", "a b/c", "", "Qwen/"])
def test_a_malformed_name_is_refused_without_a_question(server, name):
    with pytest.raises(Refused, match="write OWNER/NAME"):
        get(name=name)
    assert server.asked == []


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        (["pytorch_model.bin", "config.json"], r"holds no \.safetensors file"),
        (["model.safetensors"], r"holds no config\.json"),
        (["../config.json"], "outside itself"),
    ],
)
def test_a_repository_that_is_no_checkpoint_is_refused(listed, told):
    with pytest.raises(Refused, match=told):
        fetching.needed(hub.Repo("model", NAME, "master"), [hub.RemoteFile(p, 1) for p in listed])


@SOURCES
def test_a_data_set_brings_its_tables(server, source):
    server.repos["datasets/o/calibration"] = {
        "llm.parquet": b"PAR1" + bytes(300) + b"PAR1",
        "data/part.jsonl": b"{}\n",
        "data/x.json": b"{}",
        "README.md": b"# d",
        "script.py": b"x",
        ".gitattributes": b"*",
    }
    folder = get(source, "o/calibration", kind="dataset")
    assert folder == Path("data/o/calibration")
    assert held_by(folder) == {"llm.parquet", "data/part.jsonl", "data/x.json", "README.md"}
    server.repos["datasets/o/calibration"]["llm.parquet"] = b"PAR1" + bytes(299)
    with pytest.raises(CellFailed, match="is no whole parquet file"):
        get(source, "o/calibration", output=Path("d"), kind="dataset")


def test_two_fetches_of_one_folder_do_not_mix(server):
    held = Path("models/Qwen/.Tiny-VL.fetch/.fetch/lock")
    with files.lock(held), pytest.raises(Refused, match=f"is being fetched by process {os.getpid()}"):
        get()


def test_the_command_prints_the_folder_and_no_hub_is_asked_afterwards(server, checkpoint, capfd, monkeypatch):
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)
    server.repos["models/o/T"] = {p.name: p.read_bytes() for p in checkpoint.iterdir() if p.is_file()}
    assert main.main(["fetch", "model", "o/T"]) == 0
    assert capfd.readouterr().out == "models/o/T\n"
    server.asked.clear()
    assert resolve_model("o/T") == Path("models/o/T") and server.asked == []
    assert main.main(["fetch", "model", "o/none", "--output", "elsewhere"]) == 2
    told = capfd.readouterr()
    assert told.out == "" and told.err.splitlines()[-1].startswith("refused: model o/none at 127.0.0.1")
    server.denied = 503
    assert main.main(["fetch", "model", NAME]) == 1
    assert capfd.readouterr().err.splitlines()[-1].startswith("failed: 127.0.0.1")


def test_a_folder_that_is_there_is_completed_in_its_place(server, model):
    given = Path("given")
    given.mkdir()
    (given / FIRST).write_bytes(model[FIRST])
    (given / "notes.md").write_text("mine")
    assert get(output=given) == given
    assert server.fetched() == [SECOND] and held_by(given) == NEEDED | {"notes.md"}
    with pytest.raises(Refused, match="is a file"):
        get(output=given / "notes.md")


def test_what_no_fetch_brought_is_not_written_over(server):
    Path("README.md").write_text("mine")
    with pytest.raises(Refused, match=r"^README\.md: is there and is not the hub's; name another folder"):
        get(output=Path())
    assert Path("README.md").read_text() == "mine" and not Path(".fetch").exists()
    server.repos["models/o/other"] = server.repos[f"models/{NAME}"] | {"README.md": b"another"}
    get(output=Path("given"))
    with pytest.raises(Refused, match=f"given: holds {NAME}"):
        get(name="o/other", output=Path("given"))
