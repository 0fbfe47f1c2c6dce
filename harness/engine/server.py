"""A running `vllm serve` for one variant: yields its URL and facts, leaves no process and no device memory behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checkpoints.served import told
from harness.engine import device
from harness.engine.ahead import Ahead
from harness.engine.log import EngineFacts, kernels_named, last_error, read_facts
from harness.engine.settings import EngineSettings
from harness.util import environments
from harness.util.errors import CellFailed, Fault
from harness.util.guard import descendants
from harness.util.processes import ended

Progress = Callable[[str], None]
SAMPLING = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "seed": 0}
"""What every accuracy request says, so that no generation_config.json of a checkpoint has a word in it."""


class Engine:
    """A healthy server: where to ask it and what it said of itself."""

    def __init__(
        self,
        url: str,
        name: str,
        facts: EngineFacts,
        process: subprocess.Popen[bytes],
        log: Path,
        checkpoint: Path,
        settings: EngineSettings,
    ):
        self.url, self.name, self.facts, self.log = url, name, facts, log
        self.checkpoint, self.settings = checkpoint, settings
        self._process = process

    @property
    def root(self) -> int:
        """Process id of the guard; the engine is its descendants."""
        return next(iter(descendants(self._process.pid)), self._process.pid)

    def alive(self, patience_s: float = 0.0) -> bool:
        """Whether the server process still runs. patience_s: how long one that is about to end is waited for, in seconds."""
        if patience_s:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_s)
        return self._process.poll() is None

    def metrics(self) -> dict[str, float]:
        """The server's counters and gauges from /metrics, labels summed, without the `vllm:` prefix.

        Raises CellFailed when the server does not answer.
        """
        totals: dict[str, float] = {}
        try:
            text = _get(f"{self.url}/metrics").decode()
        except OSError as error:
            raise CellFailed(f"the server at {self.url} does not answer: {error} (log: {self.log})") from None
        for line in text.splitlines():
            match = re.match(r"vllm:(\w+)(?:\{[^}]*\})? ([-+.\deEinfNa]+)$", line)
            if match:
                totals[match[1]] = totals.get(match[1], 0.0) + float(match[2])
        return totals

    def chat(self, content: list[dict[str, Any]], max_tokens: int, timeout_s: float = 600) -> dict[str, Any]:
        """One greedy chat completion for a user message with `content`; returns the server's JSON."""
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": max_tokens,
        } | SAMPLING
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise CellFailed(f"the server answered {error.code}: {error.read().decode(errors='replace')[:500]}") from None
        except OSError as error:
            raise CellFailed(f"the server at {self.url} does not answer: {error}") from None


def arguments(checkpoint: Path, settings: EngineSettings, served_name: str) -> list[str]:
    """The arguments of `vllm serve`, without host and port."""
    cpu = environments.is_cpu()
    eager = settings.enforce_eager if settings.enforce_eager is not None else cpu
    given = [
        str(checkpoint),
        "--served-model-name",
        served_name,
        "--dtype",
        settings.dtype,
        "--max-num-seqs",
        str(settings.max_num_seqs),
        "--seed",
        str(settings.seed),
        "--limit-mm-per-prompt",
        json.dumps({"image": settings.images_per_prompt, "video": 0}),
        # Caches flatter: a repeated prompt or picture would not be worked on again.
        "--no-enable-prefix-caching",
        "--mm-processor-cache-gb",
        "0",
        # A checkpoint's generation_config.json would change the sampling of one arm and not of the other.
        "--generation-config",
        "vllm",
    ]
    optional = {"--max-model-len": settings.max_model_len, "--max-num-batched-tokens": settings.max_num_batched_tokens}
    given += [part for flag, value in optional.items() if value is not None for part in (flag, str(value))]
    given += ["--enforce-eager"] if eager else []
    if cpu and settings.tensor_parallel_size == 1:
        # In a process of its own the worker is waited for by a loop that takes a whole core of a small machine.
        given += ["--distributed-executor-backend", "uni"]
    if settings.tensor_parallel_size > 1:
        given += ["--tensor-parallel-size", str(settings.tensor_parallel_size)]
    if not cpu:
        given += ["--gpu-memory-utilization", str(settings.gpu_memory_utilization)]
        if settings.kv_cache_gib is not None:
            given += ["--kv-cache-memory-bytes", str(int(settings.kv_cache_gib * 2**30))]
        if settings.cpu_offload_gb:
            given += ["--cpu-offload-gb", str(settings.cpu_offload_gb)]
    return [*given, *settings.extra_args]


def variables(settings: EngineSettings) -> dict[str, str]:
    """The environment variables of the engine's processes."""
    given = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # NVML counts cards in this order; without it CUDA may count them otherwise.
    given["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    if environments.is_cpu():
        given |= {
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(settings.kv_cache_gib or 1))),
            # One core is left for the API server and the client; see shims/vllm_serve.py for the binding.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(cpu_threads()),
            # Lets the worker run inside the engine core, see arguments().
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
        if settings.enforce_eager is not False:
            # vLLM compiles the ranks of prompt log-probabilities even then: 15 s to count which numbers are greater.
            given["TORCH_COMPILE_DISABLE"] = "1"
    return given | settings.env


def cpu_threads() -> int:
    """Threads of the engine's matrix products on a CPU: all cores but the one of the API server and the client."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


def free_port() -> int:
    """A TCP port on the loopback address that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


OURS = ("--port", "--host", "--served-model-name", "--enable-prefix-caching", "--generation-config", "--seed", "--dtype")
"""Arguments that the harness sets itself; another value would break how it measures."""


def setting_faults(settings: EngineSettings) -> list[Fault]:
    """A port that the suite names must be free, and extra arguments must leave the harness's own alone."""
    taken = [a for a in settings.extra_args if a.partition("=")[0] in OURS]
    if taken:
        return [Fault("engine.extra_args", f"{taken[0]} is set by the harness", "leave it out")]
    if settings.port and _taken(settings.port):
        return [
            Fault(
                "engine.port",
                f"port {settings.port} is in use by another process",
                "leave engine.port out for a free one",
            )
        ]
    return []


@contextlib.contextmanager
def serving(
    coming: Ahead, checkpoint: Path, settings: EngineSettings, log: Path, name: str, progress: Progress = lambda _: None
) -> Iterator[Engine]:
    """Let `coming` become the server of `checkpoint`, wait until it is healthy, yield it, and end all of its processes.

    Raises CellFailed when it dies or does not get healthy in `settings.start_timeout_s`. `log` gets everything the server
    prints.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    used_before, _ = device.memory_used(settings.tensor_parallel_size)
    given = arguments(checkpoint, settings, name)
    start = _Start(coming, log, settings.start_timeout_s, time.monotonic() + settings.start_timeout_s, progress)
    try:
        start.until_imported()
        begun, port = time.monotonic(), settings.port or free_port()
        try:
            coming.begin([*given, "--host", "127.0.0.1", "--port", str(port)], log)
        except BrokenPipeError:
            raise CellFailed(f"vllm serve ended while it waited to start: {last_error(coming.said())}") from None
        start.until_healthy(f"http://127.0.0.1:{port}", name)
        text = log.read_text(errors="replace")
        facts = _with_kernels(read_facts(text, given[1:], time.monotonic() - begun), checkpoint, text)
        yield Engine(f"http://127.0.0.1:{port}", name, facts, coming.process, log, checkpoint, settings)
    finally:
        coming.end()
        _wait_for_memory(used_before, settings.tensor_parallel_size)


def _with_kernels(facts: EngineFacts, checkpoint: Path, text: str) -> EngineFacts:
    """With what serves the checkpoint's quantized Linears, as far as the log names it."""
    served = told(checkpoint, kernels_named(text), str(device.describe_here().get("generation")))
    if not served.scheme:
        return facts.model_copy(update={"kernel": None, "kernels": {}})
    reasons = {} if served.kernels else {"kernel": "vLLM's log names no kernel in a form that is known here"}
    more = {
        "kernels": served.kernels,
        "scheme_bits": served.asked or None,
        "computed_as": served.computed_as or None,
        "reasons": facts.reasons | reasons,
    }
    return facts.model_copy(update=more)


def _wait_for_memory(used_before: int | None, cards: int) -> None:
    """The driver gives memory back a moment after the last process has ended; what is not back in time is told by the next
    start (room.free_faults), which names who holds it."""
    deadline = time.monotonic() + MEMORY_BACK_S
    while used_before is not None and time.monotonic() < deadline:
        used, _ = device.memory_used(cards)
        if used is None or used <= used_before + MEMORY_SLACK:
            return
        time.sleep(0.1)


def _get(url: str, timeout_s: float = 10) -> bytes:
    with urllib.request.urlopen(url, timeout=timeout_s) as answer:
        return bytes(answer.read())


STAGES = (
    ("Application startup complete", "ready"),
    ("KV cache size", "KV cache made"),
    ("Loading weights took", "weights loaded"),
    ("Starting to load model", "loading weights"),
    ("Initializing a V1 LLM engine", "engine core up"),
    ("Resolved architecture", "model inspected"),
)


@dataclass(frozen=True)
class _Start:
    """A server on its way, and how long it is waited for."""

    coming: Ahead
    log: Path
    patience_s: float
    deadline: float
    progress: Progress

    def until_imported(self) -> None:
        """Until vLLM is imported. What it printed meanwhile begins the log."""
        try:
            while not self.coming.waits():
                self._check(self.coming.said())
                self.progress("importing vLLM")
                time.sleep(0.1)
        finally:
            self.log.write_text(self.coming.said())

    def until_healthy(self, url: str, name: str) -> None:
        """Until the server of this very process answers under our name."""
        while True:
            text = self.log.read_text(errors="replace")
            self._check(text)
            with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
                if json.loads(_get(f"{url}/v1/models", 5))["data"][0]["id"] == name:
                    return
            self.progress(next((stage for mark, stage in STAGES if mark in text), "server imported"))
            time.sleep(0.25)

    def _check(self, said: str) -> None:
        """Raises CellFailed when the server has ended or has had its time."""
        process = self.coming.process
        if process.poll() is not None:
            what = f"{ended(process.returncode)} while it started: {last_error(said)}"
            raise CellFailed(f"vllm serve {what} (whole log: {self.log})")
        if time.monotonic() > self.deadline:
            raise CellFailed(f"vllm serve was not healthy after {self.patience_s:g} s (whole log: {self.log})")


MEMORY_BACK_S = 20.0
"""How long the device's memory may take to come back after an engine's end, in seconds."""
MEMORY_SLACK = 256 * 2**20
"""Bytes that the driver may keep."""
