from __future__ import annotations

from pathlib import Path

import pytest

from tests.quantize import shapes


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source checkpoint of fixture T's shapes, made without torch. Not to be changed."""
    return shapes.write_source(tmp_path_factory.mktemp("shapes") / "T")


@pytest.fixture
def packed(source: Path, tmp_path: Path) -> Path:
    """A good packed checkpoint of `source`, the test's own to break."""
    return shapes.write_quantized(tmp_path / "packed", source)
