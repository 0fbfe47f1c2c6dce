"""Where the time of a decode step goes on a GPU: vLLM's own profiler around a few steps, its kernels summed by kind.

`python -m benchmarks.decode_profile CHECKPOINT OUT.json [--concurrency 1] [--env KEY=VALUE] [--argument ARG]...` starts the
engine as the harness does, once with the profiler ready, and prints one table: milliseconds a step for each kind of kernel,
and the rest, in which the device waited (launches, scheduling, sampling on the host). The step time without the profiler
stands beside it, for a profiler costs time of its own.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import gzip
import json
import re
import sys
import tempfile
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

from harness.engine.server import SAMPLING, Engine
from harness.engine.session import Session
from harness.engine.settings import EngineSettings
from harness.util.files import write_json

STEPS = 32
"""Decode steps that are profiled, after as many that are not."""
KINDS = (
    ("INT4 Linears", r"machete|marlin"),
    ("attention", r"flash|fmha|attn|reshape_and_cache"),
    ("BF16 Linears and lm_head", r"nvjet|gemm|gemv|cutlass|splitk|cublas"),
    ("sampling", r"argmax|topk|top_k|softmax|sampl|sort|penalt|logit"),
    ("norms, rotary, activations", r"triton_|rms|norm|silu|rotary|act_and_mul"),
)
"""A kernel belongs to the first kind whose pattern its name matches."""


def kind_of(kernel: str) -> str:
    """The kind that a kernel's name tells, or `other`."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, kernel, re.IGNORECASE)), "other")


def busy_us(events: list[tuple[float, float]]) -> float:
    """Time covered by at least one of the intervals (start, end), microseconds."""
    total, reach = 0.0, float("-inf")
    for start, end in sorted(events):
        total += max(0.0, end - max(start, reach))
        reach = max(reach, end)
    return total


def read_trace(folder: Path) -> dict[str, Any]:
    """Milliseconds a step by kind, from the worker's trace; raises ValueError when it holds no kernels."""
    kernels: list[dict[str, Any]] = []
    for path in sorted(folder.rglob("*.json*")):
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        kernels += [
            e for e in json.loads(text).get("traceEvents", []) if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
        ]
    if not kernels:
        raise ValueError(f"no trace under {folder} holds a kernel")
    kinds: dict[str, float] = {}
    names: dict[str, float] = {}
    for event in kernels:
        kind = kind_of(event["name"]) if event["cat"] == "kernel" else "copies"
        kinds[kind] = kinds.get(kind, 0.0) + event["dur"]
        names[event["name"]] = names.get(event["name"], 0.0) + event["dur"]
    intervals = [(e["ts"], e["ts"] + e["dur"]) for e in kernels]
    span = max(end for _, end in intervals) - min(start for start, _ in intervals)
    each = {kind: round(value / 1000 / STEPS, 4) for kind, value in sorted(kinds.items(), key=lambda item: -item[1])}
    top = sorted(names.items(), key=lambda item: -item[1])[:12]
    return {
        "step_ms": round(span / 1000 / STEPS, 4),
        "device_waits_ms": round((span - busy_us(intervals)) / 1000 / STEPS, 4),
        "kinds_ms": each,
        "kernels_per_step": round(len(kernels) / STEPS, 1),
        "top_ms": {name[:120]: round(value / 1000 / STEPS, 4) for name, value in top},
    }


def post(url: str, body: dict[str, Any] | None = None) -> None:
    """A POST whose answer is waited for and not read."""
    data, headers = json.dumps(body or {}).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method="POST"), timeout=300) as answer:
        answer.read()


def ask(running: Engine, concurrency: int, tokens: int) -> float:
    """Seconds that `concurrency` equal requests of `tokens` answer tokens take, all at once."""

    def one(number: int) -> None:
        messages = [{"role": "user", "content": f"{number}: tell a long story. " + "word " * 40}]
        body = {"model": running.name, "messages": messages, "max_tokens": tokens, "ignore_eos": True} | SAMPLING
        post(f"{running.url}/v1/chat/completions", body)

    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(one, range(concurrency)))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--env", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--argument", action="append", default=[], help="a further argument of vllm serve")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        profiler = {
            "profiler": "torch",
            "torch_profiler_dir": place,
            "torch_profiler_with_stack": False,
            "ignore_frontend": True,
            "delay_iterations": STEPS,
            "max_iterations": STEPS,
        }
        settings = EngineSettings(
            max_model_len=8192,
            max_num_seqs=128,
            env=dict(one.partition("=")[::2] for one in given.env),
            extra_args=("--profiler-config", json.dumps(profiler), *given.argument),
        )
        log = given.output.with_suffix(".log")
        told = partial(print, file=sys.stderr)
        with Session() as session, session.serving(given.checkpoint, settings, log, "profiled", told) as running:
            ask(running, given.concurrency, 32)
            # The difference of two lengths leaves the prompt's time out.
            short, long = ask(running, given.concurrency, 64), ask(running, given.concurrency, 320)
            post(f"{running.url}/start_profile")
            ask(running, given.concurrency, 4 * STEPS)
            post(f"{running.url}/stop_profile")
            kernel = running.facts.kernel
        found = {
            "checkpoint": given.checkpoint.name,
            "kernel": kernel,
            "concurrency": given.concurrency,
            "arguments": given.argument,
            "env": given.env,
            "unprofiled_step_ms": round(1000 * (long - short) / 256, 4),
        } | read_trace(Path(place))
    write_json(given.output, found)
    print(given.output.read_text())


if __name__ == "__main__":
    main()
