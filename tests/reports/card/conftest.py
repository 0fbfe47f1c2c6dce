"""A Run to publish and a hub to publish it to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli import main
from harness.hub import base, modelscope
from harness.record.folder import RunFolder
from reports.card import publish
from tests.helpers.cards import CARD
from tests.helpers.hub_server import HubServer, serving
from tests.helpers.published import KEY, TOKEN, environment, make_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "r")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd, caplog) -> Iterator[HubServer]:
    """The hub, with the client's state in temporary folders; afterwards the token must stand nowhere."""
    caplog.set_level("DEBUG")
    modelscope.client()  # sets what the client reads when it is imported
    from modelscope_hub import _legacy_api, _openapi

    monkeypatch.chdir(tmp_path)
    with serving(HubServer({KEY: {"README.md": CARD.encode(), "config.json": b"{}"}}, token=TOKEN)) as held:
        for name, value in environment(tmp_path, held).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(base, "PAUSES", (0.01, 0.01))
        monkeypatch.setattr(_legacy_api, "REPO_TREE_PAGE_MAX_ATTEMPTS", 1)
        monkeypatch.setattr(_openapi, "API_MAX_RETRIES", 0)
        monkeypatch.setattr(main.signal, "signal", lambda *_: None)
        yield held
    told = "".join(capfd.readouterr()) + caplog.text
    assert TOKEN not in told and not [p for p in tmp_path.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits a third of a second for an answer."""
    connect = publish.Branch.__init__

    def init(self, *given):
        connect(self, *given)
        self._api.legacy._timeout = (1, 0.3)

    monkeypatch.setattr(publish.Branch, "__init__", init)
