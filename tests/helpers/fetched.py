"""A repository to fetch, and what the tests of fetching ask of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from harness import hub
from harness.hub import fetch as fetching
from harness.hub.fetch import fetch
from harness.util.progress import Reporter
from tests.helpers import shapes
from tests.helpers.hub_server import HubServer

NAME = "Qwen/Tiny-VL"
TOKEN = "ms-5ecre7-5ecre7-5ecre7"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
NEEDED = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "merges.txt",
    "preprocessor_config.json",
    "chat_template.jinja",
    fetching.INDEX,
    FIRST,
    SECOND,
    "README.md",
    "LICENSE",
}


def shard(folder: Path, *names: str) -> bytes:
    path = folder / "shard"
    shapes.write_safetensors(path, {n: ("F32", np.arange(4096, dtype=np.float32)) for n in names})
    return path.read_bytes()


def repository(folder: Path) -> dict[str, bytes]:
    """A repository with a sharded checkpoint and what other programs keep beside it."""
    index = {"metadata": {}, "weight_map": {"a.weight": FIRST, "b.weight": SECOND}}
    texts = {
        "config.json": json.dumps(shapes.config()),
        "generation_config.json": "{}",
        "tokenizer.json": "{}",
        "merges.txt": "a b",
        "preprocessor_config.json": "{}",
        "chat_template.jinja": "{{ x }}",
        fetching.INDEX: json.dumps(index),
        "README.md": "# T",
        "LICENSE": "Apache",
        "configuration.json": "{}",
        ".gitattributes": "*",
        "pytorch_model.bin": "x" * 999,
        "pytorch_model.bin.index.json": "{}",
        "model.onnx": "x",
        "license_head.pt": "x",
        "onnx/config.json": "{}",
        "original/params.json": "{}",
    }
    return {p: t.encode() for p, t in texts.items()} | {
        FIRST: shard(folder, "a.weight"),
        SECOND: shard(folder, "b.weight"),
        "consolidated.safetensors": b"x",
    }


def environment(folder: Path, held: HubServer) -> dict[str, str]:
    state = {name: str(folder / "state" / name) for name in ("MODELSCOPE_HOME", "MODELSCOPE_CACHE", "HF_HOME")}
    return state | {"MODELSCOPE_ENDPOINT": held.url, "HF_ENDPOINT": held.url, "NO_PROXY": "127.0.0.1,localhost"}


def get(
    source: str = "modelscope",
    name: str = NAME,
    revision: str | None = None,
    output: Path | None = None,
    kind: hub.Kind = "model",
) -> Path:
    with Reporter() as report:
        return fetch(kind, name, source, revision, output, report)


def held_by(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and ".fetch" not in p.parts}


def partial(folder: Path) -> Path:
    """Where the ModelScope client keeps what has arrived of the second shard."""
    return folder / "models/Qwen/.Tiny-VL.fetch/.fetch/files" / f"{SECOND}.incomplete"
