"""Publishing when something is wrong: each failure of the client, retries, a commit without an answer, a kill."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time

import pytest

from harness.cli import main
from harness.hub import Unreachable, base, modelscope_branch
from harness.util.errors import CellFailed, Refused
from reports.card import edit
from tests.helpers.cards import CARD
from tests.helpers.published import KEY, REPO, TOKEN, card, go, weights_of
from tests.helpers.records import ROOT


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
        (lambda s, e: s.repos[KEY].update({"README.md": edit.BEGIN.encode()}), "are not one pair"),
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
        (lambda s: s.silent.add("listing"), r"the hub says no \(sorry\)"),
        (lambda s: s.meanwhile.update({1: b"# another"}), "was changed since it was read; nothing was written"),
        (
            lambda s: setattr(s, "on_commit", "rate"),
            "takes no more commits for now, try again in some minutes; nothing was changed",
        ),
        (lambda s: setattr(s, "on_commit", "conflict"), "another commit came in between"),
        (lambda s: setattr(s, "on_commit", "race"), "another commit came in between"),
        (lambda s: setattr(s, "on_commit", "refused"), r"the hub says no \(file is sensitive\); nothing has changed so far"),
        (lambda s: setattr(s, "on_commit", "bad code"), r"names no commit \(file is sensitive\); nothing has"),
        (lambda s: setattr(s, "on_commit", "nothing"), "took commit 0+1, but README.md is not what was sent"),
        (
            lambda s: setattr(s, "on_commit", "down"),
            "answers with status 503; check the network, or try again later; nothing has changed",
        ),
        (
            lambda s: setattr(s, "on_commit", "cut before"),
            r"cannot be reached \(.*\); check the network, or try again later; nothing has",
        ),
    ],
)
def test_what_fails_fails_in_one_line(server, run, prepare, told):
    prepare(server)
    with pytest.raises(CellFailed, match=told) as failed:
        go(run)
    assert TOKEN not in str(failed.value) and "\n" not in str(failed.value)
    assert card(server) in (CARD, "# another")


READS = ["/users/me", "/models/alice/Tiny-VL-AWQ$", "/revisions", "/repo/files", "FilePath=README"]


@pytest.mark.parametrize("part", [*READS, "/objects/batch", "/store/"])
def test_what_fails_for_a_moment_is_asked_again(server, run, checkpoint, part):
    weights_of(run, checkpoint)
    server.failing[part] = [503, 0, 200]
    assert go(run, weights=True) and len(server.commits) == 1
    assert len([one for one in server.asked if part in f"{one.path}$"]) >= 3


@pytest.mark.parametrize(
    "body",
    [
        b"[]", b"[1]", b"null", b"7", b'"sorry"', b"<html><body>Log in</body></html>", b"", b'{"Data": [[]]}', b'{"Data": 7}',
        b'{"Code": 10010, "Success": false, "Message": "quota is used up"}',
        b'{"Code": 200, "Success": true, "Data": null}',
        b'{"Code": 200, "Success": true, "Data": {"Files": [7], "RevisionMap": 7}}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("part", READS[:-1])
def test_an_odd_answer_is_one_line_and_nothing_is_committed(server, run, part, body):
    server.odd[part] = body
    with pytest.raises((Refused, CellFailed)) as failed:
        go(run)
    told = str(failed.value)
    assert TOKEN not in told and "\n" not in told and told and not server.commits
    assert "quota is used up" in told or b"quota" not in body, told


@pytest.mark.parametrize("status", [429, 500, 0])
@pytest.mark.parametrize("part", READS)
def test_what_keeps_failing_is_given_up_soon(server, run, part, status):
    server.failing[part] = [status]
    began = time.monotonic()
    told = "takes no more requests for now, try again in 60 s$" if status == 429 else "check the network, or try again later$"
    with pytest.raises(Unreachable, match=told) as failed:
        go(run)
    assert time.monotonic() - began < 5 and not server.commits and TOKEN not in str(failed.value)
    assert len([one for one in server.asked if part in f"{one.path}$"]) == len(base.PAUSES) + 1


@pytest.mark.parametrize("status", [429, 500, 0])
def test_a_commit_is_sent_once_alone(server, run, status):
    server.failing["/commit/"] = [status]
    with pytest.raises(CellFailed):
        go(run)
    assert len([one for one in server.asked if "/commit/" in one.path]) == 1


@pytest.mark.parametrize("how", ["cut", "not json", "late"])
def test_a_commit_that_was_made_though_the_answer_broke_is_found(server, run, how, capfd, impatient):
    server.on_commit = how
    assert go(run) == "unknown"
    assert len(server.commits) == 1 and "but the commit was made" in capfd.readouterr().err
    server.released.set()


def test_a_commit_that_may_still_come_is_not_said_to_have_failed(server, run, impatient):
    server.on_commit = "slow"
    with pytest.raises(CellFailed, match="nothing has changed so far"):
        go(run)
    server.released.set()


def test_another_version_of_the_client_is_refused(server, run, monkeypatch):
    monkeypatch.setattr(modelscope_branch.metadata, "version", lambda _: "0.6.0")
    with pytest.raises(Refused, match=r"publishing was built for 0\.5\.1; pip install modelscope-hub==0\.5\.1"):
        go(run)


def test_a_tag_is_refused(server, run):
    with pytest.raises(Refused, match=r"v1\.0 is a tag, and tags cannot be written to; name a branch: master"):
        go(run, branch="v1.0")
    with pytest.raises(Refused, match="is no branch's name"):
        go(run, branch="../x")


def test_an_address_that_is_none_is_refused(server, run, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://[bad")
    with pytest.raises(Refused, match="MODELSCOPE_ENDPOINT: is no address"):
        go(run)


def test_a_login_left_on_the_disk_is_not_used(server, run, monkeypatch):
    from modelscope_hub.config import HubConfig

    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "")
    HubConfig().save_token("ms-an-older-login")
    with pytest.raises(Refused, match="may not be read without a token"):
        go(run, apply=False)
    assert not any(one.secrets for one in server.asked)


def test_a_hub_that_is_down_is_given_up_soon(server, run, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(
        Unreachable, match=r"^127\.0\.0\.1:9 cannot be reached \(Connection refused\); check the network, or try again later$"
    ):
        go(run)
    assert time.monotonic() - began < 5


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
    assert main.main(["publish", str(run.path), *arguments]) == 2
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
    assert main.main(["publish", str(run.path), "--repo", REPO, "--apply"]) == 0
    after = capfd.readouterr()
    assert "nothing changed" in after.err and len(server.commits) == 1
    assert TOKEN not in after.out + after.err + told.decode()
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    sent = [base64.b64decode(action["content"]) for made in server.commits for action in made["actions"]]
    assert not [data for data in sent if TOKEN.encode() in data]
