"""Tables of what the benchmarks measured beside the Runs, and of what a Run's memory means for other cards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.record.folder import RunFolder
from harness.util.errors import Fault, Refused
from harness.workloads.latency import Latency
from harness.workloads.memory import Memory
from reports.table import RANDOM, Table, frame
from reports.tables import speed

CARDS = {"16 GB": 15.6, "24 GB": 23.6, "48 GB": 44.5, "80 GB": 79.2}
"""GiB that the driver shows on a common card of each size (RTX 4080 SUPER, RTX 4090, L40S, H100)."""
UTILIZATION = 0.9
"""vLLM's own share of a card."""
REQUEST_TOKENS = 1280
"""A 1024x1024 picture, a question and an answer, in Qwen3-VL's tokens."""


def grid(place: Path) -> Table:
    """`benchmarks.grid`'s grid.json: six cells from one load against a single build."""
    found = _read(place / "grid.json")
    rows = [
        {
            "cell": name,
            "search s": f"{cell['search']:.1f}" if cell["search"] else "shared",
            "round and pack s": f"{cell['round'] + cell['pack']:.1f}",
            "write, verify, hash s": f"{cell['write'] + cell['verify'] + cell['hash']:.1f}",
        }
        for name, cell in found["grid"]["cells"].items()
    ]
    told, once, peak = found["summary"], found["grid"]["once"], found["grid"]["peak_gib"]
    notes = [
        RANDOM,
        f"The grid took {told['grid_s']:.0f} s, one cell alone {told['single_mean_s']:.0f} s ({told['singles_measured']}): "
        f"{told['ratio']:.2f} of six single builds. Grid and single builds gave the same files: "
        f"{'yes' if told['same_content'] else 'no'}.",
        f"Once for all: importing {once['import']:.0f} s, loading {once['load']:.0f} s, hashing the source "
        f"{once['hash_source']:.0f} s beside them. Most memory held: host {peak['host']:.0f} GiB, "
        f"device {peak['device']:.1f} GiB.",
    ]
    return Table("The grid of six on one H100", frame(rows), notes)


def profile(place: Path) -> Table:
    """`benchmarks.decode_profile`'s decode_profile.json: where a decode step's time goes."""
    found = _read(place / "decode_profile.json")
    step = found["step_ms"]
    parts = {**found["kinds_ms"], "the device waits": found["device_waits_ms"]}
    rows = [
        {"part": name, "ms a step": f"{value:.3f}", "of the step": f"{100 * value / step:.0f} %"}
        for name, value in parts.items()
    ]
    notes = [
        RANDOM,
        f"{found['kernel']}, {found['concurrency']} request at once, {found['kernels_per_step']:.0f} kernels a step. A step "
        f"takes {found['unprofiled_step_ms']:.2f} ms, {step:.2f} ms under the profiler. Kernels may overlap, so parts need not "
        "add up.",
    ]
    return Table("Where a decode step's time goes", frame(rows), notes)


def cards(place: Path) -> Table:
    """What the memory that a Run's engines took leaves for the KV cache on cards of other sizes."""
    rows = []
    for record in RunFolder.existing(place).records():
        if record.cell.workload != Memory.name or record.status != "done":
            continue
        took = {name: metric.value or 0.0 for name, metric in record.metrics.items()}
        overhead = took["activations_gib"] + took["non_torch_gib"] + took["graphs_gib"]
        for card, size in CARDS.items():
            left = UTILIZATION * size - took["weights_gib"] - overhead
            tokens = int(left * took["kv_cache_tokens"] / took["kv_cache_gib"])
            fits = tokens >= REQUEST_TOKENS
            rows.append(
                {
                    "card": card,
                    "variant": record.cell.variant,
                    "weights": f"{took['weights_gib']:.1f} GiB",
                    "left for the KV cache": f"{left:.1f} GiB" if fits else "does not fit",
                    "tokens": f"{tokens:,}" if fits else "0",
                    f"requests of {REQUEST_TOKENS:,} tokens at once": f"{tokens // REQUEST_TOKENS:,}" if fits else "0",
                }
            )
    rows.sort(key=lambda row: list(CARDS).index(row["card"]))
    notes = [
        RANDOM,
        f"Computed from the memory measured on the H100 at max_num_batched_tokens 8192, for {UTILIZATION:.0%} of what the "
        f"driver shows ({', '.join(f'{name}: {gib} GiB' for name, gib in CARDS.items())}); only 80 GB was measured. A request: "
        "one picture of 1024x1024, a question, an answer.",
    ]
    return Table("What fits which card", frame(rows), notes)


def drawing(place: Path) -> Table:
    """What a token takes under each load of the baseline: loads that differ in how tokens are drawn (Traffic.sampling)."""
    folder = RunFolder.existing(place)
    facts = folder.read()
    loads: dict[str, dict[str, Any]] = facts.suite["workloads"][Latency.name]["loads"]
    rows: dict[str, dict[str, str]] = {}
    for (variant, _), trials in speed.points(folder.records()).items():
        point = trials[0].cell.point
        if variant == facts.baseline and point["load"] in loads and "concurrency" in point:
            row = rows.setdefault(
                point["load"], {"load": point["load"], "tokens": _drawn(loads[point["load"]].get("sampling"))}
            )
            row[f"TPOT ms, {point['concurrency']} at once"] = speed.figure(trials, "server_tpot_ms")
    notes = [RANDOM, f"{facts.baseline}, by the server's clock: means over trials ± half a 95 % t interval."]
    return Table("Drawing tokens", frame([rows[name] for name in loads if name in rows]), notes)


def _drawn(sampling: dict[str, Any] | None) -> str:
    if sampling is None:
        return "the likeliest"
    top_k = f", top_k {sampling['top_k']}" if sampling["top_k"] else ""
    return f"drawn: temperature {sampling['temperature']}, top_p {sampling['top_p']}{top_k}"


STUDIES: dict[str, Callable[[Path], Table]] = {"grid": grid, "profile": profile, "cards": cards, "drawing": drawing}
"""By the name that a document asks for."""


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise Refused(Fault(str(path), f"cannot be read: {error}")) from None
