"""Sends the load: one process with `vllm bench serve` in it for the whole run, started when it is first needed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

from harness.engine import server
from harness.util import environments, scratch
from harness.util.errors import CellFailed
from harness.util.scratch import Scratch


class LoadClient:
    """The process; requests are answered one after the other."""

    def __init__(self, log: Path | None = None):
        self._folder = Scratch("bench-client")
        fifo = self._folder.path / "requests"
        os.mkfifo(fifo)
        self.log = log or self._folder.path / "log"
        with self.log.open("wb") as output:
            # It prepares pictures with the processor alone, and must neither touch a GPU nor spin on other cores.
            variables = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1"}
            variables[scratch.VARIABLE] = str(self._folder.path)
            self._process = environments.serve().start(
                [str(environments.SHIMS / "bench_client.py"), str(fifo)],
                stdout=subprocess.PIPE,
                stderr=output,
                variables=variables,
            )
        self._requests = os.open(fifo, os.O_RDWR)  # read and write: opening does not wait for the other end

    def settle(self) -> None:
        """Wait until it has imported what it needs. A client that cannot is told of by the first `ask`."""
        with contextlib.suppress(CellFailed):
            self.ask("ready", None)

    def ask(self, action: str, given: Any, timeout_s: float = 1800) -> dict[str, Any]:
        """The result of one request; raises CellFailed when the client died, failed or took too long."""
        os.write(self._requests, (json.dumps({action: given}) + "\n").encode())
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while not select.select([self._process.stdout], [], [], 1.0)[0]:
            if time.monotonic() > deadline:
                raise CellFailed(f"the load client did not answer within {timeout_s:g} s")
        line = self._process.stdout.readline()
        if not line:
            said = server.last_error(self.log.read_text(errors="replace"))
            raise CellFailed(f"the load client ended with status {self._process.wait()}: {said}")
        answer = json.loads(line)
        if "error" in answer:
            raise CellFailed(f"vllm bench serve: {answer['error']}")
        return dict(answer["result"])

    def ended(self) -> bool:
        """Whether it died."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End the process and its folder."""
        os.close(self._requests)
        environments.stop(self._process)
        self._folder.remove()
