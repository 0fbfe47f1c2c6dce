"""Tokenizer, processor, template and generation files of a checkpoint against its source's.

A file may be written anew by another release; what counts is what it says. Truncation left in tokenizer.json by
calibration is the fault that no smoke test shows: it appears with the first large picture.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.util.errors import Fault

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    "random_weights.json",
)
"""What a server or a client reads beside config.json and the weights, and the mark of weights that were never trained."""
LOOSE = ("added_tokens.json", "special_tokens_map.json", "generation_config.json", "chat_template.json")
"""Files that may be empty, or of another form."""
VOLATILE = {"transformers_version", "_commit_hash", "_name_or_path", "name_or_path", "tokenizer_file"}
"""Keys that say who wrote a file, not what it means."""


def side_file_faults(checkpoint: Path, source: Path | None, config: dict[str, Any]) -> list[Fault]:
    """Missing or changed files; without a source, what can be told from the checkpoint alone."""
    faults = _tokenizer_faults(checkpoint, source)
    if source is None:
        return faults + missing_files(checkpoint, config)
    for name in FILES:
        theirs, ours = source / name, checkpoint / name
        if theirs.is_file() and not ours.is_file():
            faults.append(Fault(name, "missing; the source has it", "copy it from the source"))
        elif theirs.is_file() and name != "tokenizer.json" and ours.read_bytes() != theirs.read_bytes():
            faults += _difference(name, ours, theirs)
    return faults


def missing_files(checkpoint: Path, config: dict[str, Any]) -> list[Fault]:
    """Files without which no server takes a text, or a picture."""
    faults = []
    if not any((checkpoint / n).is_file() for n in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        faults.append(Fault("tokenizer.json", "missing", "the tokenizer files of the source model"))
    needs_images = "vision_config" in config
    if needs_images and not any((checkpoint / n).is_file() for n in ("preprocessor_config.json", "processor_config.json")):
        faults.append(
            Fault("preprocessor_config.json", "missing; without it no server takes a picture", "the file of the source model")
        )
    return faults


def unreadable_files(checkpoint: Path) -> list[Fault]:
    """Files that a server reads as JSON and that are none, or empty."""
    named = [checkpoint / name for name in FILES if name.endswith(".json")]
    broken = [p.name for p in named if p.is_file() and not _json(p) and p.name not in LOOSE]
    return [Fault(name, "is not a JSON object, or an empty one", "the file of the source model") for name in broken]


def _tokenizer_faults(checkpoint: Path, source: Path | None) -> list[Fault]:
    path = checkpoint / "tokenizer.json"
    if not path.is_file():
        return []
    if source is not None and (source / path.name).is_file() and path.read_bytes() == (source / path.name).read_bytes():
        return []
    ours = _json(path)
    if ours is None:
        return [Fault(path.name, "not JSON")]
    theirs = _json(source / path.name) if source is not None else None
    faults = []
    for key in ("truncation", "padding"):
        expected = theirs.get(key) if theirs else None
        if ours.get(key) != expected:
            faults.append(
                Fault(
                    f"tokenizer.json: {key}",
                    f"is {json.dumps(ours.get(key))}, {'the source says' if theirs else 'it should be'} {json.dumps(expected)}",
                    "copy the file from the source: calibration leaked into it",
                )
            )
    if theirs:
        changed = sorted(
            k for k in theirs.keys() | ours.keys() if k not in ("truncation", "padding") and theirs.get(k) != ours.get(k)
        )
        if changed:
            faults.append(
                Fault("tokenizer.json", f"differs from the source's in {', '.join(changed)}", "copy the file from the source")
            )
    return faults


def _difference(name: str, ours: Path, theirs: Path) -> list[Fault]:
    a, b = _json(ours), _json(theirs)
    if a is None or b is None:
        return [Fault(name, "differs from the source's", "copy the file from the source")]
    changed = sorted(k for k in a.keys() | b.keys() if k not in VOLATILE and a.get(k) != b.get(k))
    return (
        [Fault(name, f"differs from the source's in {', '.join(changed)}", "copy the file from the source")] if changed else []
    )


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
