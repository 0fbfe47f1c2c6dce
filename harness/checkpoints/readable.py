"""Whether a server of this environment can read a checkpoint's config.json, its quantization_config above all.

vLLM validates the section with the QuantizationArgs of the release it runs on, which refuses unknown fields; builds
use a newer release. The fields are read from the installed package's source: importing it takes ten seconds, this a
hundredth of one, and it is done before every engine start.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.checkpoints.headers import Tensor, modules, read_config
from harness.families import family_of
from harness.util.errors import Fault, Refused

ARGUMENTS = ("weights", "input_activations", "output_activations")
"""Fields of a config group that hold QuantizationArgs."""


def config_faults(config: dict[str, Any], table: dict[str, Tensor]) -> list[Fault]:
    """What a server needs of config.json before it looks at a weight."""
    faults = []
    if not isinstance(config.get("architectures"), list) or not config["architectures"]:
        faults.append(Fault("config.json: architectures", "names no architecture", "the source model's"))
    vision = any(family_of(config).part_of(name) == "visual" for name in modules(table))
    for key, wanted in (("vision_config", vision), ("text_config", "text_config" in config)):
        if wanted and not isinstance(config.get(key), dict):
            faults.append(Fault(f"config.json: {key}", "is no object", "the source model's"))
    section = config.get("quantization_config")
    if section is not None and not isinstance(section, dict):
        faults.append(Fault("config.json: quantization_config", "is no object", "the section the build wrote"))
    return faults


def readable(checkpoint: Path) -> list[Fault]:
    """`unknown_fields`, and a section of another form than an object of objects is a fault too."""
    try:
        return unknown_fields(checkpoint)
    except (AttributeError, TypeError) as error:
        return [Fault("config.json: quantization_config", f"is not of the form that vLLM reads ({error})")]


def unknown_fields(checkpoint: Path) -> list[Fault]:
    """Fields of the section that the installed compressed-tensors does not know, each with both versions."""
    try:
        section = read_config(checkpoint).get("quantization_config")
    except Refused as refused:
        return list(refused.faults)
    if not isinstance(section, dict) or section.get("quant_method") not in (None, "compressed-tensors"):
        return []
    try:
        installed = importlib.metadata.version("compressed-tensors")
    except importlib.metadata.PackageNotFoundError:
        return [Fault("compressed-tensors", "is not installed here, so no server here can read the checkpoint")]
    schemes, arguments = _fields("quant_scheme.py", "QuantizationScheme"), _fields("quant_args.py", "QuantizationArgs")
    built = section.get("version", "unknown")
    faults = []
    for name, group in (section.get("config_groups") or {}).items():
        where = f"config.json: quantization_config.config_groups.{name}"
        if not isinstance(group, dict):
            faults.append(Fault(where, "not an object"))
            continue
        parts: list[tuple[str, dict[str, Any], frozenset[str]]] = [(where, group, schemes)]
        parts += [(f"{where}.{a}", group[a], arguments) for a in ARGUMENTS if isinstance(group.get(a), dict)]
        for place, value, known in parts:
            faults += [
                Fault(
                    f"{place}.{key}",
                    f"unknown to the installed compressed-tensors {installed} (the checkpoint was built with {built})",
                    "serve it with a vLLM that has that release or a later one, or build it with this one",
                )
                for key in value
                if known and key not in known
            ]
    return faults


@lru_cache
def _fields(file: str, name: str) -> frozenset[str]:
    """Annotated field names of a pydantic class in compressed_tensors/quantization; empty when it is not found."""
    spec = importlib.util.find_spec("compressed_tensors")  # finds a top-level package without importing it
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    path = Path(next(iter(spec.submodule_search_locations))) / "quantization" / file
    if not path.is_file():
        return frozenset()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return frozenset(
                item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            )
    return frozenset()
