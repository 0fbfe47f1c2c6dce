"""An engine's process that is started before it is needed: it imports vLLM and waits, with no device memory and no work.

Importing vLLM is most of a start on a small machine. While documents are looked at, or questions answered, there is time
for it; while something is timed, or memory counted, there is not, so what is measured decides when a spare may be made.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path

from harness.util import environments, scratch
from harness.util.scratch import Scratch


class Ahead:
    """A process of shims/vllm_serve.py, under the guard."""

    def __init__(self, checkpoint: Path, variables: dict[str, str]):
        """checkpoint: whose architecture is imported too; variables: the environment variables of the engine it becomes."""
        self._key = (str(checkpoint), variables)
        self._folder = Scratch("engine")
        self._fifo = self._folder.path / "arguments"
        self._writes: int | None = None
        os.mkfifo(self._fifo)
        with self._log.open("wb") as output:
            self.process = environments.serve().start(
                [str(environments.SHIMS / "vllm_serve.py"), str(self._fifo), str(checkpoint)],
                stdout=output,
                stderr=subprocess.STDOUT,
                # vLLM's sockets lie in its folder too, and go with it.
                variables=variables | {scratch.VARIABLE: str(self._folder.path), "VLLM_RPC_BASE_PATH": str(self._folder.path)},
            )

    @property
    def _log(self) -> Path:
        return self._folder.path / "log"

    def waits(self) -> bool:
        """Whether it has imported everything and waits for its arguments."""
        if self._writes is None:
            # Without a reader at the other end this raises.
            with contextlib.suppress(OSError):
                self._writes = os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK)
        return self._writes is not None

    def is_for(self, checkpoint: Path, variables: dict[str, str]) -> bool:
        """Whether it lives and can become the engine of that checkpoint with those environment variables."""
        return not self.ended() and self._key == (str(checkpoint), variables)

    def ended(self) -> bool:
        """Whether it died before it was needed."""
        return self.process.poll() is not None

    def said(self) -> str:
        """What it printed while it imported."""
        return self._log.read_text(errors="replace")

    def begin(self, arguments: list[str], log: Path) -> None:
        """Let it become the engine: `arguments` are those of `vllm serve`, `log` gets all that it prints from now on.

        It must wait. Raises BrokenPipeError when it has died.
        """
        assert self._writes is not None
        os.write(self._writes, (json.dumps({"arguments": arguments, "log": str(log.resolve())}) + "\n").encode())
        self.forget()

    def forget(self) -> None:
        """Let go of what was needed to wait; the process goes on."""
        if self._writes is not None:
            os.close(self._writes)
            self._writes = None

    def end(self) -> None:
        """End the process and remove its folder."""
        self.forget()
        environments.stop(self.process)
        self._folder.remove()
