"""Watches the device while a Cell is measured: memory, power, energy, clocks, temperature, throttling. Never a 0 for a None."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import threading
import time
from pathlib import Path
from typing import Any

from harness.engine import device
from harness.record.records import Metric
from harness.util import environments
from harness.util.guard import descendants

GIB = 2**30
RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")
NOT_THROTTLED = ("GpuIdle", "None", "All", "ApplicationsClocksSetting", "UserDefinedClocks")
"""Reasons for a clock below the highest that are no throttling (NVML's nvmlClocksThrottleReason constants)."""


class Monitor:
    """A context manager that samples in a thread; `metrics()` afterwards."""

    def __init__(self, root: int, count: int = 1, period_s: float = 0.1, processes: bool = False):
        """root: the engine's first process, whose descendants are the engine; count: how many cards it uses; processes:
        also sum the processes' memory (PSS), which costs a walk of their page tables each time."""
        self._root, self._period, self._processes = root, period_s, processes
        found, self._why = device.cards() if not environments.is_cpu() else ((), "no GPU: measured on a CPU")
        self._cards = found[:count]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
        self._samples: dict[str, list[tuple[float, float]]] = {}
        self._missing: dict[str, str] = {}
        self.throttling: set[str] = set()
        """NVML's names of the reasons seen, such as SwPowerCap."""

    def __enter__(self) -> Monitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            last = self._stop.is_set()
            self._add("energy_j", *self._energy())
            for card in self._cards:
                self._sample(card)
            if self._processes:
                self._add("pss", sum(_pss(pid) for pid in descendants(self._root)))
            if last:
                return
            self._stop.wait(self._period)

    def _add(self, name: str, value: float | None, why: str | None = None) -> None:
        if value is None:
            self._missing.setdefault(name, why or "not told")
        else:
            self._samples.setdefault(name, []).append((time.monotonic(), value))

    def _sample(self, card: device.Card) -> None:
        def add(name: str, question: Any) -> None:
            self._add(name, *device.ask(question))

        add("used", lambda nvml: nvml.nvmlDeviceGetMemoryInfo(card.handle).used)
        add("power_w", lambda nvml: nvml.nvmlDeviceGetPowerUsage(card.board) / 1000)
        add("sm_mhz", lambda nvml: nvml.nvmlDeviceGetClockInfo(card.board, nvml.NVML_CLOCK_SM))
        add("temperature", lambda nvml: nvml.nvmlDeviceGetTemperature(card.board, nvml.NVML_TEMPERATURE_GPU))
        if self._processes:
            add("process", lambda nvml: _of_processes(nvml, card, {self._root, *descendants(self._root)}))
        reasons, _ = device.ask(lambda nvml: _throttling(nvml, card.board))
        if reasons is not None:
            self.throttling |= reasons
            self._add("throttled", float(bool(reasons)))

    def _energy(self) -> tuple[float | None, str | None]:
        """The counter in joules, over all cards, or of the CPU package."""
        if self._cards:
            millijoules, why = device.ask(
                lambda nvml: sum(nvml.nvmlDeviceGetTotalEnergyConsumption(card.board) for card in self._cards)
            )
            return (None, why) if millijoules is None else (millijoules / 1000, None)
        with contextlib.suppress(OSError, ValueError):
            return int(RAPL.read_text()) / 1e6, None
        return None, self._why if not environments.is_cpu() else f"{RAPL} cannot be read on this machine"

    def energy(self, window: tuple[float, float]) -> Metric:
        """Joules between two times of the monotonic clock: the counter at both, between its samples in a straight line."""
        source = "nvml" if self._cards else "rapl"
        samples = self._samples.get("energy_j", [])
        if any(card.slice for card in self._cards):
            return Metric.missing("J", "the counter is the whole card's, and this is a MIG slice", source)
        if len(samples) < 2:
            return Metric.missing("J", self._missing.get("energy_j", "too few samples"), source)
        spent = _at(samples, window[1]) - _at(samples, window[0])
        if spent < 0:
            return Metric.missing("J", "the counter wrapped around", source)
        return Metric(value=spent, unit="J", source=source)

    def metrics(self, window: tuple[float, float] = (float("-inf"), float("inf"))) -> dict[str, Metric]:
        """Figures by name, of the samples between two times of the monotonic clock; None comes with its reason."""
        found: dict[str, Metric] = {}

        def put(name: str, sampled: str, unit: str, reduce: Any, scale: float = 1.0, source: str = "nvml") -> None:
            values = [value for when, value in self._samples.get(sampled, []) if window[0] <= when <= window[1]]
            reason = None if values else self._missing.get(sampled, self._why or "not sampled")
            value = reduce(values) / scale if values else None
            found[name] = Metric(value=value, unit=unit, n=len(values) if values else None, reason=reason, source=source)

        put("device_peak_gib", "used", "GiB", max, GIB)
        put("process_peak_gib", "process", "GiB", max, GIB)
        put("mean_power_w", "power_w", "W", statistics.fmean)
        put("mean_sm_clock_mhz", "sm_mhz", "MHz", statistics.fmean)
        put("min_sm_clock_mhz", "sm_mhz", "MHz", min)
        put("max_temperature_c", "temperature", "degC", max)
        put("throttled", "throttled", "share", statistics.fmean)
        if self._processes:
            put("pss_peak_gib", "pss", "GiB", max, GIB, source="pss")
        return found


def _at(samples: list[tuple[float, float]], when: float) -> float:
    """The value at a time, on the straight line between the samples around it; the nearest sample's outside of them."""
    for (t0, v0), (t1, v1) in itertools.pairwise(samples):
        if when <= t1:
            return v0 + (v1 - v0) * min(1.0, max(0.0, (when - t0) / (t1 - t0)))
    return samples[-1][1]


def _pss(pid: int) -> int:
    """Proportional set size of a process in bytes: shared pages count for each of those that share them in part."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _of_processes(nvml: Any, card: device.Card, ours: set[int]) -> int | None:
    """Device memory of our processes; None where the driver does not tell (containers, MIG, Windows)."""
    sizes = [p.usedGpuMemory for p in nvml.nvmlDeviceGetComputeRunningProcesses(card.handle) if p.pid in ours]
    return None if not sizes or any(size is None for size in sizes) else sum(sizes)


def _throttling(nvml: Any, board: Any) -> set[str]:
    bits = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(board)
    prefix = "nvmlClocksThrottleReason"
    names = {name.removeprefix(prefix): getattr(nvml, name) for name in dir(nvml) if name.startswith(prefix)}
    return {name for name, bit in names.items() if name not in NOT_THROTTLED and isinstance(bit, int) and bits & bit}
