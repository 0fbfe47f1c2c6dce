"""The demo model's tokenizer: byte-level BPE on the demo's own words, with Qwen's special tokens and chat template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.demo import drawing, phrases

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
IMAGE_PREFIX = "<|im_start|>user\n<|vision_start|>"
"""What the chat template puts before an image that comes first in a conversation."""
END = "<|im_end|>"

CHAT_TEMPLATE = """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for content in message.content %}
            {%- if content.type == 'image' or 'image' in content or 'image_url' in content %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif content.type == 'video' or 'video' in content %}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' }}
            {%- elif 'text' in content %}
                {{- content.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""Qwen3-VL's template without tools: the same text for the same messages."""

# Qwen2's rule for cutting text into pieces, so that a loader that builds Qwen's tokenizer class from vocabulary and
# merges alone arrives at the same ids.
PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def corpus() -> Iterator[str]:
    """What the merges are learned from. Codes stay out: no two of their characters may merge.

    Repetition is rank: first every Chinese character and every word of an answer becomes a token, then what is left
    of the vocabulary goes to frequent pieces of questions.
    """
    questions: dict[str, list[str]] = {"en": [], "zh": []}
    for (_, _, language), phrasings in phrases.QUESTIONS.items():
        blanks = ("红色", "第一个") if language == "zh" else ("red", "first")
        questions[language] += [phrasing.format(*blanks) for phrasing in phrasings]
    answers = ["user\n", "assistant\n", " dots", "个点", "的点", "、", *phrases.COLOURS_ZH, *phrases.SHAPES_ZH]
    for name in (*drawing.COLOURS, *drawing.SHAPES, *phrases.ORDINALS):
        answers += [name, " " + name]
    for _ in range(40):
        yield from sorted(set("".join(questions["zh"] + answers + list(phrases.NUMERALS_ZH))))
    for _ in range(20):
        yield from answers
    yield from questions["zh"]
    for _ in range(2):  # a merge needs a pair seen twice
        yield from questions["en"]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, the same on every call."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=768, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(corpus(), trainer)
    core.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token="<|endoftext|>",
        additional_special_tokens=[token for token in SPECIAL_TOKENS if token not in (END, "<|endoftext|>")],
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def after_image(question: str) -> str:
    """What follows the image's placeholder tokens in the prompt of one question, up to where the answer begins."""
    return f"<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"
