"""Fixture T: a tiny random-weight Qwen3-VL checkpoint, the real architecture at toy size.

Shapes: text hidden 256, MLP 512, 2 layers, 4 heads, 2 KV heads, head_dim 64 (so v_proj gives 128 and o_proj takes 256);
vision hidden 64, MLP 80, 2 blocks, one deepstack layer. 80 divides by none of 32, 64, 128: a vision layer that is not
ignored by a recipe fails visibly. `python -m tests.tiny FOLDER` writes one.
"""

import json
import sys
from pathlib import Path

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n"
    "{%- if m.content is string %}{{ m.content }}{%- else %}{%- for c in m.content %}"
    "{%- if c.type in ('image', 'image_url') or 'image' in c %}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif 'text' in c %}{{ c.text }}{%- endif %}{%- endfor %}{%- endif %}<|im_end|>\n{%- endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{%- endif %}"
)


def make_tokenizer(folder: Path) -> dict[str, int]:
    """Write a byte-level tokenizer without merges (256 bytes + Qwen's special tokens); return the special ids."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import Qwen2TokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    fast = Qwen2TokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return {t: tokenizer.token_to_id(t) for t in SPECIAL}


def make_checkpoint(folder: Path, seed: int = 0, tie: bool = False, layers: int = 2) -> Path:
    """Write fixture T under `folder` and return it. The same seed gives the same bytes."""
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    ids = make_tokenizer(folder)
    config = Qwen3VLConfig(
        text_config=dict(
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            vocab_size=320,
            max_position_embeddings=4096,
            rms_norm_eps=1e-6,
            rope_theta=10000.0,
            tie_word_embeddings=tie,
            bos_token_id=ids["<|endoftext|>"],
            eos_token_id=ids["<|im_end|>"],
            pad_token_id=ids["<|endoftext|>"],
            rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_interleaved=True, mrope_section=[12, 10, 10]),
        ),
        vision_config=dict(
            depth=2,
            hidden_size=64,
            intermediate_size=80,
            num_heads=4,
            patch_size=8,
            spatial_merge_size=2,
            temporal_patch_size=2,
            out_hidden_size=256,
            num_position_embeddings=64,
            deepstack_visual_indexes=[0],
        ),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tie,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}, indent=1)
    )
    image = {
        "do_resize": True,
        "size": {"shortest_edge": 32 * 32, "longest_edge": 256 * 256},
        "patch_size": 8,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "do_normalize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            image | {"image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor"},
            indent=1,
        )
    )
    (folder / "video_preprocessor_config.json").write_text(
        json.dumps(image | {"video_processor_type": "Qwen3VLVideoProcessor", "processor_class": "Qwen3VLProcessor"}, indent=1)
    )
    return folder


if __name__ == "__main__":
    from harness.util.environments import prepare_imports

    prepare_imports()
    print(make_checkpoint(Path(sys.argv[1])))
