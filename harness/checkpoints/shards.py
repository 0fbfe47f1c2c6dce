"""A checkpoint's safetensors files against its index: every tensor in one file, and in the one that the index names.

vLLM loads the files that the index names, all of what they hold, one after the other: of a tensor in two of them the one
that comes last counts, whatever the index says of it. A stale shard so costs accuracy as if the quantization had.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from harness.checkpoints.headers import Tensor, as_loaded, header, weight_files
from harness.util import rows
from harness.util.errors import Fault, Refused

INDEX = "model.safetensors.index.json"
AGAIN = "fetch or build the checkpoint again"


def some(names: list[str], limit: int = 3) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def read(folder: Path) -> tuple[dict[str, Tensor], list[Fault]]:
    """All tensors by their names in the loaded model, and what is wrong with the files that hold them."""
    table, faults = _stored(folder)
    return as_loaded(folder, table), faults


def _stored(folder: Path) -> tuple[dict[str, Tensor], list[Fault]]:
    """The same by their names on disk."""
    files, faults = weight_files(folder), list[Fault]()
    if not files:
        return {}, [Fault(str(folder), "holds no .safetensors file")]
    table: dict[str, Tensor] = {}
    holders: dict[str, list[str]] = defaultdict(list)
    for file in files:
        try:
            found = header(file)
        except Refused as refused:
            faults += refused.faults
            continue
        for name in found:
            holders[name].append(file.name)
        table |= found
    named = _index(folder, faults)
    twice = {name: where for name, where in holders.items() if len(where) > 1}
    stray = [file.name for file in files if named and file.name not in set(named.values())]
    if stray:
        right = "remove it, or build the checkpoint again"
        faults.append(Fault(some(stray), f"stands beside the shards and {INDEX} does not name it", right))
    # What a stray file holds a second time is told by the file's name.
    twice = {name: [file for file in where if file not in stray] for name, where in twice.items()}
    for pair in dict.fromkeys(tuple(where) for where in twice.values() if len(where) > 1):
        names = [name for name, where in twice.items() if tuple(where) == pair]
        what = f"both hold {some(names)}: the one that is loaded last counts, whichever is stale"
        faults.append(Fault(" and ".join(pair), what, AGAIN))
    if named is None:
        if len(files) > 1 and not faults:
            faults.append(Fault(INDEX, "missing beside several safetensors files", AGAIN))
        return table, faults
    for shard in sorted(set(named.values())):
        if not (folder / shard).is_file():
            faults.append(Fault(INDEX, f"names {shard}, which is not there", "fetch or build that shard"))
    there = {file.name for file in files}
    lost = [name for name, shard in named.items() if shard in there and shard not in holders.get(name, [])]
    extra = [name for name, where in holders.items() if name not in named and not set(where) <= set(stray)]
    if lost:
        faults.append(Fault(INDEX, f"names tensors that their shard does not hold: {some(lost)}", AGAIN))
    if extra:
        faults.append(Fault(INDEX, f"does not name tensors that the shards hold: {some(extra)}", AGAIN))
    return table, faults


def _index(folder: Path, faults: list[Fault]) -> dict[str, str] | None:
    """The shard of each tensor; None where there is no index or it is none, which is a fault."""
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        named = rows.parsed(rows.read(path), INDEX)
    except Refused as refused:
        faults += refused.faults
        return None
    weights = named.get("weight_map") if isinstance(named, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(shard, str) for shard in weights.values()):
        faults.append(Fault(INDEX, "is no weight index: it has no weight_map of tensors to files", AGAIN))
        return None
    return weights
