from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import shapes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Engines and builds come last, when nothing else works beside them."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is not None)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Where processes share the tests (`pytest -n 2`), one alone starts engines and builds."""
    # A subclass and no xdist_group: pytest 9 does not let the mark reach the scheduler of pytest-xdist 3.8.
    from xdist.scheduler import LoadScopeScheduling

    class OneForEngines(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "engines" if "e2e" in nodeid.partition("::")[0] else nodeid

    return OneForEngines(config, log)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Content hashes and task indexes of the tests stay out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of fixture T's shapes, made without torch. Not to be changed."""
    return shapes.write_source(tmp_path_factory.mktemp("plan") / "T")


@pytest.fixture
def write_suite(tmp_path: Path, checkpoint: Path) -> Callable[..., Path]:
    """Writes a suite file from text; `{model}` stands for the checkpoint."""

    def write(text: str, name: str = "suite.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text.replace("{model}", str(checkpoint)), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source checkpoint of fixture T's shapes, made without torch. Not to be changed."""
    return shapes.write_source(tmp_path_factory.mktemp("shapes") / "T")


@pytest.fixture
def packed(source: Path, tmp_path: Path) -> Path:
    """A good packed checkpoint of `source`, the test's own to break."""
    return shapes.write_quantized(tmp_path / "packed", source)
