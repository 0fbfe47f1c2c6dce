"""What of a Run goes to a model's page beside the block: the results as JSON, and the keys of the front matter."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from harness import __version__
from harness.checkpoints.verify import Structure
from harness.compare.answers import Comparison
from harness.compare.runs import compare_run
from harness.compare.trials import compare_speed
from harness.record.records import Record
from harness.record.run_facts import VariantFacts
from harness.util.errors import Fault
from harness.workloads import kind_of
from quantize.methods import method_of
from reports.card import public
from reports.card.edit import Key
from reports.card.view import RunView

MARK = "vl-harness"
"""Stands in the description of every result that is written, so that they are known again."""
TASK = "image-text-to-text"


@dataclass(frozen=True)
class Subject:
    """One variant, and the Runs that measured it."""

    variant: str
    runs: Sequence[RunView]
    """Views of `variant` and its baseline, publishable Records alone."""
    base_model: str | None
    """OWNER/NAME of the model it was made from; None where that is not known."""
    outcomes: dict[str, str]
    """What the gate of each suite says, by the suite's name; suites without a gate are not named."""

    @property
    def baseline(self) -> str:
        """What the variant is compared with."""
        return self.runs[0].baseline

    @property
    def facts(self) -> VariantFacts:
        """What the first Run knows of the variant: recipe, storage, structure, manifest."""
        return self.runs[0].facts.variant(self.variant)

    @property
    def packed(self) -> Structure | None:
        """The scheme of the variant's packed layers; None when it has none."""
        found = self.facts.structure
        return found if found and found.packed else None

    def records(self) -> list[Record]:
        """The variant's own Records."""
        return [r for run in self.runs for r in run.records() if r.cell.variant == self.variant]


def suite_name(run: RunView) -> str:
    """The suite's name."""
    return run.suite_name


def results_path(run: RunView) -> str:
    """Where a Run's results lie in the repository: one file a suite, in plain letters."""
    name = suite_name(run)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    if plain != name:
        plain = f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")
    return f"evaluation/{plain}.json"


@lru_cache(maxsize=16)
def compared(run: RunView) -> tuple[list[Comparison], list[Fault]]:
    """`compare_run` of a view; computed once, for block, front matter and results alike."""
    return compare_run(run, run.baseline)


def results(run: RunView) -> bytes:
    """A Run's results as JSON: the suite with every setting, comparisons, Records. The same Run gives the same bytes."""
    facts = run.facts
    comparisons, faults = compared(run)
    speed, slow = compare_speed(run, run.baseline)
    whole = {
        "schema_version": 1,
        "written_by": f"{MARK} {__version__}",
        "suite": facts.suite,
        "baseline": run.baseline,
        "variants": {name: v.model_dump(mode="json", exclude_unset=True) for name, v in facts.variants.items()},
        "accuracy": [_plain(c) for c in comparisons],
        "speed": [_plain(c) for c in speed],
        "not_compared": [str(fault) for fault in dict.fromkeys([*faults, *slow])],
        "records": [record.model_dump(mode="json") for record in run.records()],
        "left_out": [{"cell": r.cell.label, "status": r.status, "reason": r.reason} for r in run.left_out()],
    }
    return (json.dumps(public.value(whole), ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()


def _plain(comparison: Any) -> dict[str, Any]:
    """A comparison without its examples: the documents may not be ours to print."""
    return {k: v for k, v in dataclasses.asdict(comparison).items() if k != "examples"} | {"verdict": comparison.verdict}


def keys(subject: Subject, model_index: str | None) -> list[Key]:
    """The keys of the front matter that ModelScope documents; `model_index` names the model in Hugging Face's form as well."""
    packed, scored = subject.packed, _scored(subject)
    method = method_of((subject.facts.recipe or {}).get("method"))
    tags = [method.tag] if method and method.tag else []
    bits = dict.fromkeys(one.name.lower() for one in packed.schemes) if packed else {}
    # Runs of earlier versions knew 16-bit activations alone.
    tags += [*(bits or [f"w{packed.num_bits}a16"]), packed.maker or "compressed-tensors"] if packed else []
    found = [Key("base_model", subject.base_model)] if subject.base_model else []
    found += [Key("base_model_relation", "quantized")] if packed else []
    found += [Key("tasks", [TASK], "offer"), Key("tags", [*tags, "vllm"], "add")]
    found += [Key("metrics", ["accuracy"], "add")] if scored else []
    found.append(Key("indexing", {"results": [_indexing(subject, r) for r in scored]} if scored else None, own=_is_ours))
    if model_index is not None:
        entry = {"name": model_index, "results": [_model_index(r) for r in scored]}
        found.append(Key("model-index", [entry] if scored else None, own=_is_our_model_index))
    return found


def _scored(subject: Subject) -> list[Record]:
    """The variant's accuracy Records that were measured here."""
    return [
        r
        for r in subject.records()
        if kind_of(r.cell.workload).compared_by == "answers"
        and not r.imported_from
        and "score" in r.metrics
        and "score" in r.metrics
        and r.metrics["score"].value is not None
    ]


def _indexing(subject: Subject, record: Record) -> dict[str, Any]:
    score, task = record.metrics["score"], str(record.cell.point["task"])
    said = [f"{subject.variant}, n {score.n}"]
    if score.stderr is not None:
        said.append(f"standard error {score.stderr:.4f}")
    found = next((c for c in _comparisons(subject) if c.task == task), None)
    if found is not None and found.recovery.value == found.recovery.value:
        r = found.recovery
        said.append(f"{subject.baseline} {found.baseline_score:.4f}")
        said.append(f"recovery {100 * r.value:.2f} % [{100 * r.low:.2f}, {100 * r.high:.2f}]")
    measured = {"type": "accuracy", "value": _value(record), "description": f"{'; '.join(said)}; {MARK}", "args": "default"}
    dataset = {"name": task, "type": "image", "args": "default"}
    return {"task": {"name": "Visual Question Answering"}, "dataset": dataset, "metrics": [measured]}


def _model_index(record: Record) -> dict[str, Any]:
    task = str(record.cell.point["task"])
    metric = {"type": "accuracy", "value": _value(record), "name": f"accuracy ({MARK})"}
    return {"task": {"type": TASK}, "dataset": {"name": task, "type": task}, "metrics": [metric]}


def _value(record: Record) -> float:
    value = record.metrics["score"].value
    assert value is not None
    return round(value, 4)


def _comparisons(subject: Subject) -> list[Comparison]:
    return [c for run in subject.runs for c in compared(run)[0] if c.candidate == subject.variant]


def _is_ours(old: Any) -> bool:
    """Whether every result under an old `indexing` was written by publish."""
    try:
        return all(MARK in metric["description"] for result in old["results"] for metric in result["metrics"])
    except (KeyError, TypeError):
        return old in (None, {}, [], "")


def _is_our_model_index(old: Any) -> bool:
    try:
        return all(MARK in metric["name"] for entry in old for result in entry["results"] for metric in result["metrics"])
    except (KeyError, TypeError):
        return old in (None, {}, [], "")
