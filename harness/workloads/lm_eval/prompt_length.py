"""How many tokens a prompt takes, told by the model's own chat template, tokenizer and processor, without its weights.

Loading the tokenizer and the processor takes seconds, so it is put off: a token is a byte or more, and a picture takes
no more tokens than the processor's largest size, which together bound a prompt from above. Only prompts that the bound
does not clear are counted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checkpoints.chat_template import used
from harness.families import Family, family_of
from harness.util import environments


@dataclass(frozen=True)
class Prompt:
    """What is sent: chat messages whose content is parts, and the pictures' sizes in the order of the image parts."""

    messages: list[dict[str, Any]]
    sizes: list[tuple[int, int]]
    """(width, height) of each picture, pixels."""


def model_length(model: Path) -> int | None:
    """The longest prompt plus answer that the model's configuration names, in tokens."""
    config = _json(model / "config.json")
    found = (config.get("text_config") or {}).get("max_position_embeddings") or config.get("max_position_embeddings")
    return int(found) if found else None


def family(model: Path) -> Family:
    """The family of the model in a folder."""
    return family_of(_json(model / "config.json"))


def too_long(prompts: Sequence[Prompt], model: Path, room: int) -> dict[int, int]:
    """The prompts that take more than `room` tokens, by their index, with their length in tokens."""
    largest = _largest_picture(model)
    unclear = []
    for index, prompt in enumerate(prompts):
        text = _rendered(model, prompt.messages)
        if text is None or largest is None or len(text.encode()) + largest * len(prompt.sizes) > room:
            unclear.append(index)
    if not unclear:
        return {}
    counts = _counted([prompts[i] for i in unclear], model)
    return {index: count for index, count in zip(unclear, counts, strict=True) if count > room}


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _largest_picture(model: Path) -> int | None:
    """Most tokens that one picture takes; None if unknown."""
    given = _json(model / "preprocessor_config.json") or _json(model / "processor_config.json").get("image_processor") or {}
    return family(model).most_picture_tokens(given)


def _rendered(model: Path, messages: list[dict[str, Any]]) -> str | None:
    """The messages through the model's chat template; None where it needs more than plain Jinja."""
    template = _template(model)
    if template is None:
        return None
    try:
        return str(template.render(messages=messages, add_generation_prompt=True))
    except Exception:  # a template may call anything that transformers gives it; the count below is then made by transformers
        return None


_templates: dict[Path, Any] = {}


def _template(model: Path) -> Any:
    if model not in _templates:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        found = used(model)
        # The same settings as transformers' own rendering, or white space would differ.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        _templates[model] = environment.from_string(found.text) if found else None
    return _templates[model]


def _counted(prompts: Sequence[Prompt], model: Path) -> list[int]:
    """Tokens of each prompt; 0 where the model's processor cannot tell without the pixels."""
    environments.prepare_imports()
    from transformers import AutoProcessor, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    processor: Any = AutoProcessor.from_pretrained(model) if any(p.sizes for p in prompts) else None
    template = used(model)
    given = {"chat_template": template.text} if template else {}
    texts = [tokenizer.apply_chat_template(p.messages, add_generation_prompt=True, tokenize=False, **given) for p in prompts]
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
    if processor is not None and not hasattr(processor, "_get_num_multimodal_tokens"):
        return [0] * len(prompts)
    for index, prompt in enumerate(prompts):
        if prompt.sizes:
            # (height, width), as the processor wants it; the template has placed one token for each picture.
            counts = processor._get_num_multimodal_tokens(image_sizes=[(h, w) for w, h in prompt.sizes])
            lengths[index] += sum(counts.num_image_tokens) - len(prompt.sizes)
    return lengths
