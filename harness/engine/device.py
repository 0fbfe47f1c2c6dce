"""The device that measures: which cards vLLM will use and what NVML tells of them. What is not told is None with a reason.

NVML is reached through nvidia-ml-py (`import pynvml`). It counts all cards of the machine, in the order of their PCI
address; CUDA counts those that CUDA_VISIBLE_DEVICES leaves, and the harness asks it for the same order.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.checkpoints.kernels import generation
from harness.util import environments


@dataclass(frozen=True)
class Card:
    """One device that CUDA shows to vLLM: a whole card, or a MIG slice of one."""

    handle: Any
    """NVML's handle: of the slice when it is one."""
    board: Any
    """NVML's handle of the whole card: power, clocks and temperature are its."""
    uuid: str
    name: str
    slice: bool = False


def _has_amx() -> bool:
    return " amx_tile" in Path("/proc/cpuinfo").read_text()


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return os.uname().machine


_elsewhere: dict[str, Any] | None = None


def stand_for(described: dict[str, Any] | None) -> None:
    """From now on `describe` tells of the device of other machines, which will measure; None: of this one's again."""
    global _elsewhere
    _elsewhere = described


def describe() -> dict[str, Any]:
    """Kind (`cpu` or `gpu`), name, count, memory in GiB and generation (kernels.TARGETS) of the device vLLM will run on."""
    return _elsewhere or describe_here()


@cache
def describe_here() -> dict[str, Any]:
    """`describe` of this machine."""
    if environments.is_cpu():
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return {
            "kind": "cpu",
            "name": _cpu_name(),
            "count": os.cpu_count() or 1,
            "memory_gib": round(pages / 2**30, 1),
            "generation": "cpu_amx" if _has_amx() else "cpu",
        }
    found, reason = cards()
    if not found:
        return {"kind": "gpu", "name": "unknown", "count": None, "memory_gib": None, "reason": reason}
    memory, why = ask(lambda nvml: nvml.nvmlDeviceGetMemoryInfo(found[0].handle).total)
    version, _ = ask(lambda nvml: nvml.nvmlDeviceGetCudaComputeCapability(found[0].board))
    return {
        "kind": "gpu",
        "name": found[0].name,
        "count": len(found),
        "memory_gib": round(memory / 2**30, 1) if memory else None,
        "driver": ask(lambda nvml: nvml.nvmlSystemGetDriverVersion())[0],
        "generation": generation(10 * version[0] + version[1] if version else None),
    } | ({"reason": why} if memory is None else {})


@contextlib.contextmanager
def _library() -> Iterator[Any]:
    import pynvml

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def ask(question: Callable[[Any], Any]) -> tuple[Any, str | None]:
    """The answer of NVML to `question(pynvml)`, or None and why there is none."""
    try:
        with _library() as nvml:
            answer = question(nvml)
    except Exception as error:  # nvidia-ml-py raises types of its own for a missing library, driver, permission or feature
        return None, f"NVML: {error}"
    return answer, "NVML gave no value" if answer is None else None


@cache
def cards() -> tuple[tuple[Card, ...], str | None]:
    """The cards that vLLM will see, in its order; none, and why, where NVML or CUDA_VISIBLE_DEVICES shows none."""
    # Held open for the life of the process: handles end with the library.
    try:
        import pynvml

        pynvml.nvmlInit()
        found = tuple(_visible(pynvml, os.environ.get("CUDA_VISIBLE_DEVICES")))
    except Exception as error:  # as in ask()
        return (), f"NVML: {error}"
    return found, None if found else "CUDA_VISIBLE_DEVICES leaves no card"


def _visible(nvml: Any, named: str | None) -> Iterator[Card]:
    """CUDA's rule: indices, UUIDs or unambiguous beginnings of them; the first that means nothing ends the list."""
    boards = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    whole = [Card(board, board, nvml.nvmlDeviceGetUUID(board), nvml.nvmlDeviceGetName(board)) for board in boards]
    if named is None:
        yield from whole
        return
    for word in (part.strip() for part in named.split(",")):
        if word.isdigit():
            chosen = whole[int(word) : int(word) + 1]
        elif word.startswith("MIG-"):
            chosen = [card for card in _slices(nvml, whole) if card.uuid.startswith(word)]
        else:
            chosen = [card for card in whole if word and card.uuid.startswith(word)]
        if len(chosen) != 1:
            return
        yield chosen[0]


def _slices(nvml: Any, whole: list[Card]) -> Iterator[Card]:
    for card in whole:
        with contextlib.suppress(nvml.NVMLError):
            for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card.board)):
                with contextlib.suppress(nvml.NVMLError):
                    handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(card.board, index)
                    name = nvml.nvmlDeviceGetName(handle)
                    yield Card(handle, card.board, nvml.nvmlDeviceGetUUID(handle), name, slice=True)


def memory_used(count: int = 1) -> tuple[int | None, str | None]:
    """Bytes in use on the first `count` cards together, by everybody; None with the reason where NVML does not tell."""
    found, why = cards()
    if not found:
        return None, why
    return ask(lambda nvml: sum(nvml.nvmlDeviceGetMemoryInfo(card.handle).used for card in found[:count]))


def memory_free() -> int | None:
    """Bytes that nobody uses on the first card; None where NVML does not tell."""
    found, _ = cards()
    return ask(lambda nvml: nvml.nvmlDeviceGetMemoryInfo(found[0].handle).free)[0] if found else None


def holders(count: int = 1) -> list[str]:
    """The processes that hold memory of the first `count` cards: `python (pid 12), 3.1 GiB`."""
    found, _ = cards()
    lines = []
    for card in found[:count]:
        running, _ = ask(lambda nvml, card=card: nvml.nvmlDeviceGetComputeRunningProcesses(card.handle))  # type: ignore[misc]
        for process in running or []:
            try:
                name = Path(f"/proc/{process.pid}/comm").read_text().strip()
            except OSError:
                name = "a process of another container"
            size = "size not told" if process.usedGpuMemory is None else f"{process.usedGpuMemory / 2**30:.1f} GiB"
            lines.append(f"{name} (pid {process.pid}), {size}")
    return lines
