"""`vllm bench serve` as one long-lived process: vLLM is imported once, then each line of requests is one run of the command.

Usage: bench_client.py FIFO. Requests come from the FIFO and answers go to standard output, JSON a line; what the command
prints goes to standard error. Requests: {"bench": [ARGUMENT...]}, {"preprocess": {"checkpoint", "size", "repeats"}} and
{"ready": null}, which is answered once everything is imported.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import statistics
import sys
import time
from typing import Any

DROPPED = ("generated_texts", "itls", "ttfts", "latencies", "start_times", "queue_times", "input_lens")
"""Lists with a row or more a request that nobody reads."""


def bench(arguments: list[str]) -> dict[str, Any]:
    """One run of `vllm bench serve`; its result under vLLM's own keys, with the detailed lists that are checked."""
    from vllm.benchmarks.serve import add_cli_args, main_async
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: argparse.ArgumentParser = FlexibleArgumentParser()
    add_cli_args(parser)
    result = asyncio.run(main_async(parser.parse_args(arguments)))
    # perf_counter is the same clock for every process of a Linux machine.
    began = min(result.get("start_times") or [time.perf_counter()])
    return {key: value for key, value in result.items() if key not in DROPPED} | {"began": began}


def preprocess(given: dict[str, Any]) -> dict[str, float]:
    """What turning one picture into the model's input takes on this processor, alone: median and mean, ms."""
    import numpy as np
    from PIL import Image
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(given["checkpoint"])
    (width, height), rng, taken = given["size"], np.random.default_rng(0), []
    for _ in range(given["repeats"] + 1):
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        began = time.perf_counter()
        processor(images=[picture], return_tensors="pt")
        taken.append(1000 * (time.perf_counter() - began))
    return {"median_ms": statistics.median(taken[1:]), "mean_ms": statistics.fmean(taken[1:]), "n": given["repeats"]}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.modules.setdefault("sklearn", None)  # type: ignore[arg-type]  # as in vllm_serve.py
    from vllm.benchmarks import serve

    # A vocabulary of 150,000 tokens takes 4 s to load, and a Cell runs the command twice.
    serve.get_tokenizer = functools.cache(serve.get_tokenizer)

    actions: dict[str, Any] = {"bench": bench, "preprocess": preprocess, "ready": lambda _: {}}
    with open(sys.argv[1], encoding="utf-8") as requests:
        for line in requests:
            ((action, given),) = json.loads(line).items()
            try:
                answer = {"result": actions[action](given)}
            except BaseException as error:  # SystemExit of the argument parser too: the next request is another's
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer, default=str), file=answers, flush=True)


if __name__ == "__main__":
    main()
