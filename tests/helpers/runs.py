"""Made-up Runs for the reports: what a Run of every workload holds, without an engine."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.record.folder import RunFolder
from harness.record.records import CellId, Metric, Record
from harness.record.run_facts import RunFacts
from harness.record.samples import Sample
from tests.helpers.records import record, sample

GIB = 2**30


def recipe(method: str = "awq", group_size: int = 128, observer: str = "mse", symmetric: bool = True) -> dict[str, Any]:
    """What run.json says of a recipe."""
    return {"method": method, "num_bits": 4, "group_size": group_size, "observer": observer, "symmetric": symmetric}


def variant(gib: float, made: dict[str, Any] | None = None) -> dict[str, Any]:
    """A built variant as run.json tells it."""
    size = int(gib * GIB)
    packed = {"packed": {"language": 252}, "plain": {"visual": 116, "lm_head": 1}, "num_bits": 4, "symmetric": True}
    plain = {"packed": {}, "plain": {"language": 252, "visual": 116, "lm_head": 1}, "num_bits": None, "symmetric": None}
    return {
        "origin": "recipe" if made else "source",
        "content": f"{size:x}",
        "recipe": made,
        "storage": {"total_bytes": size + 2**20, "safetensors_bytes": size, "safetensors_files": 2},
        "structure": (packed | {"group_size": made["group_size"]}) if made else (plain | {"group_size": None}),
    }


def answers(n: int, wrong: set[int] = frozenset(), own_prefix: str = "") -> Iterator[Sample]:  # type: ignore[assignment]
    """Samples of which those in `wrong` were answered wrongly."""
    for i in range(n):
        right = i not in wrong
        yield sample(f"{own_prefix}{i}", float(right), f"answer {i}" if right else f"mistake {i}", target=f"answer {i}")


def speed_record(name: str, load: str, concurrency: int, trial: int, factor: float, **more: Any) -> Record:
    """One trial of `throughput` (or, at 1, of `latency`)."""
    workload = "latency" if concurrency == 1 else "throughput"
    rate = 60.0 * concurrency**0.8 * factor * (1 + 0.01 * trial)
    metrics = {
        "output_throughput": Metric(value=rate, unit="tokens/s", source="client"),
        "request_throughput": Metric(value=rate / 128, unit="requests/s", source="client"),
        "mean_ttft_ms": Metric(value=40.0 * concurrency**0.5 / factor, unit="ms", source="client"),
        "mean_tpot_ms": Metric(value=1000.0 * concurrency / rate, unit="ms", source="client"),
        "mean_e2el_ms": Metric(value=128000.0 * concurrency / rate, unit="ms", n=16, source="client"),
        "p99_e2el_ms": Metric.missing("ms", "needs 100 requests"),
        "energy_per_output_token_j": Metric(value=0.9 / factor, unit="J", source="computed"),
    }
    base = record(name, f"{name}-{load}-{concurrency}-{trial}")
    point = {"load": load, "concurrency": concurrency, "trial": trial}
    cell = CellId(variant=name, workload=workload, point=point, key=base.cell.key)
    return base.model_copy(update={"cell": cell, "metrics": metrics, **more})


def memory_record(name: str, weights: float, **more: Any) -> Record:
    """Memory of one engine."""
    base = record(name, f"{name}-memory")
    sizes = {"weights_gib": weights, "kv_cache_gib": 60 - weights, "graphs_gib": 0.5, "activations_gib": 1.2}
    metrics = {key: Metric(value=size, unit="GiB", source="log") for key, size in sizes.items()}
    metrics["other_gib"] = Metric(value=2.5, unit="GiB", source="computed")
    metrics["kv_cache_tokens"] = Metric(value=(60 - weights) * 7000, unit="tokens", source="log")
    metrics["device_peak_gib"] = Metric(value=63.0, unit="GiB", source="nvml")
    metrics["pss_peak_gib"] = Metric.missing("GiB", "not read on a GPU")
    cell = CellId(variant=name, workload="memory", point={"load": "concurrency8"}, key=base.cell.key)
    return base.model_copy(update={"cell": cell, "metrics": metrics, **more})


def write(folder: RunFolder, variants: dict[str, Any], keys: list[str], baseline: str = "bf16", **suite: Any) -> RunFolder:
    """run.json for Records that are there."""
    facts = {"suite": {"name": "made-up", "model": "m"} | suite, "baseline": baseline, "variants": variants, "cells": keys}
    folder.write(RunFacts.model_validate(facts))
    return folder


def full_run(path: Path, tasks: tuple[str, ...] = ("charts", "text"), n: int = 60, **more: Any) -> RunFolder:
    """Accuracy, speed and memory of a baseline, two INT4 variants and one that failed."""
    folder, keys = RunFolder(path), []
    variants = {
        "bf16": variant(16.3),
        "awq-g128": variant(6.7, recipe()),
        "rtn-g32": variant(7.1, recipe("rtn", 32, "minmax")),
        "gone": {},
    }
    for number, (name, weights, factor) in enumerate((("bf16", 16.4, 1.0), ("awq-g128", 6.8, 1.9), ("rtn-g32", 7.2, 1.7))):
        for task in tasks:
            made = record(name, f"{name}-{task}", task, checkpoint=variants[name]["content"])
            wrong = set(range(50, 50 + 4)) | {i for i in range(number * 3)}
            score = Metric(value=1 - len(wrong) / n, unit="share", n=n, stderr=0.03)
            made = made.model_copy(update={"metrics": {"score": score}, **more})
            keys.append(folder.add(made, answers(n, wrong, task)).cell.key)
        for concurrency in (1, 8, 32):
            for trial in (1, 2, 3):
                keys.append(folder.add(speed_record(name, "image512", concurrency, trial, factor, **more)).cell.key)
        keys.append(folder.add(memory_record(name, weights, **more)).cell.key)
    failed = record("gone", "gone-charts", "charts").model_copy(
        update={"status": "failed", "reason": "the engine died", "metrics": {}}
    )
    keys.append(folder.add(failed).cell.key)
    return write(folder, variants, keys)


def big_run(path: Path, variants: int, tasks: int, samples: int, changed: float = 0.03) -> RunFolder:
    """variants x tasks Cells of so many samples; a share of a candidate's answers differ from the baseline's."""
    folder, keys = RunFolder(path), []
    draw = random.Random(0)
    folder.samples_path("x").parent.mkdir(parents=True, exist_ok=True)
    names = ["bf16", *(f"int4-{i}" for i in range(1, variants))]
    for t in range(tasks):
        wrong = {i for i in range(samples) if draw.random() < 0.2}
        lines = [s.model_dump_json() for s in answers(samples, wrong, f"{t}-")]
        for v, name in enumerate(names):
            own = list(lines)
            for i in range(samples) if v else ():
                if draw.random() < changed:
                    own[i] = sample(
                        f"{t}-{i}", float(draw.random() < 0.7), f"other {v}", target=f"answer {i}"
                    ).model_dump_json()
            key = f"{v}-{t}"
            data = ("\n".join(own) + "\n").encode()
            folder.samples_path(key).write_bytes(data)
            made = record(name, key, f"task{t}", checkpoint=name).model_copy(
                update={"samples": samples, "samples_bytes": len(data)}
            )
            (folder.path / "records").mkdir(exist_ok=True)
            (folder.path / "records" / f"{key}.json").write_text(made.model_dump_json(), encoding="utf-8")
            keys.append(key)
    found = {name: variant(16.3 if name == "bf16" else 6.7, None if name == "bf16" else recipe()) for name in names}
    return write(folder, found, keys)
