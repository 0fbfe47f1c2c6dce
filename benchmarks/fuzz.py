"""Mutated input of every kind a user brings: `python -m benchmarks.fuzz OUT.json [--cases 2000]`.

Suites, policies, configs, weight indexes, safetensors headers, rows of data, Records and model cards are mutated and read as
the commands read them. Each must end in its result or in a refusal of one line a fault, within 5 seconds; what was made
invalid must not pass. The seed is fixed: the same code tries the same cases.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from harness import demo
from harness.checkpoints import shards
from harness.checkpoints.headers import tensors
from harness.checkpoints.verify import servable_faults, verify
from harness.plan.plan import make_plan
from harness.record.folder import RunFolder
from harness.suite.gate_policy import load_policy
from harness.suite.schema import load_suite
from harness.util import environments, files, rows
from harness.util.errors import CellFailed, Refused
from harness.util.progress import Reporter
from quantize.samples import sample_of
from reports import tables
from reports.card import edit

LIMIT_S = 5
"""A case that takes longer hangs."""
SUITE: dict[str, Any] = {
    "name": "fuzz",
    "model": "demo",
    "variants": {"bf16": {}, "int4": {"recipe": {"group_size": 128}}, "again": {"repeat": 1}},
    "calibration": {"dataset": "demo", "samples": 8},
    "workloads": {
        "accuracy": {"tasks": ["demo_vl_text"], "limit": 4, "concurrency": 4},
        "latency": {"loads": {"text": {"images": 0, "input_len": 8, "output_len": 8}}, "concurrency": [1], "trials": 2},
    },
    "engine": {"max_model_len": 512, "max_num_seqs": 8},
    "passes": 2,
}
POLICY: dict[str, Any] = {
    "accuracy": {"min_recovery": 0.98, "tasks": ["all"], "max_divergence": 0.1},
    "speed": {"max_slowdown": 0.05, "metrics": ["output_throughput"]},
    "memory": {"max_growth": 0.05},
    "may_differ": ["versions"],
}
ROWS: list[dict[str, Any]] = [
    {"question": "What?", "answer": "red"},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}]}, {"role": "assistant", "content": "red"}]},
    {"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "red"}]},
    {"text": "A text."},
]
CARD = """---
license: apache-2.0
tags: [a, b]
model-index:
- name: m
  results: []
---
# Title

text
<!-- vl-harness:begin -->
old
<!-- vl-harness:end -->
"""
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 2**70, 1e308, "", " ", "x", "\u2028", "..", "/", "re:[", "2026-13-45"]),
    st.sampled_from([[], {}, [[]], {"a": 1}, ["x", None]]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
"""Values that somebody might write in another's place."""


class Hang(Exception):
    """A case took too long."""


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value but its root."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from paths(inner, (*at, key))


def mutated(data: Any, base: Any) -> tuple[Any, str]:
    """A copy of a JSON value with one place changed, lost, doubled or with a key too many; and what was done."""
    value = copy.deepcopy(base)
    place = data.draw(st.sampled_from(list(paths(base))))
    parent = value
    for key in place[:-1]:
        parent = parent[key]
    action = data.draw(st.sampled_from(["replace", "lose", "add", "wrap"]))
    if action == "replace":
        parent[place[-1]] = data.draw(ODD)
    elif action == "lose":
        del parent[place[-1]]
    elif action == "wrap":
        parent[place[-1]] = [parent[place[-1]]]
    elif isinstance(parent, dict):
        parent[data.draw(st.sampled_from(["unknwon", "Name", " x"]))] = data.draw(ODD)
    else:
        parent.append(data.draw(ODD))
    return value, f"{action} {'.'.join(map(str, place))}"


def bytes_of(data: Any, base: bytes) -> bytes:
    """Bytes with some changed, cut or put in."""
    at = data.draw(st.integers(0, len(base) - 1))
    action = data.draw(st.sampled_from(["cut", "flip", "put"]))
    if action == "cut":
        return base[:at]
    if action == "flip":
        return base[:at] + bytes([base[at] ^ data.draw(st.integers(1, 255))]) + base[at + 1 :]
    return base[:at] + data.draw(st.binary(min_size=1, max_size=4)) + base[at:]


# -- one target each: raises AssertionError where something invalid passed, anything else is a fault of the reader -------


def suites(data: Any, folder: Path) -> None:
    """A suite, loaded and planned."""
    value, done = mutated(data, SUITE)
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8")
    suite = load_suite(path)
    # A key that no section knows is never taken; names of variants and of loads are the user's.
    own = ("variants", "workloads.latency.loads")
    parent = done.removeprefix("add ").rpartition(".")[0]
    assert not done.startswith("add") or parent in own or "unknwon" not in str(value), f"{done} passed"
    make_plan(suite, folder / "checkpoints")


def policies(data: Any, folder: Path) -> None:
    """A gate's policy."""
    value, _ = mutated(data, POLICY)
    path = folder / "policy.yaml"
    path.write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8")
    load_policy(path)


def configs(data: Any, folder: Path) -> None:
    """config.json of a checkpoint whose tensors are whole."""
    base = json.loads((demo.MODEL_DIR / "config.json").read_text(encoding="utf-8"))
    value, done = mutated(data, base)
    files.write_json(folder / "model" / "config.json", value)
    found = servable_faults(folder / "model")
    verify(folder / "model")
    sizes = ("text_config.num_hidden_layers", "text_config.vocab_size", "text_config.hidden_size", "vision_config.depth")
    changed = next((size for size in sizes if done == f"replace {size}"), None)
    if changed is not None:
        section, key = changed.split(".")
        assert value[section][key] == base[section][key] or found, f"{done} passed"


def indexes(data: Any, folder: Path) -> None:
    """A weight index beside one file of weights."""
    names = sorted(tensors(demo.MODEL_DIR))[:6]
    whole = {"weight_map": dict.fromkeys(sorted(tensors(demo.MODEL_DIR)), "model.safetensors")}
    value, done = mutated(data, {"weight_map": {name: whole["weight_map"][name] for name in names}})
    if isinstance(value.get("weight_map"), dict):
        value["weight_map"] = {n: s for n, s in whole["weight_map"].items() if n not in names} | value["weight_map"]
    path = folder / "model" / shards.INDEX
    files.write_json(path, value)
    _, found = shards.read(folder / "model")
    path.unlink()
    assert value == whole or "add" in done or found, f"{done} passed"


def headers(data: Any, folder: Path) -> None:
    """The first bytes of a safetensors file: its length and its header."""
    path = folder / "model" / "model.safetensors"
    whole = (demo.MODEL_DIR / "model.safetensors").read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    path.write_bytes(bytes_of(data, whole[:length]) + whole[length:])
    servable_faults(folder / "model")
    shutil.copy(demo.MODEL_DIR / "model.safetensors", path)


def data_rows(data: Any, folder: Path) -> None:
    """A row of calibration data: mutated as JSON, then as bytes."""
    value, _ = mutated(data, data.draw(st.sampled_from(ROWS)))
    line = json.dumps(value, ensure_ascii=False).encode("utf-8")
    path = folder / "rows.jsonl"
    path.write_bytes(bytes_of(data, line) if data.draw(st.booleans()) else line)
    for number, row in rows.objects(path):
        made = sample_of(f"rows.jsonl:{number}", row, folder)
        turns = made.messages or [{"content": made.text}]
        assert all(turn["content"] for turn in turns), f"an empty turn passed: {row}"


def records(data: Any, folder: Path) -> None:
    """A Record or its samples in a Run that is reported."""
    run = folder / "run"
    path = data.draw(st.sampled_from(sorted([*(run / "records").iterdir(), *(run / "samples").iterdir(), run / "run.json"])))
    whole = path.read_bytes()
    changed = bytes_of(data, whole)
    path.write_bytes(changed)
    try:
        opened = RunFolder.existing(run)
        tables.markdown(opened)
        if path.parent.name == "samples" and opened.record(path.stem) is not None:
            assert changed == whole or b"samples_sha256" not in (run / "records" / f"{path.stem}.json").read_bytes(), path
    finally:
        path.write_bytes(whole)


def cards(data: Any, folder: Path) -> None:
    """A model card that a block is put into; what is written by hand stays."""
    text = bytes_of(data, CARD.encode()).decode("utf-8", errors="replace")
    made, _ = edit.with_keys(edit.with_block(text, "new block"), [edit.Key("license", "mit", "offer")])
    assert "new block" in made and made.count("Title") == text.count("Title")


TARGETS: dict[str, Callable[[Any, Path], None]] = {
    "suites": suites,
    "policies": policies,
    "configs": configs,
    "indexes": indexes,
    "headers": headers,
    "rows": data_rows,
    "records": records,
    "cards": cards,
}


def prepared(folder: Path) -> None:
    """What the targets mutate: a checkpoint and a Run."""
    shutil.copytree(demo.MODEL_DIR, folder / "model")
    shutil.copytree(environments.PACKAGE_ROOT / "results" / "demo_cpu", folder / "run")


def tried(name: str, cases: int, folder: Path) -> dict[str, Any]:
    """Try so many cases of one target; what is wrong with any is listed with its kind."""
    outcome: dict[str, Any] = {"cases": 0, "refused": 0, "slowest_s": 0.0, "wrong": []}

    def one(data: Any) -> None:
        outcome["cases"] += 1
        began = time.monotonic()
        signal.alarm(LIMIT_S)
        try:
            TARGETS[name](data, folder)
        except (Refused, CellFailed) as refused:
            outcome["refused"] += 1
            lines = [str(fault) for fault in getattr(refused, "faults", [refused])]
            if any("\n" in line or "Traceback" in line for line in lines):
                outcome["wrong"].append(f"a refusal of several lines: {lines[0][:200]}")
        except Exception as error:  # whatever it is, a user would have seen a traceback
            outcome["wrong"].append(f"{type(error).__name__}: {str(error)[:200]}")
        finally:
            signal.alarm(0)
            outcome["slowest_s"] = max(outcome["slowest_s"], round(time.monotonic() - began, 2))

    chosen = settings(
        max_examples=cases, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    seed(20261130)(chosen(given(st.data())(one)))()
    return outcome


def fuzz(cases: int, report: Reporter | None = None) -> dict[str, Any]:
    """Try so many cases, shared by all targets."""

    def hang(*_: object) -> None:
        raise Hang(f"more than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, hang)
    found: dict[str, Any] = {}
    try:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            prepared(folder)
            for name in TARGETS:
                if report:
                    report.stage(f"mutating {name}")
                found[name] = tried(name, -(-cases // len(TARGETS)), folder)
    finally:
        signal.signal(signal.SIGALRM, before)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUT.json", help="the file to write")
    parser.add_argument("--cases", type=int, default=2000, help="how many (default: %(default)s)")
    given_arguments = parser.parse_args()
    with Reporter() as progress:
        result = fuzz(given_arguments.cases, progress)
    files.write_json(given_arguments.output, result)
    for target, told in result.items():
        outcome = f"{told['refused']} refused, slowest {told['slowest_s']} s, {len(told['wrong'])} wrong"
        print(f"{target}: {told['cases']} cases, {outcome}")
    raise SystemExit(1 if any(told["wrong"] for told in result.values()) else 0)
