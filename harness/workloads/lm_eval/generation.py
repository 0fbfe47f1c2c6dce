"""What a task asks of the generation, and what a request carries: nothing is dropped between the two without a word.

Every arm is asked greedily with the sampling that the harness says in full (engine.server.SAMPLING), so that no default of a
checkpoint has a word in it. What a task's generation_kwargs say beyond that is sent, said otherwise by the harness (as
`do_sample: false` is), or refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.engine.server import SAMPLING
from harness.util.errors import Fault

LIMITS = ("max_tokens", "max_gen_toks", "max_new_tokens", "max_completion_tokens")
"""Names of the longest answer in tokens, in the order in which they count; max_new_tokens is transformers' and lmms-eval's."""
DEFAULT_ANSWER_TOKENS = 256
"""lm-eval's limit for tasks that name none."""
ONLY_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
"""Without a meaning where the likeliest token is taken."""
NEUTRAL: Mapping[str, Any] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "n": 1,
    "best_of": 1,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_tokens": 0,
    "min_new_tokens": 0,
    "stream": False,
    "use_cache": True,
    "early_stopping": False,
}
"""Settings that change nothing at these values; at others no request of ours carries them."""
RIGHT = "include the task in a file of your own that says otherwise"


def answer_tokens(asked: Mapping[str, Any]) -> int:
    """The longest answer in tokens that a task's generation_kwargs allow."""
    return int(next((asked[key] for key in LIMITS if asked.get(key) is not None), DEFAULT_ANSWER_TOKENS))


def stops(asked: Mapping[str, Any]) -> list[str]:
    """The texts that end an answer."""
    until = asked.get("until")
    return [until] if isinstance(until, str) else [str(text) for text in until or ()]


def faults(name: str, asked: Mapping[str, Any]) -> list[Fault]:
    """What a task asks of the generation that no request will carry, each by its name."""
    greedy = asked.get("do_sample") is False or not asked.get("temperature")
    found = []
    for key, value in asked.items():
        if key in ("until", "do_sample", "seed", *LIMITS):
            continue
        if key in ONLY_SAMPLING:
            if not greedy and key == "temperature":
                what = f"its generation_kwargs ask for sampling (temperature {value}), and every arm is asked greedily"
                found.append(Fault(name, what, RIGHT))
        elif key in NEUTRAL:
            if value is not None and value != NEUTRAL[key]:
                found.append(Fault(name, f"its generation_kwargs.{key} is {value!r}, which no request carries", RIGHT))
        else:
            found.append(Fault(name, f"its generation_kwargs.{key} is not known, so no request would carry it", RIGHT))
    for key in (key for key in LIMITS if asked.get(key) is not None):
        if not isinstance(asked[key], int) or isinstance(asked[key], bool) or asked[key] < 1:
            found.append(Fault(name, f"its generation_kwargs.{key} is {asked[key]!r}", "a number of tokens, 1 or more"))
    until = asked.get("until")
    if until is not None and not isinstance(until, str | list):
        found.append(Fault(name, f"its generation_kwargs.until is {until!r}", "a text or a list of texts"))
    return found


def carried(payload: dict[str, Any], asked: Mapping[str, Any], max_tokens: int | None) -> dict[str, Any]:
    """A request's body as it is sent: lm-eval's, with the task's limit by whatever name, all of its stop texts (lm-eval keeps
    four of them, vLLM takes any number), and the sampling said in full."""
    texts = stops(asked)
    stop = list(dict.fromkeys([*texts, *payload["stop"]])) if len(texts) > len(payload["stop"]) else payload["stop"]
    limit = max_tokens or answer_tokens(asked)
    sent = {key: value for key, value in payload.items() if key not in (*LIMITS, *NEUTRAL, *ONLY_SAMPLING)}
    field = next((key for key in payload if key in LIMITS), "max_tokens")
    return sent | {field: limit, "stop": stop} | SAMPLING
