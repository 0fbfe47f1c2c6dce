"""Checkpoints with random weights in the true shape of a model that is not at hand: `model: {shape: qwen3_vl_8b}`.

Size, memory, speed and energy do not depend on the values of weights, so they can be measured without the model;
accuracy cannot, and is refused.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness import demo
from harness.checkpoints import headers
from harness.checkpoints.shards import INDEX
from harness.families import FAMILIES, Family, Sizes
from harness.families.base import Processors
from harness.util import environments, files
from harness.util.errors import Fault, Refused
from harness.util.strict import Strict

FOLDER = Path("models") / "shapes"
MARK = "random_weights.json"
"""The file in a checkpoint's folder that says that its weights are random; products built from it carry it on."""
VOCABULARY = "dashscope"
"""The package that carries Qwen's own vocabulary (resources/qwen.tiktoken)."""

SHAPES: dict[str, Family] = {name: family for family in FAMILIES for name in family.shapes}
"""Every shape of every family."""
if TYPE_CHECKING:
    ShapeName = str
else:
    ShapeName = Literal[tuple(SHAPES)]


class Shape(Strict):
    """A model of random weights in the shape of a real one: for size, memory, speed and energy, never for accuracy.

    Its recipes are calibrated on a few samples of the demo, whatever `calibration` says: there is nothing to preserve.
    """

    shape: ShapeName
    """Which one; `python -m harness shape NAME` makes its checkpoint."""


def is_random(checkpoint: Path) -> bool:
    """Whether a checkpoint says that its weights were never trained."""
    return (checkpoint / MARK).is_file()


def make(name: str, folder: Path | None = None) -> Path:
    """Write the checkpoint (BF16, shards of 5 GB) and return its folder; one that is there whole is left as it is.

    Needs torch and, for a real model's shape, the vocabulary's package, and a GPU or 40 GB of host memory for 8 B
    parameters. Raises Refused.
    """
    if name not in SHAPES:
        raise Refused(Fault(f"shape {name}", "is not known", f"there are: {', '.join(SHAPES)}"))
    folder = folder or FOLDER / name
    if (folder / MARK).is_file():
        return folder
    if folder.exists():
        raise Refused(Fault(str(folder), "is there and was not made by this command", "remove it, or name another folder"))
    family, sizes = SHAPES[name], SHAPES[name].shapes[name]
    vocabulary = None if sizes.tiny else _vocabulary()
    environments.prepare_imports()
    with files.new_folder(folder) as place:
        tokenizer = _tokenizer(family, vocabulary)
        tokenizer.save_pretrained(place)
        _processor_files(family, sizes, tokenizer, place)
        _weights(family, sizes, tokenizer, place)
        # Last, so that only a whole checkpoint has it.
        files.write_json(place / MARK, {"shape": name, "seed": 0, "weights": "random, never trained"})
    return folder


def _vocabulary() -> Path:
    spec = importlib.util.find_spec(VOCABULARY)
    if spec is None or not spec.submodule_search_locations:
        raise Refused(
            Fault("Qwen's vocabulary", f"the package {VOCABULARY} is not installed", f"pip install {VOCABULARY} tiktoken")
        )
    return Path(next(iter(spec.submodule_search_locations))) / "resources" / "qwen.tiktoken"


def _tokenizer(family: Family, vocabulary: Path | None) -> Any:
    """Qwen's tokenizer (without its vocabulary: the demo's), its special tokens in their places and the family's behind
    them, and its chat template with the family's words for a picture."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    from harness.demo import tokenizer as words

    given = family.processors
    assert given is not None, f"{family.name} has no processors"
    template = words.CHAT_TEMPLATE.replace(Processors.picture, given.picture)
    named: dict[str, Any] = {"extra_special_tokens": dict(given.named)} if given.named else {}
    if vocabulary is None:
        made = AutoTokenizer.from_pretrained(demo.MODEL_DIR, chat_template=template, **named)
    else:
        core = TikTokenConverter(
            str(vocabulary), pattern=words.PIECES, extra_special_tokens=list(words.SPECIAL_TOKENS)
        ).converted()
        made = PreTrainedTokenizerFast(
            tokenizer_object=core,
            eos_token=words.END,
            pad_token="<|endoftext|>",
            additional_special_tokens=[t for t in words.SPECIAL_TOKENS if t not in (words.END, "<|endoftext|>")],
            model_max_length=262144,
            clean_up_tokenization_spaces=False,
            chat_template=template,
            **named,
        )
    made.add_tokens([*given.tokens], special_tokens=True)
    return made


def _processor_files(family: Family, sizes: Sizes, tokenizer: Any, folder: Path) -> None:
    import transformers

    given = family.processors
    assert given is not None
    parts = {"image_processor": getattr(transformers, given.image)(**sizes.pictures), "tokenizer": tokenizer}
    if given.video:
        settings = sizes.pictures if given.image.startswith("Qwen") else {}
        parts["video_processor"] = getattr(transformers, given.video)(**settings)
    made = getattr(transformers, given.processor)(**parts, chat_template=tokenizer.chat_template, **sizes.processor)
    made.save_pretrained(folder)
    # Releases of transformers and of vLLM read one file or the other.
    made.image_processor.save_pretrained(folder)


def _weights(family: Family, sizes: Sizes, tokenizer: Any, folder: Path) -> None:
    import torch
    import transformers

    given = family.processors
    assert given is not None
    config_class, model_class = (getattr(transformers, one) for one in family.classes)
    numbers = {key: tokenizer.convert_tokens_to_ids(token) for key, token in given.ids.items()}
    config = config_class(**{**sizes.config, **numbers})
    text = config.get_text_config()
    text.eos_token_id, text.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = model_class(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder, max_shard_size="5GB")
    if family.published or family.turned:
        _as_published(family, folder)


def _as_published(family: Family, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in headers.weight_files(folder):
        given = load_file(file)
        for name in given:
            if family.turned and re.match(family.turned, name):
                given[name] = given[name].transpose(-2, -1).contiguous()
        save_file({family.published_as(name): tensor for name, tensor in given.items()}, file, {"format": "pt"})
    index = folder / INDEX
    if index.is_file():
        content = json.loads(index.read_text(encoding="utf-8"))
        content["weight_map"] = {family.published_as(name): file for name, file in content["weight_map"].items()}
        files.write_json(index, content)
