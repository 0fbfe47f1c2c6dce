"""The device that measures: its name and what NVML tells of it. What is not told is None with a reason, never 0."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from harness import environments


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return os.uname().machine


@cache
def describe() -> dict[str, Any]:
    """Kind (`cpu` or `gpu`), name, count and memory in GiB of the device that vLLM will run on."""
    if environments.is_cpu():
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return {"kind": "cpu", "name": _cpu_name(), "count": os.cpu_count() or 1, "memory_gib": round(pages / 2**30, 1)}
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:  # nvidia-ml-py raises its own types for a missing library, driver or permission
        return {"kind": "gpu", "name": "unknown", "count": None, "memory_gib": None, "reason": f"NVML: {error}"}
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle).total
        return {
            "kind": "gpu",
            "name": pynvml.nvmlDeviceGetName(handle),
            "count": pynvml.nvmlDeviceGetCount(),
            "memory_gib": round(memory / 2**30, 1),
            "driver": pynvml.nvmlSystemGetDriverVersion(),
        }
    finally:
        pynvml.nvmlShutdown()
