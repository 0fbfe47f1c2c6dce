"""Results that the peers' own tools made become Records, marked as imported: lm-eval's results with samples, vLLM's bench.

What such a file does not say (the device, the engine's settings, how answers ended) stays unknown in the Record, so that a
comparison with something measured here is refused and names it. Two imports of one tool compare as far as both files go.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.record.folder import RunFolder
from harness.record.records import Record
from harness.record.run_facts import RunFacts, VariantFacts
from harness.util import files, rows
from harness.util.errors import Fault, Refused
from harness.workloads.imported import bench, lm_eval
from harness.workloads.imported.base import Imported, Place, odd

__all__ = ["Place", "import_files"]

RIGHT = "give the JSON file that --output_path or --save-result wrote"


def import_files(run: RunFolder, paths: Sequence[Path], place: Place) -> list[Record]:
    """Make the Records of all files and add them to the Run, which is made when it is not there; all files or none.

    Raises Refused for files that are none of the known kinds, that are there already under another name, or for a
    variant that was measured here.
    """
    facts = run.find()
    known = facts.variants.get(place.variant) if facts else None
    faults = list(run.faults())
    if known is not None and known.origin != "imported":
        what = f"variant {place.variant!r} was measured here"
        faults.append(Fault(str(run.path), what, "import under another name with --variant"))
    Refused.if_any(faults)
    found: list[Imported] = []
    earlier = [r for r in run.records() if r.imported_from]
    for path in paths:
        found += _read(path, place, [*earlier, *(one.record for one in found)])
    model = found[0].record.provenance.checkpoint
    if facts is None:
        suite = {"name": run.path.resolve().name, "model": model}
        facts = RunFacts(suite=suite, baseline=place.variant, variants={}, cells=[])
    cells = list(facts.cells)
    added = []
    for one in found:
        added.append(run.add(one.record, one.samples))
        cells += [] if one.record.cell.key in cells else [one.record.cell.key]
    fresh = VariantFacts(origin="imported", checkpoint=model, content=model, recipe=None)
    variants = {**facts.variants, place.variant: known or fresh}
    run.write(facts.model_copy(update={"variants": variants, "cells": cells}))
    return added


def _read(path: Path, place: Place, earlier: Sequence[Record]) -> list[Imported]:
    data = rows.parsed(rows.read(path), str(path))
    if not isinstance(data, dict):
        raise Refused(Fault(str(path), "holds no mapping of keys to values", RIGHT))
    sha = files.file_sha256(path)
    try:
        if lm_eval.is_results(data):
            return lm_eval.read(path, data, place, sha)
        found = bench.read(path, data, place, sha, earlier)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise Refused(Fault(str(path), f"is not as its tool writes it: {odd(error)}")) from None
    if found is None:
        raise Refused(Fault(str(path), "is neither lm-eval's results (results_*.json) nor a result of vllm bench", RIGHT))
    return [found]
