"""A random-weight checkpoint of the shape of Qwen3-VL-8B-Instruct (8.77 B parameters, 16.3 GiB), for timing builds.

`python -m tests.shape_8b FOLDER`. Needs a GPU or 40 GB of host memory. Weights are random, so size, memory and time say
something and accuracy nothing. Tokenizer, template and processor are the demo's, with the patch size of the real model.
`--hidden 2048 --layers 12 --vocabulary 40000` makes a smaller one of the same proportions, for a machine without a GPU.
"""

import argparse
import json
import shutil
from pathlib import Path

from harness.demo import MODEL_DIR
from quantize import upstream

TEXT = dict(
    hidden_size=4096,
    intermediate_size=12288,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151936,
    max_position_embeddings=262144,
    rope_parameters=dict(rope_type="default", rope_theta=5_000_000.0, mrope_interleaved=True, mrope_section=[24, 20, 20]),
)
VISION = dict(
    depth=27,
    hidden_size=1152,
    intermediate_size=4304,
    num_heads=16,
    patch_size=16,
    spatial_merge_size=2,
    temporal_patch_size=2,
    out_hidden_size=4096,
    num_position_embeddings=2304,
    deepstack_visual_indexes=[8, 16, 24],
)
TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def make_checkpoint(folder: Path, hidden: int = 4096, layers: int = 36, vocabulary: int = 151936) -> Path:
    """Write the checkpoint under `folder` and return it; `hidden` in steps of 512: four heads of 128 to a key-value head."""
    upstream.prepare()
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    for path in MODEL_DIR.iterdir():
        if path.suffix in (".json", ".jinja") and path.name not in ("config.json", "training.json"):
            shutil.copy(path, folder)
    for name in ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"):
        if (folder / name).is_file():
            text = (folder / name).read_text().replace('"patch_size": 8', '"patch_size": 16')
            (folder / name).write_text(text)
    demo = json.loads((MODEL_DIR / "config.json").read_text())
    text = TEXT | dict(
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 128,
        num_key_value_heads=hidden // 512,
        vocab_size=vocabulary,
    )
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=VISION | dict(out_hidden_size=hidden),
        tie_word_embeddings=False,
        **{name: demo[name] for name in TOKENS},
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen3VLForConditionalGeneration(config)
    model.save_pretrained(folder, max_shard_size="5GB")
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--vocabulary", type=int, default=151936)
    given = parser.parse_args()
    print(make_checkpoint(given.folder, given.hidden, given.layers, given.vocabulary))
