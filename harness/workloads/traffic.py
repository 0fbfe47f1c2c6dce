"""Synthetic requests for latency, throughput and memory: what they look like, and how `vllm bench serve` is told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import Field

from harness.engine.server import Engine
from harness.engine.settings import EngineSettings
from harness.util.errors import Fault
from harness.util.strict import Strict

if TYPE_CHECKING:
    from harness.workloads.load import LoadSpec


class Sampling(Strict):
    """How tokens are drawn, as vLLM names it."""

    temperature: float = Field(default=0.7, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Only the likeliest tokens that together come to this probability."""
    top_k: int = Field(default=0, ge=0)
    """Only so many likeliest tokens; 0: all."""


class Traffic(Strict):
    """What the requests of a speed or memory Cell look like; every prompt and every picture is made anew from the seed."""

    images: int = Field(default=1, ge=0)
    """Pictures in a request; 0 is text only."""
    image_size: tuple[int, int] = (512, 512)
    """Width and height of a picture in pixels."""
    input_len: int = Field(default=64, gt=0)
    """Text tokens of a prompt, without the pictures'."""
    output_len: int = Field(default=128, gt=1)
    """Tokens of every answer: the end token is ignored, so that all answers are alike."""
    sampling: Sampling | None = None
    """Draw tokens instead of taking the likeliest, to see what that costs."""


def traffic_faults(traffic: Traffic, where: str, settings: EngineSettings) -> list[Fault]:
    """Traffic that the engine's settings do not take."""
    found = []
    if traffic.images > settings.images_per_prompt:
        what = f"sends {traffic.images} images, engine.images_per_prompt is {settings.images_per_prompt}"
        found.append(Fault(where, what, f"engine.images_per_prompt: {traffic.images}"))
    longest = traffic.input_len + traffic.output_len
    if settings.max_model_len and longest >= settings.max_model_len:
        what = f"needs {longest} tokens without its pictures, engine.max_model_len is {settings.max_model_len}"
        found.append(Fault(where, what, "raise engine.max_model_len, or shorten the traffic"))
    return found


def arguments(
    engine: Engine,
    traffic: Traffic,
    requests: int,
    seed: int,
    spec: LoadSpec | None = None,
    concurrency: int | None = None,
    rate: float | None = None,
) -> list[str]:
    """The arguments of `vllm bench serve`; every prompt is random from its first token, every picture random noise."""
    width, height = traffic.image_size
    given = {
        "backend": "openai-chat",
        "endpoint": "/v1/chat/completions",
        "base-url": engine.url,
        "model": engine.name,
        "served-model-name": engine.name,
        "tokenizer": str(engine.checkpoint),
        "dataset-name": "random-mm",
        "num-prompts": requests,
        "random-input-len": traffic.input_len,
        "random-output-len": traffic.output_len,
        "random-range-ratio": 0,
        "random-mm-base-items-per-request": traffic.images,
        "random-mm-num-mm-items-range-ratio": 0,
        "random-mm-limit-mm-per-prompt": json.dumps({"image": max(1, traffic.images), "video": 0}),
        "random-mm-bucket-config": f"{{({height},{width},1):1.0}}",
        "request-rate": rate if rate is not None else "inf",
        "num-warmups": 0,
        "ready-check-timeout-sec": 0,
        "seed": seed,
        "percentile-metrics": "ttft,tpot,itl,e2el",
        "metric-percentiles": ",".join(str(p) for p in (spec.percentiles if spec else (50,))),
    }
    drawn = traffic.sampling
    given |= {"temperature": drawn.temperature, "top-p": drawn.top_p, "top-k": drawn.top_k} if drawn else {"temperature": 0}
    if concurrency is not None:
        given["max-concurrency"] = concurrency
    listed = [part for key, value in given.items() for part in (f"--{key}", str(value))]
    if spec and spec.goodput:
        listed += ["--goodput", *(f"{name}:{limit:g}" for name, limit in spec.goodput.items())]
    return [*listed, "--ignore-eos", "--disable-tqdm", "--save-detailed"]
