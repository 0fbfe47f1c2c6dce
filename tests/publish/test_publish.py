"""Publishing, with the real ModelScope client against a hub on the loopback interface."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from harness import cli, plan, publish
from harness.errors import CellFailed, Refused
from harness.hub import Unreachable, base, modelscope
from harness.progress import Reporter
from harness.publish import Request
from harness.store import RunFolder
from reports import card_text
from tests.conftest import ROOT, record, sample
from tests.hub_server import HubServer, serving
from tests.published import make_run
from tests.reports.test_card_text import CARD, block_of

REPO = "alice/Tiny-VL-AWQ"
KEY = f"models/{REPO}"
TOKEN = "ms-5ecre7-5ecre7-5ecre7"
RESULTS = "evaluation/s.json"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "r")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    modelscope._client()  # sets what the client reads when it is imported
    from modelscope_hub import _legacy_api, _openapi

    monkeypatch.chdir(tmp_path)
    with serving(HubServer({KEY: {"README.md": CARD.encode(), "config.json": b"{}"}}, token=TOKEN)) as held:
        for name, value in environment(tmp_path, held).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(base, "PAUSES", (0.01, 0.01))
        monkeypatch.setattr(_legacy_api, "REPO_TREE_PAGE_MAX_ATTEMPTS", 1)
        monkeypatch.setattr(_legacy_api, "API_MAX_RETRIES", 0)
        monkeypatch.setattr(_openapi, "API_MAX_RETRIES", 0)
        monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
        yield held


def environment(folder: Path, held: HubServer) -> dict[str, str]:
    state = {name: str(folder / "state" / name) for name in ("MODELSCOPE_HOME", "MODELSCOPE_CACHE")}
    state |= {"HARNESS_CACHE": str(folder / "cache"), "MODELSCOPE_API_TOKEN": TOKEN}
    return state | {"MODELSCOPE_ENDPOINT": held.url, "NO_PROXY": "127.0.0.1,localhost"}


def go(run: RunFolder, apply: bool = True, **more: object) -> str | None:
    shown: list[str] = []
    with Reporter() as report:
        return publish.publish(Request([run.path], REPO, apply=apply, **more), report, shown.append)  # type: ignore[arg-type]


def card(server: HubServer) -> str:
    return server.repos[KEY]["README.md"].decode()


def test_the_card_is_shown_and_nothing_is_written(server, run, capfd):
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    assert cli.main(["publish", str(run.path), "--repo", REPO]) == 0
    told = capfd.readouterr()
    assert "+base_model_relation: quantized" in told.out and "+## Measured results" in told.out
    assert told.out.startswith("--- README.md") and "new: evaluation/s.json; changed: README.md" in told.err
    assert "suite s has no gate: nothing was judged" in told.err and "nothing was written" in told.err
    assert not server.commits and {one.method for one in server.asked} == {"GET"}
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before
    assert not (run.path.parent / "state").exists()


def test_one_commit_holds_the_card_and_the_results(server, run, capfd):
    assert go(run) == f"{1:040x}"
    (made,) = server.commits
    assert [a["path"] for a in made["actions"]] == ["README.md", RESULTS]
    assert made["commit_message"] == "Measured results of int4 (s), vl-harness 0.1.0"
    after = card(server)
    assert [line for line in CARD.splitlines() if line not in after.splitlines()] == []
    assert "Accuracy over 40 questions: 72.50 %, the baseline 75.00 %" in block_of(after)
    assert "Weights on disk: 7,8" in block_of(after) or "Weights on disk: 0.01 MiB" in block_of(after)
    results = json.loads(server.repos[KEY][RESULTS])
    assert [r["cell"]["variant"] for r in results["records"]] == ["bf16", "int4"] and results["accuracy"][0]["n"] == 40
    assert "read back and found right" in capfd.readouterr().err
    assert go(run) is None and len(server.commits) == 1
    assert "nothing changed" in capfd.readouterr().err
    assert not (run.path.parent / "state").exists()


def test_what_goes_to_the_page_tells_nothing_of_this_machine(server, run):
    go(run)
    for text in (card(server), server.repos[KEY][RESULTS].decode()):
        assert not [w for w in ("/home", "bob", "v4lue", "hidden", str(run.path)) if w in text]
    assert "`SOME_KEY`" in card(server)


def test_the_suite_on_the_card_can_be_run_again(server, run):
    from harness.suite import Suite

    go(run)
    text = card(server).partition("```yaml\n")[2].partition("```")[0]
    suite = Suite.model_validate(yaml.safe_load(text))
    assert suite.name == "s" and list(suite.variants) == ["bf16", "int4"] and suite.engine.env == {}


def test_the_card_in_chinese_and_hugging_face_s_form(server, run):
    go(run, language="zh", model_index=True, base_model="Qwen/Qwen3-VL-8B-Instruct")
    front = yaml.safe_load(card(server).split("---\n")[1])
    assert "## 实测结果" in card(server) and "如何复现" in card(server)
    assert front["base_model"] == "Qwen/Qwen3-VL-8B-Instruct"
    assert front["tags"] == [
        "1.0",
        "awq",
        "w4a16",
        "compressed-tensors",
        "vllm",
    ]
    assert front["model-index"][0]["name"] == "Tiny-VL-AWQ"
    assert front["indexing"]["results"][0]["metrics"][0]["value"] == 0.5  # what the Record holds
    go(run)
    assert "## Measured results" in card(server) and card(server).count(card_text.BEGIN) == 1


def test_no_name_can_forge_a_marker(server, run):
    facts = run.read()
    facts["suite"]["name"] = f"x {card_text.END}"
    run.write(facts)
    with pytest.raises(Refused, match="the block would hold a marker of its own"):
        go(run)
    assert not server.commits


def test_a_repository_without_a_card_gets_one(server, run):
    del server.repos[KEY]["README.md"]
    go(run)
    assert "\n# Tiny-VL-AWQ\n" in card(server) and card(server).startswith("---\nbase_model_relation: quantized\n")


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (lambda s, e: e.setenv("MODELSCOPE_API_TOKEN", "ms-wrong-wrong"), "the token in MODELSCOPE_API_TOKEN is wrong"),
        (lambda s, e: e.delenv("MODELSCOPE_API_TOKEN"), "MODELSCOPE_API_TOKEN: is not set"),
        (lambda s, e: e.setenv("MODELSCOPE_API_TOKEN", f"{TOKEN}\nx: y"), "holds characters that no token has"),
        (lambda s, e: s.repos.clear(), "there is no such model"),
        (lambda s, e: s.silent.add("info"), "there is no such model"),
        (lambda s, e: setattr(s, "reader", True), "the token may not do this: its account has no right to it"),
        (lambda s, e: setattr(s, "branches", ["main"]), "there is no branch master; it has main"),
        (lambda s, e: s.repos[KEY].update({"README.md": b"\xff\xfe"}), "is not UTF-8 text"),
        (lambda s, e: s.repos[KEY].update({"README.md": card_text.BEGIN.encode()}), "are not one pair"),
        (lambda s, e: s.repos[KEY].update({"README.md": bytes(17 << 20)}), "is larger than 16 MiB"),
        (lambda s, e: s.repos[KEY].update({"README.md": f"see {TOKEN}".encode()}), "holds the value of MODELSCOPE_API_TOKEN"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(server, run, monkeypatch, prepare, told):
    prepare(server, monkeypatch)
    with pytest.raises(Refused, match=told) as refused:
        go(run)
    assert TOKEN not in str(refused.value) and len(refused.value.faults) == 1 and "\n" not in str(refused.value)
    assert not server.commits and not any(one.path == "/api/v1/models" for one in server.asked)


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (lambda s: s.silent.add("listing"), r"what it lists and what it sends of README.md differ"),
        (lambda s: s.meanwhile.update({1: b"# another"}), "was changed since it was read; nothing was written"),
        (lambda s: setattr(s, "on_commit", "rate"), "takes no more commits for now; nothing was changed, try again in"),
        (lambda s: setattr(s, "on_commit", "conflict"), "another commit came in between"),
        (lambda s: setattr(s, "on_commit", "race"), "another commit came in between"),
        (lambda s: setattr(s, "on_commit", "refused"), r"the hub says no \(file is sensitive\)"),
        (lambda s: setattr(s, "on_commit", "bad code"), r"names no commit \(file is sensitive\); nothing was changed"),
        (lambda s: setattr(s, "on_commit", "nothing"), "took commit 0+1, but README.md is not what was sent"),
        (lambda s: setattr(s, "on_commit", "down"), "answers with status 503; nothing was changed"),
        (lambda s: setattr(s, "on_commit", "cut before"), r"cannot be reached \(.*\); nothing was changed"),
    ],
)
def test_what_fails_fails_in_one_line(server, run, prepare, told):
    prepare(server)
    with pytest.raises(CellFailed, match=told) as failed:
        go(run)
    assert TOKEN not in str(failed.value) and "\n" not in str(failed.value)
    assert card(server) in (CARD, "# another")


@pytest.mark.parametrize("how", ["cut", "not json"])
def test_a_commit_that_was_made_though_the_answer_broke_is_found(server, run, how, capfd):
    server.on_commit = how
    assert go(run) == "unknown"
    assert len(server.commits) == 1 and "but the commit was made" in capfd.readouterr().err


def test_a_public_card_is_shown_without_a_token(server, run, monkeypatch):
    monkeypatch.delenv("MODELSCOPE_API_TOKEN")
    with pytest.raises(Refused, match="may not be read without a token"):
        go(run, apply=False)
    server.token = None
    assert go(run, apply=False) is None and not any(one.secrets for one in server.asked[1:])


def test_a_token_is_asked_for_where_somebody_can_answer(server, run, monkeypatch, capfd):
    monkeypatch.delenv("MODELSCOPE_API_TOKEN")
    monkeypatch.setattr(publish.sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr(publish.getpass, "getpass", lambda *_, **__: TOKEN)
    assert go(run) and TOKEN not in "".join(capfd.readouterr())


def test_another_version_of_the_client_is_refused(server, run, monkeypatch):
    monkeypatch.setattr(modelscope.metadata, "version", lambda _: "0.6.0")
    with pytest.raises(Refused, match=r"publishing was built for 0\.5\.1; pip install modelscope-hub==0\.5\.1"):
        go(run)


def test_a_tag_is_refused(server, run):
    with pytest.raises(Refused, match=r"v1\.0 is a tag, and tags cannot be written to; name a branch: master"):
        go(run, branch="v1.0")
    with pytest.raises(Refused, match="is no branch's name"):
        go(run, branch="../x")


def test_a_hub_that_is_down_is_given_up_soon(server, run, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"^127\.0\.0\.1:9 cannot be reached \(Connection refused\)$"):
        go(run)
    assert time.monotonic() - began < 5


def test_a_repository_is_created_only_by_its_own_act(server, run, capfd):
    own = ["publish", str(run.path), "--repo", "alice/New"]
    assert cli.main([*own, "--create"]) == 2 and cli.main([*own, "--visibility", "public"]) == 2
    assert cli.main([*own, "--apply"]) == 2 and "models/alice/New" not in server.repos
    assert cli.main([*own, "--create", "--visibility", "private"]) == 0
    assert server.repos["models/alice/New"] == {} and server.visibility["models/alice/New"] == 1
    assert cli.main([*own, "--create", "--visibility", "public"]) == 2
    assert "is there already" in capfd.readouterr().err
    assert cli.main([*own, "--apply"]) == 0 and "# New" in server.repos["models/alice/New"]["README.md"].decode()
    server.silent.add("create")
    assert cli.main(["publish", str(run.path), "--repo", "alice/Other", "--create", "--visibility", "private"]) == 1
    assert "created nothing" in capfd.readouterr().err


def test_failed_and_missing_cells_keep_it_from_being_published(server, tmp_path, capfd):
    run = make_run(tmp_path / "bad", status="invalid", reason="cache hits, see /home/bob/log")
    run.add(record("int4", "3", "u"), [sample("1", 1.0)])
    facts = run.read()
    run.write(facts | {"cells": ["1", "2", "3", "4"]})
    with pytest.raises(Refused, match=r"int4/accuracy/t: invalid: cache hits.*--anyway") as refused:
        go(run)
    assert len(refused.value.faults) == 2 and "1 planned Cells have no Record" in str(refused.value)
    go(run, apply=False)
    assert capfd.readouterr().err.count("--apply would refuse") == 2
    go(run, anyway=True)
    block = block_of(card(server))
    assert "`int4/accuracy/t` is left out, it is invalid: cache hits, see log." in block and "72.50" not in block
    assert "1 planned Cells have no Record" in block


@pytest.mark.parametrize("anyway", [False, True])
def test_a_gate_that_fails_keeps_it_from_being_published(server, run, monkeypatch, anyway):
    from harness import subject

    monkeypatch.setattr(subject, "gate", lambda view: ("fail", ["recovery is too low"]))
    if anyway:
        go(run, anyway=True)
        assert "Gate of the suite s: **fail**." in card(server)
        return
    with pytest.raises(Refused, match="gate of s: fail: recovery is too low"):
        go(run)
    assert not server.commits


def test_random_weights_and_imports_are_marked(server, tmp_path):
    run = make_run(tmp_path / "random", random_weights=True)
    with pytest.raises(Refused, match="holds no finished measurement of int4"):
        go(run)
    run = make_run(tmp_path / "imported", imported_from="/home/bob/results_1.json")
    go(run)
    block = block_of(card(server))
    assert "> **Imported**: other tools measured what is marked so: `int4/accuracy/t` (`results_1.json`)." in block
    assert "| int4 | t | done: imported from results_1.json |" in block
    assert "bob" not in card(server) and "indexing" not in card(server)


def test_weights_are_sent_once_and_the_token_goes_to_the_hub_alone(server, run, checkpoint, capfd):
    facts = run.read()
    facts["variants"]["int4"] |= {"checkpoint": str(checkpoint), "content": plan.content_hash(checkpoint)}
    run.write(facts)
    server.repos[KEY]["config.json"] = (checkpoint / "config.json").read_bytes()
    server.on_commit = "down"
    with pytest.raises(CellFailed):
        go(run, weights=True)
    weights = [p for p in checkpoint.iterdir() if p.suffix == ".safetensors"]
    assert len([one for one in server.asked if one.method == "PUT"]) == len(weights)
    server.on_commit = ""
    go(run, weights=True)
    assert len([one for one in server.asked if one.method == "PUT"]) == len(weights)
    assert "is on the hub already" in capfd.readouterr().err
    held = server.repos[KEY]
    names = {p.name for p in checkpoint.iterdir() if p.name not in plan.NOT_WEIGHTS}
    assert all(held[name] == (checkpoint / name).read_bytes() for name in names)
    assert "config.json" not in [a["path"] for a in server.commits[0]["actions"]]
    assert not any(one.secrets for one in server.asked if one.path.startswith("/store/"))
    facts["variants"]["int4"]["content"] = "other"
    run.write(facts)
    with pytest.raises(Refused, match="is not the checkpoint that was measured"):
        go(run, weights=True)
    facts["variants"]["int4"]["checkpoint"] = "/nowhere/int4"
    run.write(facts)
    with pytest.raises(Refused, match="the checkpoint is not there"):
        go(run, weights=True)


def test_several_runs_make_one_card(server, run, tmp_path):
    other = make_run(tmp_path / "second")
    facts = other.read()
    facts["suite"]["name"] = "zweite Messung"
    other.write(facts)
    with Reporter() as report:
        publish.publish(Request([run.path, other.path], REPO, apply=True), report, print)
        assert len([p for p in server.repos[KEY] if p.startswith("evaluation/")]) == 2
        with pytest.raises(Refused, match="is a second Run of suite s"):
            publish.publish(Request([run.path, run.path], REPO), report, print)
        facts["variants"]["int4"]["content"] = "c"
        other.write(facts)
        with pytest.raises(Refused, match="measured another checkpoint as int4"):
            publish.publish(Request([run.path, other.path], REPO), report, print)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--repo", "alice"], "--repo alice: is no repository's name; write OWNER/NAME"),
        (["--repo", REPO, "--variant", "x"], "has no such variant; it has bf16, int4"),
        (["--repo", REPO, "--variant", "bf16"], "is the baseline itself"),
        (["--repo", REPO, "--base-model", "x"], "is no repository's name"),
    ],
)
def test_bad_arguments_ask_nothing(server, run, arguments, told, capfd):
    assert cli.main(["publish", str(run.path), *arguments]) == 2
    assert told in capfd.readouterr().err and server.asked == []


def test_a_kill_leaves_the_old_card_or_the_new_and_the_token_nowhere(server, run, tmp_path, capfd):
    server.on_commit = "slow"
    command = [sys.executable, "-m", "harness", "publish", str(run.path), "--repo", REPO, "--apply"]
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    killed = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while not any("/commit/" in one.path for one in server.asked):
        assert time.monotonic() < until and killed.poll() is None
        time.sleep(0.02)
    with pytest.raises(Refused, match=f"is being published by process {killed.pid}"):
        go(run)
    killed.kill()
    told = b"".join(killed.communicate(timeout=60))
    assert card(server) == CARD and told.count(b"commit 2 files") == 1
    server.released.set()
    while not server.commits:  # it was on its way
        assert time.monotonic() < until
        time.sleep(0.02)
    server.on_commit = ""
    assert cli.main(["publish", str(run.path), "--repo", REPO, "--apply"]) == 0
    after = capfd.readouterr()
    assert "nothing changed" in after.err and len(server.commits) == 1
    assert TOKEN not in after.out + after.err + told.decode()
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    sent = [base64.b64decode(action["content"]) for made in server.commits for action in made["actions"]]
    assert not [data for data in sent if TOKEN.encode() in data]
