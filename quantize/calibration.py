"""Calibration samples: read, turned into the model's inputs, counted. Nothing is ever cut.

A sample longer than the limit is dropped whole: cut in the middle of its image tokens it would break the model's
placement of the picture. The processor used here is never saved (see build.py), so nothing it is told can leak into
a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from harness.util import rows
from harness.util.cached import Kept
from harness.util.errors import Fault, Refused
from harness.util.files import digest
from harness.util.places import DATA
from harness.util.processes import die_with_parent
from quantize.recipe import Calibration
from quantize.samples import CalibrationSample, conversation, sample_of, without_pictures

FORM = 1
"""Raised where rows are read otherwise than before: what was kept of them counts no more."""
FAULTS: TypeAdapter[list[tuple[str, str, str]]] = TypeAdapter(list[tuple[str, str, str]])
SHOWN = 10
"""Numbers of rows that are told of one fault."""
CANDIDATES = 4
"""A data set is searched for samples that fit until this many times the asked number were looked at."""
"""Where `fetch dataset` puts what it brings."""
BATCH_TOKENS = 4096
"""Samples of exactly equal length share a forward pass up to this many tokens: no padding, so the sums are the same."""


@dataclass
class Prepared:
    """Model inputs and what the manifest says about them."""

    batches: list[dict[str, Any]]
    """One dict of tensors a forward pass: input_ids [batch, length], pixel_values [patches, values], ..."""
    facts: dict[str, Any]


def local_files(calibration: Calibration) -> list[Path] | None:
    """The files of a data set on this disk; None for the demo, and for one of a hub where the environment lets it be asked.

    A hub's name is looked for where `fetch` puts it. Raises Refused when there is nothing.
    """
    name = calibration.dataset
    if name == "demo":
        return None
    path = next((p for p in (Path(name).expanduser(), DATA / name) if p.exists()), None)
    if path is not None:
        if path.is_file() and path.suffix not in rows.ENDINGS:
            raise Refused(Fault(str(path), "is no data set", "a folder, or a .jsonl, .json or .parquet file"))
        return _files_of(path, calibration) if path.is_dir() else [path]
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or Path(name).suffix in rows.ENDINGS:
        right = 'give "demo", a folder, a .jsonl, .json or .parquet file, or a hub data set OWNER/NAME'
        raise Refused(Fault(name, "no such file or folder", right))
    if os.environ.get("HF_HUB_OFFLINE") != "0":
        right = f"get it: python -m harness fetch dataset {name}, or set HF_HUB_OFFLINE=0 to let the build ask the hub"
        raise Refused(Fault(name, "is not on this disk", right))
    return None


def _files_of(folder: Path, calibration: Calibration) -> list[Path]:
    """A folder's files: those of the subset and of the split, where it is laid out by them as on a hub."""
    # A .json file of a folder may be about the data; on its own it is the data.
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".jsonl", ".parquet"))
    if not files:
        right = "put one line a sample into data.jsonl: question, answer, image (a path beside it)"
        raise Refused(Fault(str(folder), "holds neither a .jsonl nor a .parquet file", right))
    subsets = dict.fromkeys(p.relative_to(folder).parts[0] for p in files if p.parent != folder)
    if calibration.subset and subsets:
        files = [p for p in files if p.relative_to(folder).parts[0] == calibration.subset]
        if not files:
            raise Refused(Fault(str(folder), f"has no subset {calibration.subset!r}", f"it has {', '.join(subsets)}"))
    split = [p for p in files if re.match(rf"{re.escape(calibration.split or 'train')}\b", p.name)]
    return split or files


def read(calibration: Calibration, image_tokens: Sequence[str] = ()) -> Iterator[CalibrationSample]:
    """Candidate samples in the seed's order, more than asked for where the data set has more.

    image_tokens: see `sample_of`. Raises Refused with the row for one that is none.
    """
    if calibration.dataset == "demo":
        yield from _demo(calibration)
        return
    for name, row, folder in _candidates(calibration):
        yield sample_of(name, row, folder, image_tokens, calibration.images)


def faults(calibration: Calibration, image_tokens: Sequence[str] = ()) -> list[Fault]:
    """What is wrong with the data of a build, every candidate row of files on this disk looked at, its pictures too.

    What was found is kept for as long as the files stay. A hub is not asked.
    """
    try:
        files = local_files(calibration)
    except Refused as refused:
        return list(refused.faults)
    if files is None:
        return []
    about = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    state = digest([about, calibration.model_dump(mode="json"), list(image_tokens), FORM])
    kept = Kept(f"calibration {calibration.dataset} {calibration.subset} {calibration.split}", state, FAULTS)
    known = kept.find()
    if known is None:
        try:
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                look = partial(_row_faults, image_tokens=image_tokens, images=calibration.images)
                known = _grouped(fault for found in pool.map(look, _candidates(calibration)) for fault in found)
        except Refused as refused:
            known = [(fault.where, fault.what, fault.right) for fault in refused.faults]
        kept.keep(known)
    return [Fault(*fault) for fault in known]


def _grouped(found: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """One fault for each thing that is wrong with rows of a file, with the first rows' numbers."""
    alike: dict[tuple[str, str, str], list[int]] = {}
    for where, what, right in found:
        file, _, number = where.rpartition(":")
        alike.setdefault((file, what, right), []).append(int(number))
    grouped = []
    for (file, what, right), numbers in alike.items():
        shown = ", ".join(map(str, sorted(numbers)[:SHOWN]))
        more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
        grouped.append((f"{file}: row{'s' * (len(numbers) > 1)} {shown}{more}", what, right))
    return grouped


def _row_faults(
    candidate: tuple[str, dict[str, Any], Path], image_tokens: Sequence[str], images: bool
) -> list[tuple[str, str, str]]:
    try:
        sample_of(*candidate, image_tokens, images)
    except Refused as refused:
        return [(fault.where, fault.what, fault.right) for fault in refused.faults]
    return []


def _candidates(calibration: Calibration) -> Iterator[tuple[str, dict[str, Any], Path]]:
    """(name, row, folder of its pictures' paths) in the seed's order."""
    files = local_files(calibration)
    found = _local(files, calibration) if files is not None else _hub(calibration)
    return islice(found, calibration.samples * CANDIDATES)


class Ahead:
    """Samples made in a process of their own while this one imports torch; used for the demo, which draws them.

    Create it before torch is imported (a fork of a process with torch's threads may hang).
    """

    def __init__(self, calibration: Calibration):
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("fork"), initializer=die_with_parent)
        self._samples = self._pool.submit(_listed, calibration)

    def samples(self) -> list[CalibrationSample]:
        """Wait for the samples. Raises what reading them raised."""
        try:
            return self._samples.result()
        finally:
            self._pool.shutdown()


def _listed(calibration: Calibration) -> list[CalibrationSample]:
    return list(read(calibration))


def _demo(calibration: Calibration) -> Iterator[CalibrationSample]:
    from harness.demo.data import generate

    # The demo can make any number of samples; as many as asked for are made, so that a limit nothing fits in ends.
    for q in generate("train", calibration.samples, calibration.seed):
        sample = CalibrationSample(q.id, conversation(q.question, q.answer, 1), None, [q.image])
        yield sample if calibration.images else without_pictures(sample)


# -- data sets on disk and on a hub ------------------------------------------------------------------------------------


def _local(files: list[Path], calibration: Calibration) -> Iterator[tuple[str, dict[str, Any], Path]]:
    """Rows of files, block by block in the seed's order, so that a large parquet file is never held whole."""
    blocks = [block for file in files for block in _blocks(file)]
    for which in _order(len(blocks), calibration.seed):
        file, read_rows = blocks[which]
        found = read_rows()
        for index in _order(len(found), calibration.seed):
            number, row = found[index]
            yield f"{file.name}:{number}", row, file.parent


Numbered = list[tuple[int, dict[str, Any]]]
"""Rows with their number in the file, from 1."""


def _blocks(file: Path) -> list[tuple[Path, Callable[[], Numbered]]]:
    if file.suffix != ".parquet":
        return [(file, lambda: list(rows.objects(file)))]
    import pyarrow
    import pyarrow.parquet

    try:
        opened = pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise Refused(Fault(str(file), f"is no readable parquet file: {str(error).splitlines()[0][:200]}")) from None
    sizes = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
    starts = [sum(sizes[:group]) for group in range(len(sizes))]
    return [(file, partial(_parquet_rows, file, opened, group, start)) for group, start in enumerate(starts)]


def _parquet_rows(file: Path, opened: Any, group: int, start: int) -> Numbered:
    import pyarrow

    try:
        return list(enumerate(opened.read_row_group(group).to_pylist(), start + 1))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise Refused(Fault(str(file), f"is no readable parquet file: {str(error).splitlines()[0][:200]}")) from None


def _hub(calibration: Calibration) -> Iterator[tuple[str, dict[str, Any], Path]]:
    name = calibration.dataset
    try:
        from datasets import load_dataset

        data = load_dataset(name, calibration.subset, split=calibration.split or "train")
    except Exception as error:  # the hub client raises a dozen kinds; the user needs one line
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Refused(
            Fault(
                f"calibration data set {name}",
                f"cannot be read: {line}",
                "check name, subset and connection, or fetch it once and give its folder",
            )
        ) from None
    for index in _order(len(data), calibration.seed):
        yield f"{name}:{index}", data[index], Path()


def _order(count: int, seed: int) -> list[int]:
    import numpy as np

    order: list[int] = np.random.default_rng(seed).permutation(count).tolist()
    return order


# -- from samples to the model's inputs --------------------------------------------------------------------------------


def prepare(calibration: Calibration, processor: Any, samples: Iterable[CalibrationSample]) -> Prepared:
    """Samples as model inputs: processed one at a time, too long ones dropped, equal lengths put into one batch.

    A set that has pictures uses only samples with pictures: llm-compressor traces the model once, with the first
    sample, and a sample without pictures takes another path. Raises Refused when nothing is left.
    """
    fitting: list[tuple[CalibrationSample, dict[str, Any]]] = []
    long: list[str] = []
    for sample in samples:
        inputs = process(processor, sample)
        if inputs["input_ids"].shape[-1] > calibration.max_seq_length:
            long.append(sample.id)
            continue
        fitting.append((sample, inputs))
        if len(fitting) == calibration.samples:
            break
    with_images = [pair for pair in fitting if pair[0].images]
    mixed = len(fitting) - len(with_images) if with_images else 0
    used = with_images or fitting
    if not used:
        raise Refused(
            Fault(
                f"calibration data {calibration.dataset}",
                f"all {len(long)} samples are longer than max_seq_length {calibration.max_seq_length}"
                if long
                else "holds no samples",
                "a longer limit, smaller pictures or shorter texts" if long else "",
            )
        )
    facts = {
        "dataset": calibration.dataset,
        "subset": calibration.subset,
        "split": calibration.split,
        "seed": calibration.seed,
        "max_seq_length": calibration.max_seq_length,
        "asked": calibration.samples,
        "used": len(used),
        "dropped_too_long": len(long),
        "dropped_without_images": mixed,
        "first_dropped": long[:10],
        "tokens": sum(int(i["input_ids"].shape[-1]) for _, i in used),
        "images": sum(len(s.images) for s, _ in used),
        "sha256": _content_hash(used),
    }
    return Prepared(_batches([inputs for _, inputs in used]), facts)


def process(processor: Any, sample: CalibrationSample) -> dict[str, Any]:
    """One sample through chat template and processor; tensors with a leading batch dimension of 1. Never truncates."""
    text = sample.text if sample.messages is None else processor.apply_chat_template(sample.messages, tokenize=False)
    arguments: dict[str, Any] = {"text": [text], "return_tensors": "pt"}
    if sample.images:
        arguments["images"] = sample.images
    return dict(processor(**arguments))


def _content_hash(used: list[tuple[CalibrationSample, dict[str, Any]]]) -> str:
    """SHA-256 over the token ids and the pictures' pixels, in order."""
    total = hashlib.sha256()
    for sample, inputs in used:
        total.update(inputs["input_ids"].numpy().tobytes())
        for image in sample.images:
            total.update(f"{image.size}".encode() + image.tobytes())
    return total.hexdigest()


def _batches(inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Samples of equal length stacked along the batch; pictures are a flat list of patches, so theirs are joined."""
    import torch

    groups: dict[tuple[int, bool], list[dict[str, Any]]] = {}
    for one in inputs:
        groups.setdefault((int(one["input_ids"].shape[-1]), "pixel_values" in one), []).append(one)
    batches = []
    for (length, _), members in groups.items():
        width = max(1, BATCH_TOKENS // length)
        for start in range(0, len(members), width):
            chunk = members[start : start + width]
            batches.append({key: torch.cat([one[key] for one in chunk], dim=0) for key in chunk[0]})
    return batches


def warnings(facts: dict[str, Any], source: Path) -> list[str]:
    """What a reader of the manifest should have been told while it was built."""
    found = []
    if facts["images"] == 0 and "vision_config" in json.loads((source / "config.json").read_text()):
        found.append("text-only calibration of a vision-language model: no scale has seen an image token")
    if facts["dropped_too_long"]:
        found.append(
            f"{facts['dropped_too_long']} samples are longer than {facts['max_seq_length']} tokens and were "
            f"dropped whole (first: {facts['first_dropped'][0]})"
        )
    if facts["dropped_without_images"]:
        found.append(f"{facts['dropped_without_images']} samples have no picture, unlike the others: not used")
    if facts["used"] < facts["asked"]:
        found.append(f"{facts['used']} samples used of {facts['asked']} asked")
    return found
