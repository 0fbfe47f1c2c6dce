"""A checkpoint's folder: which one a name stands for, what is wrong with it, and the hash of what it holds."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from harness import demo
from harness.checkpoints import shape, verify
from harness.checkpoints.headers import tensors
from harness.checkpoints.shape import Shape
from harness.util import environments, files
from harness.util.errors import Damaged, Fault, Refused
from harness.util.places import MODELS

NOT_WEIGHTS = ("manifest.json", "README.md")
"""Files of a checkpoint folder that nothing loads."""


def resolve_model(name: str | Shape) -> Path:
    """The checkpoint folder a suite's `model` stands for; raises Refused when it is none."""
    if isinstance(name, Shape):
        folder = shape.FOLDER / name.shape
        if not shape.is_random(folder):
            raise Refused(Fault(str(folder), "there is no such checkpoint", f"make it: python -m harness shape {name.shape}"))
        return folder
    if name == "demo":
        return demo.MODEL_DIR
    found = next((p for p in (Path(name), MODELS / name) if p.is_dir()), None)
    if found is None:
        hub = name.count("/") == 1 and not name.startswith((".", "/"))
        right = (
            f"get it: python -m harness fetch model {name}"
            if hub
            else "name a checkpoint folder, `demo`, or a hub id whose files lie under models/"
        )
        raise Refused(Fault(f"model {name}", "there is no such folder", right))
    Refused.if_any(checkpoint_faults(found))
    return found


def checkpoint_faults(folder: Path) -> list[Fault]:
    """What makes a folder no checkpoint: no configuration, no weights, or configuration that is not JSON."""
    if not folder.is_dir():
        return [Fault(str(folder), "there is no such folder")]
    found = []
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        found.append(Fault(str(folder), "is no checkpoint: it has no config.json"))
    except (OSError, ValueError) as error:
        found.append(Fault(str(folder / "config.json"), f"cannot be read: {error}"))
    if not any(path.is_file() for path in folder.glob("*.safetensors")):
        found.append(Fault(str(folder), "is no checkpoint: it has no .safetensors file"))
    if not found:
        try:
            tensors(folder)
        except Refused as refused:
            found += refused.faults
    return found


def content_hash(folder: Path) -> str:
    """SHA-256 over a checkpoint's files, kept in the cache folder for as long as sizes and times stay the same."""
    stats = [
        [p.name, p.stat().st_size, p.stat().st_mtime_ns]
        for p in sorted(folder.iterdir())
        if p.is_file() and p.name not in NOT_WEIGHTS
    ]
    kept = environments.cache_folder() / "hashes" / f"{files.digest([str(folder.resolve()), stats])}.txt"
    if kept.is_file():
        return kept.read_text()
    found = files.folder_sha256(folder, skip=NOT_WEIGHTS)
    files.write_text(kept, found)
    return found


def manifest_faults(checkpoint: Path) -> list[Fault]:
    """A checkpoint that was built here must still be what its manifest says: nothing else is that recipe's product."""
    again = "build it again with `python -m harness quantize SUITE --force`"
    try:
        listed = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))["files"]
        said = {name: str(about["sha256"]) for name, about in listed.items() if name not in NOT_WEIGHTS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [Damaged(str(checkpoint), "has no manifest.json that can be read", again)]
    if files.joined_sha256(said) != content_hash(checkpoint):
        return [Damaged(str(checkpoint), "is not what its manifest.json says: a file was changed or lost", again)]
    return []


def served_faults(checkpoint: Path, who: str = "") -> list[Fault]:
    """What a server would refuse, or answer noise from, is refused before any engine; where: file, tensor or field."""
    found = _unservable(checkpoint, content_hash(checkpoint))
    return [fault.at(f"{who}{files.shown(checkpoint)}: ") for fault in found]


@lru_cache
def _unservable(checkpoint: Path, content: str) -> list[Fault]:
    """`verify.servable_faults`, looked for once a checkpoint and content: many variants may serve one."""
    return verify.servable_faults(checkpoint)
