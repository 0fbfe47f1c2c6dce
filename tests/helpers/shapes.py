"""Checkpoints made by hand: safetensors files written byte by byte, so that a test can make any fault. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

Entry = tuple[str, np.ndarray]
"""safetensors dtype name and the values; BF16 values are given as float32 and stored as their upper half."""


def encode(dtype: str, values: np.ndarray) -> bytes:
    """Bytes of `values` as safetensors stores them; BF16 is cut, not rounded."""
    if dtype == "BF16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "I32": "<i4", "I64": "<i8", "U8": "u1", "I8": "i1", "F8_E4M3": "u1"}[dtype]).tobytes()


def write_safetensors(path: Path, table: dict[str, Entry]) -> None:
    """Write a safetensors file."""
    header: dict[str, Any] = {}
    body = b""
    for name, (dtype, values) in table.items():
        data = encode(dtype, np.asarray(values))
        header[name] = {"dtype": dtype, "shape": list(np.shape(values)), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def write_header(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A BF16 safetensors file with real shapes and no bytes on disk: a sparse file of the right length."""
    header: dict[str, Any] = {}
    at = 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


def qwen3_vl(
    hidden: int = 256,
    mlp: int = 512,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 64,
    vocabulary: int = 320,
    vision: int = 64,
    vision_mlp: int = 80,
    blocks: int = 2,
    mergers: int = 1,
) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a dense Qwen3-VL; the defaults are fixture T's."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.language_model.embed_tokens.weight": (vocabulary, hidden),
        "model.language_model.norm.weight": (hidden,),
        "lm_head.weight": (vocabulary, hidden),
    }
    for i in range(layers):
        at = f"model.language_model.layers.{i}."
        shapes |= {
            at + "input_layernorm.weight": (hidden,),
            at + "post_attention_layernorm.weight": (hidden,),
            at + "self_attn.q_norm.weight": (head_dim,),
            at + "self_attn.k_norm.weight": (head_dim,),
            at + "self_attn.q_proj.weight": (heads * head_dim, hidden),
            at + "self_attn.k_proj.weight": (kv_heads * head_dim, hidden),
            at + "self_attn.v_proj.weight": (kv_heads * head_dim, hidden),
            at + "self_attn.o_proj.weight": (hidden, heads * head_dim),
            at + "mlp.gate_proj.weight": (mlp, hidden),
            at + "mlp.up_proj.weight": (mlp, hidden),
            at + "mlp.down_proj.weight": (hidden, mlp),
        }
    at = "model.visual."
    shapes |= {at + "patch_embed.proj.weight": (vision, 3, 2, 8, 8), at + "pos_embed.weight": (64, vision)}
    for i in range(blocks):
        block = f"{at}blocks.{i}."
        shapes |= {
            block + "attn.qkv.weight": (3 * vision, vision),
            block + "attn.proj.weight": (vision, vision),
            block + "mlp.linear_fc1.weight": (vision_mlp, vision),
            block + "mlp.linear_fc2.weight": (vision, vision_mlp),
            block + "norm1.weight": (vision,),
            block + "norm2.weight": (vision,),
        }
    for merger in ["merger", *(f"deepstack_merger_list.{i}" for i in range(mergers))]:
        shapes |= {
            f"{at}{merger}.linear_fc1.weight": (4 * vision, 4 * vision),
            f"{at}{merger}.linear_fc2.weight": (hidden, 4 * vision),
            f"{at}{merger}.norm.weight": (vision,),
        }
    return shapes


def config(tie: bool = False, hidden: int = 256, mlp: int = 512, layers: int = 2) -> dict[str, Any]:
    """config.json of a Qwen3-VL, as far as anything here reads it."""
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "text_config": {
            "hidden_size": hidden,
            "intermediate_size": mlp,
            "num_hidden_layers": layers,
            "tie_word_embeddings": tie,
        },
        "vision_config": {"depth": 2},
        "tie_word_embeddings": tie,
    }


SIDE_FILES = {
    "tokenizer.json": {"version": "1.0", "truncation": None, "padding": None, "model": {"type": "BPE"}},
    "tokenizer_config.json": {"model_max_length": 4096},
    "preprocessor_config.json": {"patch_size": 8},
    "generation_config.json": {"eos_token_id": 1},
}


def write_source(folder: Path, seed: int = 0, tie: bool = False) -> Path:
    """A source checkpoint of fixture T's shapes with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    table: dict[str, Entry] = {}
    for name, shape in qwen3_vl().items():
        if tie and name == "lm_head.weight":
            continue
        values = np.ones(shape) if "norm" in name else rng.standard_normal(shape) * 0.02
        table[name] = ("BF16", values.astype(np.float32))
    write_safetensors(folder / "model.safetensors", table)
    write_json(folder / "config.json", config(tie))
    for name, content in SIDE_FILES.items():
        write_json(folder / name, content)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def write_quantized(folder: Path, source: Path, group: int = 128, symmetric: bool = True) -> Path:
    """A packed checkpoint of `source` in the form a build writes it; the packed integers are random."""
    from harness.checkpoints.headers import linears_of, read_config, tensors

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    original = tensors(source)
    every = linears_of(read_config(source), original)
    packed = {one.name: one for one in every if one.part == "language"}
    table: dict[str, Entry] = {}
    for name, tensor in original.items():
        one = packed.get(name.removesuffix(".weight"))
        if one is None:
            table[name] = ("BF16", tensor.read())
            continue
        n, k = one.out_features, one.in_features
        groups = 1 if group == -1 else k // group
        table[f"{one.name}.weight_packed"] = ("I32", rng.integers(-(2**31), 2**31 - 1, (n, k // 8)))
        table[f"{one.name}.weight_scale"] = ("BF16", np.full((n, groups), 0.01, np.float32))
        table[f"{one.name}.weight_shape"] = ("I64", np.array([n, k]))
        if not symmetric:
            table[f"{one.name}.weight_zero_point"] = ("I32", np.zeros((n // 8, groups)))
    write_safetensors(folder / "model.safetensors", table)
    content = json.loads((source / "config.json").read_text())
    plain = [one.name for one in every if one.name not in packed]
    content["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "version": "0.17.0",
        "ignore": [*plain, "re:.*visual.*"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 4,
                    "type": "int",
                    "symmetric": symmetric,
                    "observer": "mse",
                    "strategy": "channel" if group == -1 else "group",
                    "group_size": None if group == -1 else group,
                },
            }
        },
    }
    write_json(folder / "config.json", content)
    for path in source.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1))


def edit_tensors(folder: Path, change: Any) -> None:
    """Rewrite model.safetensors with `change(table)` applied, a dict of name to (dtype, values)."""
    from harness.checkpoints.headers import tensors

    table: dict[str, Entry] = {n: (t.dtype, t.read()) for n, t in tensors(folder).items()}
    change(table)
    write_safetensors(folder / "model.safetensors", table)


def edit_config(folder: Path, change: Any) -> None:
    """Rewrite config.json with `change(config)` applied."""
    content = json.loads((folder / "config.json").read_text())
    change(content)
    write_json(folder / "config.json", content)
