"""A variant that was measured in another Run, perhaps on another machine: its Records are taken over as they are.

A card too small for BF16 can measure INT4 alone and still say what the quantization cost: the baseline comes from a Run
made where it fits. Accuracy is compared; speed and memory of different devices are not.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from harness.record.folder import RunFolder
from harness.record.records import Record
from harness.util import files
from harness.util.errors import Fault, Refused, nearest


def records_of(place: Path, name: str, workloads: Collection[str]) -> list[Record]:
    """The finished Records of the variant `name` in the Run at `place`, of some workloads.

    Raises Refused where there is no Run, no such variant, or nothing finished.
    """
    run = RunFolder.existing(place)
    known = list(run.read().variants)
    if name not in known:
        what = f"has no variant {name!r}{nearest(name, known)}"
        raise Refused(Fault(str(place), what, f"there are: {', '.join(known)}"))
    found = [r for r in run.records() if r.cell.variant == name and r.cell.workload in workloads and r.status == "done"]
    if not found:
        what = f"has no finished Record of {name} in {' or '.join(workloads)}"
        raise Refused(Fault(str(place), what, "measure them there, or measure the variant here"))
    contents = {str(r.provenance.identity.get("checkpoint")) for r in found}
    if len(contents) > 1:
        what = f"measured {name} with {len(contents)} checkpoints"
        raise Refused(Fault(str(place), what, "run its suite again there, so that all Cells are of one checkpoint"))
    return found


def take_over(place: Path, records: Collection[Record], folder: RunFolder) -> None:
    """Copy Records and samples into `folder`, marked with the Run they come from; those that are there are left as they are."""
    source = RunFolder.existing(place)
    for record in records:
        key, mark = record.cell.key, files.shown(place)
        if (there := folder.record(key)) is not None and there.taken_from == mark and there.provenance == record.provenance:
            continue
        if source.samples_path(key).is_file():
            files.write_bytes(folder.samples_path(key), source.samples_path(key).read_bytes())
        marked = record.model_copy(update={"taken_from": mark})
        files.write_text(folder.path / "records" / f"{key}.json", marked.model_dump_json(indent=1) + "\n")


def facts_of(place: Path, name: str) -> dict[str, Any]:
    """What that Run knows of the variant's checkpoint, by field of VariantFacts."""
    there = RunFolder.existing(place).read().variants[name]
    kept = ("recipe", "content", "storage", "structure", "manifest", "checkpoint")
    return {key: getattr(there, key) for key in kept if key in there.model_fields_set}
