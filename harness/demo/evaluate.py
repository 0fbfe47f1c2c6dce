"""Measures a trained demo model: greedy answers, and how many of them change when its weights are disturbed."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from harness.demo import data
from harness.demo import tokenizer as words
from harness.demo.checkpoint import build_processor
from harness.demo.network import TEXT_TOKENS, BatchedForward
from harness.demo.shards import encode

ANSWER_TOKENS = 22
"""Longest answer generated, end token included; the longest right one has 19."""
LANGUAGE_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class TestSet:
    """Held-out questions and their arrays: pixels (n, 96, 96, 3) uint8, tokens (n, text) int64; the answer to
    question i, with its end token, is at starts[i] to ends[i] in its tokens, both (n,) int64."""

    questions: list[data.Question]
    pixels: Tensor
    tokens: Tensor
    starts: Tensor
    ends: Tensor

    @classmethod
    def make(cls, tokenizer: PreTrainedTokenizerFast, count: int, device: torch.device) -> TestSet:
        made = [data.make_question("test", 0, index) for index in range(count)]
        samples = encode(tokenizer, made, TEXT_TOKENS)
        pixels, tokens = torch.from_numpy(samples.pixels), torch.from_numpy(samples.tokens.astype(np.int64))
        starts, ends = torch.from_numpy(samples.spans.astype(np.int64)).to(device).unbind(1)
        return cls([q for q, _ in made], pixels.to(device), tokens.to(device), starts, ends)


@torch.inference_mode()
def greedy_answers(forward: BatchedForward, tokenizer: PreTrainedTokenizerFast, tests: TestSet, batch: int = 500) -> list[str]:
    """The model's answer to each question, decoded greedily up to its end token."""
    end = tokenizer.convert_tokens_to_ids(words.END)
    answers: list[str] = []
    for first in range(0, len(tests.questions), batch):
        part = slice(first, first + batch)
        seen, deepstack = forward.see(tests.pixels[part])
        starts, rows = tests.starts[part], torch.arange(len(tests.starts[part]), device=tests.starts.device)
        # The right answer is removed before the model reads.
        columns = torch.arange(TEXT_TOKENS, device=starts.device)
        tokens = torch.where(columns < starts[:, None], tests.tokens[part], tokenizer.pad_token_id)
        for step in range(min(ANSWER_TOKENS, TEXT_TOKENS - int(starts.max()))):
            hidden = forward.read(seen, deepstack, tokens)[rows, starts + step - 1]
            tokens[rows, starts + step] = forward.model.lm_head(hidden).float().argmax(-1)
        for row, start in zip(tokens.tolist(), starts.tolist(), strict=True):
            answer = row[start : start + ANSWER_TOKENS]
            answers.append(tokenizer.decode(answer[: answer.index(end)] if end in answer else answer))
    return answers


@torch.inference_mode()
def quick_accuracy(forward: BatchedForward, tests: TestSet, count: int) -> float:
    """Exact match of the first `count` questions in percent, from one forward.

    A greedy answer is right exactly when every right token is the most likely one after the right ones before it.
    """
    predicted = forward(tests.pixels[:count], tests.tokens[:count]).argmax(-1)[:, :-1]
    columns = torch.arange(1, tests.tokens.shape[1], device=predicted.device)
    wanted = (columns >= tests.starts[:count, None]) & (columns < tests.ends[:count, None])
    right = ((predicted == tests.tokens[:count, 1:]) | ~wanted).all(1)
    return round(100 * float(right.float().mean()), 2)


def score(questions: Sequence[data.Question], answers: Sequence[str]) -> dict[str, float | dict[str, float]]:
    """Exact match in percent: of all, by skill, by language, by skill and language."""
    groups: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for question, answer in zip(questions, answers, strict=True):
        right = answer == question.answer
        both = f"{question.skill}/{question.language}"
        for group in (("all", ""), ("skill", question.skill), ("language", question.language), ("both", both)):
            groups[group].append(right)
    result: dict[str, float | dict[str, float]] = {"all": _percent(groups["all", ""])}
    for kind in ("skill", "language", "both"):
        result[kind] = {name: _percent(hits) for (k, name), hits in sorted(groups.items()) if k == kind}
    return result


def _percent(hits: Sequence[bool]) -> float:
    return round(100 * sum(hits) / len(hits), 2)


def changes(questions: Sequence[data.Question], before: Sequence[str], after: Sequence[str]) -> dict[str, float]:
    """What a disturbance did: accuracy after it, and counts of answers changed, lost (right to wrong), gained."""
    rows = [(q.answer, b, a) for q, b, a in zip(questions, before, after, strict=True)]
    return {
        "accuracy": _percent([a == right for right, _, a in rows]),
        "flips": sum(a != b for _, b, a in rows),
        "flips_percent": _percent([a != b for _, b, a in rows]),
        "lost": sum(b == right != a for right, b, a in rows),
        "gained": sum(b != right == a for right, b, a in rows),
    }


def round_to_nearest(weight: Tensor, bits: int, group: int | None) -> Tensor:
    """Symmetric integers of `bits` bits, one scale for each `group` of inputs (None: for each output); as floats.

    The scale is absmax / ((2**bits - 1) / 2), as compressed-tensors has it. `weight` is (outputs, inputs).
    """
    rows = weight.float().view(weight.shape[0], -1, group or weight.shape[1])
    top = 2 ** (bits - 1)
    scale = rows.abs().amax(-1, keepdim=True).clamp_min(1e-10) / (top - 0.5)
    return ((rows / scale).round().clamp(-top, top - 1) * scale).view_as(weight).to(weight.dtype)


def add_noise(weight: Tensor, relative: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise of `relative` times the weight's own standard deviation."""
    noise = torch.randn(weight.shape, generator=generator).to(weight.device)
    return (weight.float() + noise * weight.float().std() * relative).to(weight.dtype)


def disturbed(model: Qwen3VLForConditionalGeneration, change: Callable[[Tensor], Tensor]) -> Qwen3VLForConditionalGeneration:
    """A copy whose language layers' Linear weights went through `change`; vision, embeddings and lm_head are kept."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, module in other.model.language_model.layers.named_modules():
            if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in LANGUAGE_LINEARS:
                module.weight.copy_(change(module.weight))
    return other


def sensitivity(
    model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, tests: TestSet
) -> tuple[list[str], dict[str, dict[str, float]], dict[str, list[str]]]:
    """The BF16 answers, what each disturbance changed, and the answers under each."""
    before = greedy_answers(BatchedForward(model, tokenizer), tokenizer, tests)
    cases: dict[str, Callable[[Tensor], Tensor]] = {
        "int4_g128": lambda w: round_to_nearest(w, 4, 128),
        "int4_g32": lambda w: round_to_nearest(w, 4, 32),
        "int4_channel": lambda w: round_to_nearest(w, 4, None),
        "int3_g128": lambda w: round_to_nearest(w, 3, 128),
    }
    for relative in (0.1, 0.2, 0.3):
        generator = torch.Generator().manual_seed(0)
        cases[f"noise_{relative}"] = partial(add_noise, relative=relative, generator=generator)
    answers = {
        name: greedy_answers(BatchedForward(disturbed(model, change), tokenizer), tokenizer, tests)
        for name, change in cases.items()
    }
    answers["float32"] = greedy_answers(BatchedForward(copy.deepcopy(model).float(), tokenizer), tokenizer, tests)
    return before, {name: changes(tests.questions, before, after) for name, after in answers.items()}, answers


@torch.inference_mode()
def check_against_transformers(
    model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, tests: TestSet, count: int = 6
) -> float:
    """The largest difference between the batched forward's logits and transformers' own, in float32.

    Goes through the processor and chat template, so it checks those as well: raises ValueError if they give other
    token ids than training used.
    """
    model = copy.deepcopy(model).float().eval()
    forward, processor = BatchedForward(model, tokenizer), build_processor(tokenizer)
    batched = forward(tests.pixels[:count], tests.tokens[:count])
    worst = 0.0
    for index, question in enumerate(tests.questions[:count]):
        content = [{"type": "image", "image": question.image}, {"type": "text", "text": question.question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(model.device)
        start = int(tests.starts[index])
        if inputs["input_ids"][0, -start:].tolist() != tests.tokens[index, :start].tolist():
            raise ValueError(f"the processor's tokens differ from those of training for {question.id}")
        logits = model(**inputs).logits[0, -start:]
        worst = max(worst, float((logits - batched[index, :start]).abs().max()))
    return worst
