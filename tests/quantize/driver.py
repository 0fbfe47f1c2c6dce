"""Runs in the quantize environment, for tests: makes fixture T and builds several jobs with one import of torch.

`python -m tests.quantize.driver FOLDER`: reads FOLDER/jobs.json ({name: job}), writes FOLDER/results.json.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from quantize import upstream

FAMILIES = ("qwen2_5_vl_tiny", "gemma3_tiny")
"""Shapes whose tensors have other names on disk than in the model; Gemma's norms multiply by 1 + w."""


def main(folder: Path) -> None:
    upstream.prepare()
    upstream.trim()
    make_sources(folder)
    from harness.util.errors import Refused
    from quantize.job import build
    from quantize.recipe import Event, Job

    results: dict[str, Any] = {}
    for name, job in json.loads((folder / "jobs.json").read_text()).items():
        events: list[Event] = []
        result: dict[str, Any] = {"failed": None, "refused": []}
        try:
            result["failed"] = build(Job.model_validate(job), events.append)
        except Refused as refused:
            result["refused"] = [str(f) for f in refused.faults]
        results[name] = result | {"events": [json.loads(e.model_dump_json()) for e in events]}
    results["close"] = {name: difference(folder / name, folder / "out" / f"{name}_awq8") for name in FAMILIES}
    results["large_picture"] = {n: token_ids(folder / n) for n in ("T", "out/awq")}
    results["packed_alike"] = packed_alike(folder / "T")
    results["replay_difference"] = replay_difference(folder / "T")
    (folder / "results.json").write_text(json.dumps(results))


def difference(source: Path, product: Path) -> float:
    """How far a product's answers are from its source's: the largest difference of the logits, as a share of their spread."""
    import torch
    from transformers import AutoModelForImageTextToText

    ids = torch.arange(3, 60).unsqueeze(0)
    with torch.no_grad():
        models = (AutoModelForImageTextToText.from_pretrained(one, dtype=torch.bfloat16) for one in (source, product))
        before, after = (model(input_ids=ids).logits.float() for model in models)
    return float((after - before).abs().max() / before.std())


def packed_alike(source: Path) -> dict[str, bool]:
    """Whether pack.pack gives what compressed-tensors' compress_module gives, where a Linear takes several pieces."""
    import copy

    import torch
    from compressed_tensors.compressors import compress_module

    from quantize import llm_compressor, pack
    from quantize.fit import linears
    from tests.helpers.recipes import recipe

    names = [one.name for one in linears(source) if one.part == "language"]
    recipes: dict[str, dict[str, Any]] = {"g32": {"group_size": 32}, "asymmetric": {"symmetric": False}}
    recipes |= {"channel": {"group_size": -1}, "3 bit": {"num_bits": 3}, "bias": {}}
    alike, pack.PIECE = {}, 1 << 14
    loaded = llm_compressor.load(source, names)
    for name, given in recipes.items():
        if name == "bias":
            for linear in map(loaded.model.get_submodule, names):
                linear.bias = torch.nn.Parameter(torch.randn(linear.out_features))
        ours = llm_compressor.round_weights(
            loaded, recipe(method="rtn", observer="minmax", **given), None, [], lambda done, of: None
        )
        pack._to_bf16(ours.model)
        theirs = copy.deepcopy(ours.model)
        pack.pack(ours)
        for linear in map(theirs.get_submodule, names):
            compress_module(linear)
        a, b = ours.model.state_dict(), theirs.state_dict()
        alike[name] = a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)
    return alike


def replay_difference(source: Path) -> float:
    """Largest relative difference of the smoothed weights between llm-compressor's own replay and the joined one, in FP32:
    the rearrangements are exact, and in BF16 each order of a sum rounds in its own way."""
    import torch
    from llmcompressor.modifiers.transform.awq import AWQModifier

    from quantize import calibration, llm_compressor, replay
    from quantize.fit import linears
    from quantize.recipe import Calibration
    from tests.helpers.recipes import recipe

    llm_compressor.compute_dtype = lambda: torch.float32
    loaded = llm_compressor.load(source, [one.name for one in linears(source) if one.part == "language"])
    wanted = Calibration(samples=12)  # more tokens than inputs, so that the factorization is used
    batches = calibration.prepare(wanted, loaded.processor, calibration.read(wanted)).batches
    torch.set_num_threads(2)
    joined = llm_compressor.search(loaded, recipe(n_grid=5).modifiers(), batches, lambda done, of: None).weights
    replay.install = lambda: None
    AWQModifier._run_samples = replay._run_samples.original
    plain = llm_compressor.search(loaded, recipe(n_grid=5).modifiers(), batches, lambda done, of: None).weights
    return max(float((joined[n] - plain[n]).abs().max() / plain[n].abs().max()) for n in plain)


def make_sources(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from harness.checkpoints import shape
    from tests.helpers.tiny import make_checkpoint

    for name in FAMILIES:
        shape.make(name, folder / name)
        # Norms that a trained model would have: where all are 1 (or 0, of 1 + w), a mistake with them would not show.
        table = load_file(folder / name / "model.safetensors")
        for key in table:
            if key.endswith("layernorm.weight") and ".layers." in key and "vision" not in key:
                table[key] = table[key] + torch.rand(table[key].shape, dtype=torch.float32).to(table[key].dtype)
        save_file(table, folder / name / "model.safetensors", metadata={"format": "pt"})
    make_checkpoint(folder / "T")
    make_checkpoint(folder / "tied", tie=True)
    make_checkpoint(folder / "sick")
    weights = folder / "sick" / "model.safetensors"
    table = load_file(weights)
    shutil.copytree(folder / "T", folder / "stranger")
    config = folder / "stranger" / "config.json"
    config.write_text(config.read_text().replace("Qwen3VLForConditionalGeneration", "NoSuchModel"))
    table["model.language_model.layers.1.input_layernorm.weight"][7] = 1e30
    save_file(table, weights, metadata={"format": "pt"})


def token_ids(checkpoint: Path) -> list[int]:
    """Ids of a picture that expands past 64 tokens, as the processor of `checkpoint` makes them."""
    if not checkpoint.is_dir():
        return []
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(checkpoint)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}]
    text = processor.apply_chat_template(messages, tokenize=False)
    ids: list[int] = processor(text=[text], images=[Image.new("RGB", (256, 256))], return_tensors="pt")["input_ids"][0].tolist()
    return ids


if __name__ == "__main__":
    main(Path(sys.argv[1]))
