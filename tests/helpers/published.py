"""A Run to publish: what only this machine should know stands in it on purpose. And what every test of it does."""

from __future__ import annotations

from pathlib import Path

from harness.checkpoints import locate
from harness.record.folder import RunFolder
from harness.record.run_facts import RunFacts
from harness.util.progress import Reporter
from reports.card import publish
from reports.card.publish import Request
from tests.helpers.hub_server import HubServer
from tests.helpers.records import keep, record, sample, with_facts

REPO = "alice/Tiny-VL-AWQ"
KEY = f"models/{REPO}"
TOKEN = "ms-5ecre7-5ecre7-5ecre7"
RESULTS = "evaluation/s.json"


def make_run(path: Path, **change: object) -> RunFolder:
    """A Run of a baseline and one variant; `change` is made to the variant's Record."""
    run = RunFolder(path)
    asked = [sample(str(n), float(n % 4 > 0)) for n in range(40)]
    keep(run, record("bf16", "1"), asked)
    keep(run, record("int4", "2").model_copy(update=change), [*asked[:-1], sample("39", 0.0, "no")])
    recipe = {"method": "awq", "num_bits": 4, "group_size": 128, "observer": "mse", "symmetric": True, "n_grid": 20}
    recipe |= {"duo_scaling": True, "ignore": ["lm_head"], "mappings": [{}]}
    structure = {"packed": {"language": 28}, "plain": {}, "num_bits": 4, "group_size": 128, "symmetric": True}
    calibration = {"dataset": "demo", "used": 8, "asked": 8, "tokens": 99, "images": 8, "max_seq_length": 64, "seed": 0}
    manifest = {"versions": {"llmcompressor": "0.14"}, "search": {"mappings": 12}, "calibration": calibration}
    manifest["source"] = {"path": "/home/bob/secret/folder", "sha256": "0" * 64}
    storage = {"total_bytes": 9000, "safetensors_bytes": 8000, "safetensors_files": 1}
    variants = {
        "bf16": {"content": "a", "storage": storage | {"safetensors_bytes": 16000}},
        "int4": {"origin": "recipe", "content": "b", "recipe": recipe, "manifest": manifest, "structure": structure}
        | {"storage": storage, "checkpoint": "/home/bob/secret/int4"},
    }
    suite = {"name": "s", "model": "demo", "baseline": "bf16", "variants": {"bf16": {}, "int4": {"recipe": {}}}}
    suite["engine"] = {"env": {"SOME_KEY": "v4lue-of-it"}, "extra_args": ["--api-key", "hidden-hidden"]}
    suite["workloads"] = {"accuracy": {"tasks": ["t"]}}
    run.write(RunFacts.model_validate({"suite": suite, "baseline": "bf16", "variants": variants, "cells": ["1", "2"]}))
    return run


def environment(folder: Path, held: HubServer) -> dict[str, str]:
    state = {name: str(folder / "state" / name) for name in ("MODELSCOPE_HOME", "MODELSCOPE_CACHE")}
    state |= {"HARNESS_CACHE": str(folder / "cache"), "MODELSCOPE_API_TOKEN": TOKEN}
    return state | {"MODELSCOPE_ENDPOINT": held.url, "NO_PROXY": "127.0.0.1,localhost"}


def go(run: RunFolder, apply: bool = True, **more: object) -> str | None:
    shown: list[str] = []
    with Reporter() as report:
        return publish.publish(Request([run.path], REPO, apply=apply, **more), report, shown.append)  # type: ignore[arg-type]


def card(server: HubServer) -> str:
    return server.repos[KEY]["README.md"].decode()


def weights_of(run: RunFolder, checkpoint: Path, **facts: object) -> None:
    """Make the Run one of `checkpoint`; facts: what else run.json says of the variant."""
    found = {"checkpoint": str(checkpoint), "content": locate.content_hash(checkpoint)}
    set_variant(run, **(found | facts))


def set_variant(run: RunFolder, name: str = "int4", **facts: object) -> None:
    """Let run.json say something else of a variant."""
    variants = run.read().variants
    with_facts(run, variants=variants | {name: variants[name].model_copy(update=facts)})


def set_suite(run: RunFolder, **keys: object) -> None:
    """Let run.json say something else of the suite."""
    with_facts(run, suite=run.read().suite | keys)
