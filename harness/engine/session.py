"""What is kept from engine to engine on one device: one owner, so that one place ends all of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from harness.engine import server
from harness.engine.ahead import Ahead
from harness.engine.load_client import LoadClient
from harness.engine.settings import EngineSettings


class Prepared(Protocol):
    """What a workload prepared for the Cell that comes next on the same engine."""

    def drop(self) -> None:
        """Give it up."""


class Session:
    """The engine that serves, the process made ahead for the next one, the load client, and what the next Cell prepared.

    A context manager: leaving it ends every process and thread of it.
    """

    def __init__(self) -> None:
        self._ahead: Ahead | None = None
        self._client: LoadClient | None = None
        self._prepared: Prepared | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.keep(None)
        self._drop_ahead()
        if self._client is not None:
            self._client.close()
            self._client = None

    # -- engines -------------------------------------------------------------------------------------------------------

    def make_ahead(self, checkpoint: Path, settings: EngineSettings) -> None:
        """Start the process of an engine that comes next; does nothing when there is one for it."""
        variables = server.variables(settings)
        if self._ahead is not None and not self._ahead.is_for(checkpoint, variables):
            self._drop_ahead()
        if self._ahead is None:
            self._ahead = Ahead(checkpoint, variables)

    def settle(self, patience_s: float) -> None:
        """Wait until the process made ahead, if there is one, only waits. One that takes longer than that, in seconds, is
        ended."""
        deadline = time.monotonic() + patience_s
        while self._ahead is not None and not self._ahead.waits() and not self._ahead.ended():
            if time.monotonic() > deadline:
                self._drop_ahead()
            time.sleep(0.05)

    @contextlib.contextmanager
    def serving(
        self, checkpoint: Path, settings: EngineSettings, log: Path, name: str, progress: Callable[[str], None] = lambda _: None
    ) -> Iterator[server.Engine]:
        """`server.serving`, with the process that was made ahead for it; what was prepared for it is dropped at its end."""
        variables = server.variables(settings)
        if self._ahead is not None and not self._ahead.is_for(checkpoint, variables):
            self._drop_ahead()
        # Whoever serves ends the process.
        coming, self._ahead = self._ahead or Ahead(checkpoint, variables), None
        try:
            with server.serving(coming, checkpoint, settings, log, name, progress) as running:
                yield running
        finally:
            self.keep(None)

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.end()
            self._ahead = None

    # -- what workloads need beside the engine -------------------------------------------------------------------------

    @property
    def client(self) -> LoadClient:
        """The load client; started when it is first asked for, and a new one when the last has died."""
        if self._client is not None and self._client.ended():
            self._client.close()
            self._client = None
        if self._client is None:
            self._client = LoadClient()
        return self._client

    def keep(self, prepared: Prepared | None) -> None:
        """Keep what was prepared, for `take`; what was kept before is dropped."""
        if self._prepared is not None:
            self._prepared.drop()
        self._prepared = prepared

    def take(self) -> Prepared | None:
        """What was kept; it is the taker's from now on."""
        taken, self._prepared = self._prepared, None
        return taken
