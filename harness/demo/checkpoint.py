"""Writes the demo model as a folder that transformers and vLLM load as it is."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import (
    AutoProcessor,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from harness.demo import tokenizer as words
from harness.demo.drawing import SIZE
from harness.demo.network import MERGE, PATCH


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    """The processor: any picture is brought to about SIZE x SIZE pixels, keeping its proportions."""
    pictures = {
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": MERGE,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": SIZE * SIZE, "longest_edge": SIZE * SIZE},
    }
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pictures),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**pictures),
        chat_template=words.CHAT_TEMPLATE,
    )


def save(
    model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> Qwen3VLForConditionalGeneration:
    """Writes weights in BF16, configuration, tokenizer, chat template and processor.

    Returns a BF16 model on `model`'s device that holds exactly what was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end, pad = tokenizer.convert_tokens_to_ids([words.END, "<|endoftext|>"])
    state = {name: value.detach().to(torch.bfloat16).cpu() for name, value in model.state_dict().items()}
    written = Qwen3VLForConditionalGeneration(model.config).to(torch.bfloat16)
    written.load_state_dict(state)
    # Without its end token here, generate would run on past the answer.
    written.generation_config = GenerationConfig(eos_token_id=[end, pad], pad_token_id=pad, do_sample=False)
    written.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    processor = build_processor(tokenizer)
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    _name_tokenizer_class(folder)
    AutoProcessor.from_pretrained(folder)
    return Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).to(model.device).eval()


def _name_tokenizer_class(folder: Path) -> None:
    """Names Qwen's tokenizer class, which every loader knows; vocabulary, merges and rules are the same."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "Qwen2Tokenizer"
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
