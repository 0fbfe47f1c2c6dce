"""What the harness saves against doing the same by hand, and what it costs in throughput.

`python -m benchmarks.by_hand OUT.json [--only by-hand|harness|overhead] [--limit N]`, on an idle machine. The demo model,
BF16 and INT4: all 3,000 questions, three load points, memory.

by hand: `lm_eval` with its vLLM backend for each variant (it needs `pip install ray`), then for each variant and load point a
`vllm serve` of its own and one `vllm bench serve`; memory is read off the servers' logs.
harness: `python -m harness run` of a suite with the same questions and points; the INT4 checkpoint is there before, in both.
overhead: on one engine, the harness's Cell against the bare command with the same arguments, taking turns (A B, B A). On a
GPU the demo model's steps are too short to tell: give it a larger checkpoint with --overhead-on.

Each side begins with an empty compile cache of vLLM's and keeps its own beside OUT.json; those of a new OUT.json are new.

Each step's seconds go to standard error and into OUT.json as soon as they are known; a step that is there is not repeated.
Stopping it in whatever way leaves no process behind.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from harness.compare import ratios
from harness.engine import device, server
from harness.engine.session import Session
from harness.suite.schema import load_suite
from harness.util import environments
from harness.util.files import write_json
from harness.workloads import Context, traffic
from harness.workloads.load import LoadSpec
from harness.workloads.throughput import Throughput

POINTS = (1, 4, 16)
REQUESTS = 32
TRAFFIC: dict[str, Any] = {"images": 1, "image_size": (128, 128), "input_len": 32, "output_len": 64}
SPEC = LoadSpec.model_validate({"loads": {"image": TRAFFIC}, "concurrency": POINTS, "requests": REQUESTS, "trials": 1})
SUITE = Path("suites/vl_all.yaml")
LENGTH, SEQUENCES = 512, 64
STEADY = LoadSpec.model_validate(
    {"loads": {"text": {"images": 0, "input_len": 64, "output_len": 256}}, "concurrency": [4], "requests": 24, "trials": 1}
)
"""The overhead's traffic: decode steps most of the time, which vary least."""
SIDES = ("by-hand", "harness")
Steps = dict[str, float]
Pairs = list[dict[str, float]]


def command(arguments: list[str], log: Path, extra: dict[str, str] | None = None, timeout_s: float = 3000) -> None:
    """Run `python ARGUMENTS` under the guard to its end; raises RuntimeError with its last error when it fails."""
    with log.open("wb") as output:
        process = environments.serve().start(arguments, stdout=output, stderr=subprocess.STDOUT, variables=extra)
        try:
            status = process.wait(timeout=timeout_s)
        finally:
            environments.stop(process)
    if status:
        said = server.last_error(log.read_text(errors="replace"))
        raise RuntimeError(f"{' '.join(arguments[:4])} ended with {status}: {said}")


def ask_by_hand(checkpoint: Path, folder: Path, limit: int | None) -> None:
    """lm_eval with its vLLM backend. Its prompts need the placeholder that the chat API does without."""
    tasks = folder / "tasks"
    if not tasks.exists():
        shipped = Path("harness/workloads/tasks/demo_vl")
        for path in shipped.iterdir():
            if path.is_file():
                text = path.read_text(encoding="utf-8")
                (tasks / path.name).parent.mkdir(exist_ok=True)
                (tasks / path.name).write_text(text.replace('"{{question}}"', '"<image>{{question}}"'), encoding="utf-8")
    given = f"pretrained={checkpoint.resolve()},dtype=bfloat16,max_model_len={LENGTH},max_images=1,max_num_seqs={SEQUENCES}"
    given += ",enforce_eager=True" if environments.is_cpu() else ",gpu_memory_utilization=0.85"
    arguments = ["-m", "lm_eval", "run", "--model", "vllm-vlm", "--model_args", given, "--tasks", "demo_vl"]
    arguments += ["--include_path", str(tasks), "--apply_chat_template", "--batch_size", "auto", "--log_samples"]
    arguments += ["--output_path", str(folder / "lm_eval"), *(["--limit", str(limit)] if limit else [])]
    command(arguments, folder / f"lm_eval-{checkpoint.name}.log", variables(folder))


def load_by_hand(checkpoint: Path, at_once: int, folder: Path) -> None:
    """A server of its own, one `vllm bench serve`, the server's end."""
    port, log = server.free_port(), folder / f"serve-{checkpoint.name}-{at_once}.log"
    settings = load_suite(SUITE).engine
    with log.open("wb") as output:
        arguments = ["-m", "vllm.entrypoints.cli.main", "serve", *server.arguments(checkpoint, settings, "m")]
        process = environments.serve().start(
            [*arguments, "--port", str(port)], stdout=output, stderr=subprocess.STDOUT, variables=variables(folder)
        )
        try:
            wait(process, port, log)
            running = cast(server.Engine, _Server(port, checkpoint))
            bench = traffic.arguments(running, SPEC.loads["image"], max(REQUESTS, 2 * at_once), 0, SPEC, at_once)
            command(["-m", "vllm.entrypoints.cli.main", "bench", "serve", *bench], folder / f"bench-{at_once}.log")
        finally:
            environments.stop(process)


def variables(folder: Path) -> dict[str, str]:
    """What a careful user sets by hand: as many threads as the harness gives its engines, and what INT4 needs."""
    if not environments.is_cpu():
        return {}
    cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(server.cpu_threads())}
    path = os.pathsep.join((str(stand_ins(folder)), environments.serve().variables()["PYTHONPATH"]))
    return cpu | {"PYTHONPATH": path}


def stand_ins(folder: Path) -> Path:
    """The harness's help for a processor without AVX-512 as a plug-in of vLLM: it cannot serve INT4 there by itself."""
    place = folder / "stand_ins"
    metadata = place / "cpu_without_avx512-0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    shutil.copy(environments.SHIMS / "cpu_without_avx512.py", place)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: cpu_without_avx512\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text("[vllm.general_plugins]\ncpu_without_avx512 = cpu_without_avx512:install\n")
    return place


class _Server:
    """What `load.arguments` must know of a server."""

    def __init__(self, port: int, checkpoint: Path):
        self.url, self.name, self.checkpoint = f"http://127.0.0.1:{port}", "m", checkpoint


def wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until /health answers; raises RuntimeError when the server ends before."""
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"vllm serve ended: {server.last_error(log.read_text(errors='replace'))}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.5)


def overhead(checkpoint: Path, folder: Path, pairs: int, known: Pairs, keep: Callable[[], None]) -> None:
    """Add to `known` output tokens/s of the harness's Cell and of the bare command, in pairs of alternating order.

    keep: called after each pair.
    """
    (name,), (concurrency,) = STEADY.loads, STEADY.concurrency
    asked = STEADY.loads[name]
    settings, log = load_suite(SUITE).engine, folder / "overhead.log"
    with Session() as session, session.serving(checkpoint, settings, log, "m") as running:

        def one_cell(seed: int) -> float:
            point = {"load": name, "concurrency": concurrency, "trial": seed}
            measured = Throughput().measure(Context(running, session, STEADY, point, lambda *_: None))
            return float(measured.metrics["output_throughput"].value or 0)

        def one_command(seed: int) -> float:
            result = folder / "bare.json"
            given = traffic.arguments(running, asked, STEADY.requests, 500 + seed, STEADY, concurrency)
            wide = traffic.arguments(running, asked, concurrency, 900 + seed, None, concurrency)
            session.client.ask("bench", wide)  # the Cell's warm-up, for both alike
            saved = ["--save-result", "--result-dir", str(folder), "--result-filename", result.name]
            command(["-m", "vllm.entrypoints.cli.main", "bench", "serve", *given, *saved], folder / "bare.log")
            return float(json.loads(result.read_text())["output_throughput"])

        one_cell(pairs)  # whatever is made on first use is made now
        for number in range(len(known), pairs):
            sides = ("cell", one_cell), ("bare", one_command)
            known.append({side: one(number) for side, one in (sides if number % 2 == 0 else reversed(sides))})
            keep()
            print(f"pair {number + 1}: {known[-1]} tokens/s", file=sys.stderr, flush=True)


def step(results: dict[str, Any], kind: str, name: str, do: Callable[[], object], out: Path) -> None:
    """Do it unless its time is known, and keep its time."""
    steps: Steps = results.setdefault(kind, {})
    if name not in steps:
        began = time.perf_counter()
        do()
        steps[name] = round(time.perf_counter() - began, 1)
        # Above the steps' own work, this tells that the machine had other work too.
        results.setdefault("load average of 5 minutes", {})[f"{kind}: {name}"] = round(os.getloadavg()[1], 1)
        write_json(out, results)
    print(f"{kind}: {name}: {steps[name]:.1f} s", file=sys.stderr, flush=True)


def cache_of(out: Path, side: str) -> Path:
    """Where a side keeps what vLLM compiles."""
    return out.resolve().with_suffix(f".{side}-cache")


def own_cache(out: Path, side: str) -> None:
    """One side must not start on what the other has compiled. Inherited by all that is started from here on."""
    os.environ["VLLM_CACHE_ROOT"] = str(cache_of(out, side))


def int4_checkpoint(checkpoints: Path) -> Path:
    """The suite's INT4 variant, built when it is not there."""
    subprocess.run([sys.executable, "-m", "harness", "quantize", str(SUITE), "--checkpoints", str(checkpoints)], check=True)
    return next(checkpoints.glob("awq-int4-g128-*"))


def run_harness(folder: Path, checkpoints: Path, limit: int | None) -> None:
    """The same questions, points and memory, as one Run."""
    given = ["workloads.latency=null", f"workloads.throughput={SPEC.model_dump_json()}"]
    given += [f"workloads.accuracy.limit={limit}"] if limit else []
    sets = [part for one in given for part in ("--set", one)]
    arguments = [sys.executable, "-m", "harness", "run", str(SUITE), "--output", str(folder / "run"), "--fresh"]
    subprocess.run([*arguments, "--checkpoints", str(checkpoints), *sets], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", choices=("by-hand", "harness", "overhead"))
    parser.add_argument("--limit", type=int, help="questions of each task, for a short try")
    parser.add_argument("--pairs", type=int, default=8, help="Cells and bare commands of the overhead (default: %(default)s)")
    parser.add_argument("--overhead-on", type=Path, help="a checkpoint to measure the overhead on; default: the demo's INT4")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    given = parser.parse_args()
    if not given.output.exists():
        for side in SIDES:
            shutil.rmtree(cache_of(given.output, side), ignore_errors=True)
    results: dict[str, Any] = json.loads(given.output.read_text()) if given.output.is_file() else {}
    results["machine"] = {"device": device.describe()["name"], "cores": len(os.sched_getaffinity(0))}
    source = Path("harness/demo/model")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if given.only in (None, "by-hand"):
            own_cache(given.output, "by-hand")
            packed = int4_checkpoint(given.checkpoints)
            for checkpoint, name in ((source, "bf16"), (packed, "int4")):
                ask = partial(ask_by_hand, checkpoint, folder, given.limit)
                step(results, "by hand", f"lm_eval {name}", ask, given.output)
                for n in POINTS:
                    serve = partial(load_by_hand, checkpoint, n, folder)
                    step(results, "by hand", f"bench {name} {n}", serve, given.output)
        if given.only in (None, "harness"):
            own_cache(given.output, "harness")
            int4_checkpoint(given.checkpoints)
            step(results, "harness", "run", partial(run_harness, folder, given.checkpoints, given.limit), given.output)
        if given.only in (None, "overhead"):
            on = given.overhead_on or int4_checkpoint(given.checkpoints)
            known = results.setdefault(f"overhead on {on.name}", [])
            overhead(on, folder, given.pairs, known, partial(write_json, given.output, results))
    print(summary(results))


def summary(results: dict[str, Any]) -> str:
    """What is known so far, in sentences."""
    hand, ours = (sum(results.get(kind, {}).values()) for kind in ("by hand", "harness"))
    lines = [f"by hand: {hand:.0f} s", f"harness: {ours:.0f} s"]
    if hand and ours:
        lines.append(f"ratio: {ours / hand:.2f}")
    for name, pairs in results.items():
        if name.startswith("overhead") and len(pairs) > 1:
            ratio = ratios.of_values([pair["cell"] for pair in pairs], [pair["bare"] for pair in pairs], paired=True).interval()
            said = f"{ratio.value:.4f} [{ratio.low:.4f}, {ratio.high:.4f}]"
            lines.append(f"{name}: output tokens/s of a Cell over the bare command, {len(pairs)} pairs: {said}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
