"""The chat template that vLLM will use for a checkpoint, of the several places that may hold one.

vLLM takes the processor's template, else the tokenizer's (vllm/renderers/hf.py). transformers reads a processor's from
processor_config.json, else chat_template.json, else chat_template.jinja (processing_utils.py), and a tokenizer's from
chat_template.jinja, else tokenizer_config.json (tokenization_utils_base.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.util import rows
from harness.util.errors import Fault, Refused

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""A folder with one of these has a processor; one without has a tokenizer alone."""
RIGHT = "copy chat_template.jinja from the source model"


@dataclass(frozen=True)
class ChatTemplate:
    """One template."""

    file: str
    text: str


def templates(folder: Path) -> list[ChatTemplate]:
    """Every template of a checkpoint, the one that is used first. Raises Refused for a file that holds one and cannot be
    read."""
    processor = any((folder / name).is_file() for name in PROCESSORS)
    places = ["processor_config.json", "chat_template.json"] if processor else []
    found = []
    for name in [*places, "chat_template.jinja", "tokenizer_config.json"]:
        path = folder / name
        text = _text(path) if path.is_file() else None
        if text is not None:
            found.append(ChatTemplate(name, text))
    return found


def used(folder: Path) -> ChatTemplate | None:
    """The one that vLLM will use; None where there is none, or it cannot be read."""
    try:
        return next(iter(templates(folder)), None)
    except Refused:
        return None


def faults(folder: Path) -> list[Fault]:
    """No template, one that cannot be read, or one that is no Jinja: no server could answer a chat."""
    try:
        found = templates(folder)
    except Refused as refused:
        return list(refused.faults)
    if not found:
        places = "chat_template.jinja, chat_template.json, processor_config.json or tokenizer_config.json"
        return [Fault("chat template", f"there is none in {places}", RIGHT)]
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        # transformers' own tag for what an assistant says stands in no file of the library's.
        source = found[0].text.replace("{% generation %}", "").replace("{% endgeneration %}", "")
        ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(source)
    except jinja2.TemplateSyntaxError as error:
        return [Fault(found[0].file, f"is no Jinja template: line {error.lineno}: {error.message}", RIGHT)]
    return []


def notes(folder: Path) -> list[str]:
    """Which template is used, where others say something else."""
    try:
        found = templates(folder)
    except Refused:
        return []
    other = [one.file for one in found[1:] if one.text != found[0].text]
    return [f"vLLM will use the chat template in {found[0].file}; {' and '.join(other)} holds another"] if other else []


def _text(path: Path) -> str | None:
    if path.suffix == ".jinja":
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            what = f"cannot be read: {getattr(error, 'strerror', None) or 'it is no UTF-8 text'}"
            raise Refused(Fault(path.name, what, RIGHT)) from None
    try:
        content = rows.parsed(rows.read(path), path.name)
    except Refused:
        if path.name != "chat_template.json":
            return None  # told as a file of its own kind
        raise
    value: Any = content.get("chat_template") if isinstance(content, dict) else None
    if isinstance(value, list):
        value = next((one.get("template") for one in value if isinstance(one, dict) and one.get("name") == "default"), None)
    if isinstance(value, dict):
        value = value.get("default")
    if isinstance(value, str):
        return value
    if path.name == "chat_template.json":
        raise Refused(Fault(path.name, "has no chat_template, and transformers reads no processor beside it", RIGHT))
    return None
