"""A stand-in for pynvml: two cards, one of them cut into two MIG slices. The real one is used by tests marked gpu."""

from __future__ import annotations

from types import SimpleNamespace

GIB = 2**30


class NVMLError(Exception):
    """As pynvml's."""


class FakeNvml:
    """Handles are names; `used`, `energy` and what a process holds can be set by a test."""

    NVMLError = NVMLError
    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0
    nvmlClocksThrottleReasonGpuIdle = 1
    nvmlClocksThrottleReasonSwPowerCap = 4
    nvmlClocksThrottleReasonAll = 2047

    def __init__(self) -> None:
        self.cards = {"a": "GPU-aaaa1111-0000", "b": "GPU-bbbb2222-0000"}
        self.slices = {"b": {"b0": "MIG-0000-1", "b1": "MIG-0000-2"}}
        self.used = 10 * GIB
        self.energy = 1000.0
        self.processes: list[SimpleNamespace] = []
        self.reasons = 1
        self.broken: set[str] = set()

    def __getattribute__(self, name: str) -> object:
        if name.startswith("nvml") and name in object.__getattribute__(self, "broken"):
            raise NVMLError(f"{name}: Not Supported")
        return object.__getattribute__(self, name)

    def nvmlInit(self) -> None:
        pass

    def nvmlShutdown(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return list(self.cards)[index]

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return self.cards.get(handle) or next(s[handle] for s in self.slices.values() if handle in s)

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "Card" if handle in self.cards else "Card MIG 1g.10gb"

    def nvmlDeviceGetMaxMigDeviceCount(self, board: str) -> int:
        if board not in self.slices:
            raise NVMLError("Not Supported")
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, board: str, index: int) -> str:
        try:
            return list(self.slices[board])[index]
        except IndexError:
            raise NVMLError("Not Found") from None

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(total=80 * GIB, used=self.used, free=80 * GIB - self.used)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        return self.processes

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.0"

    def nvmlDeviceGetPowerUsage(self, board: str) -> int:
        return 350_000

    def nvmlDeviceGetClockInfo(self, board: str, kind: int) -> int:
        return 1700

    def nvmlDeviceGetTemperature(self, board: str, kind: int) -> int:
        return 61

    def nvmlDeviceGetTotalEnergyConsumption(self, board: str) -> float:
        self.energy += 50.0
        return self.energy

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, board: str) -> int:
        return self.reasons
