"""Which card is meant, and what is said where NVML says nothing. NVML is a stand-in here; tests marked gpu use the real one."""

from __future__ import annotations

import os
import sys
import time
from types import SimpleNamespace

import pytest

from harness.engine import device
from harness.engine.monitor import Monitor
from harness.util import environments
from tests.helpers.fake_nvml import GIB, FakeNvml


@pytest.fixture
def nvml(monkeypatch):
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(environments, "is_cpu", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for cached in (device.cards, device.describe_here):
        cached.cache_clear()
    yield fake
    for cached in (device.cards, device.describe_here):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("named", "uuids"),
    [
        (None, ["GPU-aaaa1111-0000", "GPU-bbbb2222-0000"]),
        ("1", ["GPU-bbbb2222-0000"]),
        ("1,0", ["GPU-bbbb2222-0000", "GPU-aaaa1111-0000"]),
        ("GPU-bbbb2222-0000", ["GPU-bbbb2222-0000"]),
        ("GPU-bbbb", ["GPU-bbbb2222-0000"]),
        ("MIG-0000-2", ["MIG-0000-2"]),
        ("0,7,1", ["GPU-aaaa1111-0000"]),
        ("GPU-", []),
        ("-1", []),
        ("", []),
    ],
)
def test_cuda_visible_devices_as_index_uuid_and_slice(nvml, monkeypatch, named, uuids):
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    found, why = device.cards()
    assert [card.uuid for card in found] == uuids
    assert (why is None) == bool(uuids)
    assert [card.board for card in found if card.slice] == (["b"] if named and named.startswith("MIG") else [])


def test_a_machine_without_the_library_says_so(nvml):
    nvml.broken = {"nvmlInit"}
    told = device.describe()
    assert (told["name"], told["memory_gib"]) == ("unknown", None)
    assert "NVML" in told["reason"]
    assert device.memory_used() == (None, device.cards()[1])
    assert device.memory_free() is None and device.holders() == []


def test_who_holds_the_memory(nvml):
    nvml.processes = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=None), SimpleNamespace(pid=2**30, usedGpuMemory=3 * GIB)]
    mine, other = device.holders()
    assert f"(pid {os.getpid()}), size not told" in mine
    assert other == f"a process of another container (pid {2**30}), 3.0 GiB"


def watch(seconds: float = 0.05, **given) -> Monitor:
    with Monitor(os.getpid(), period_s=0.01, **given) as monitor:
        time.sleep(seconds)
    return monitor


def test_figures_of_a_card_and_energy_between_two_times(nvml):
    nvml.reasons = 4 | 1
    monitor = watch()
    figures = monitor.metrics()
    assert figures["device_peak_gib"].value == 10
    assert figures["mean_power_w"].value == 350
    assert figures["max_temperature_c"].value == 61
    assert figures["throttled"].value == 1 and monitor.throttling == {"SwPowerCap"}
    when = [t for t, _ in monitor._samples["energy_j"]]
    whole, half = monitor.energy((when[0], when[-1])), monitor.energy((when[0], (when[0] + when[-1]) / 2))
    assert whole.value == pytest.approx(0.05 * (len(when) - 1))
    assert 0 < half.value < whole.value


def test_what_a_driver_does_not_tell_is_none_with_the_reason(nvml):
    nvml.broken = {
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
    }
    nvml.processes = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)]
    monitor = watch(processes=True)
    figures = monitor.metrics() | {"energy_j": monitor.energy((0, time.monotonic()))}
    for name in ("energy_j", "mean_power_w", "throttled", "process_peak_gib"):
        assert figures[name].value is None and figures[name].reason, name
    assert "Not Supported" in figures["mean_power_w"].reason


def test_energy_of_a_slice_is_not_the_whole_cards(nvml, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-0000-1")
    assert "MIG" in watch().energy((0, time.monotonic())).reason


def test_on_a_cpu_the_processes_memory_is_seen_and_gpu_figures_say_why_not(monkeypatch):
    monkeypatch.setattr(environments, "is_cpu", lambda: True)
    figures = watch(processes=True).metrics()
    assert figures["device_peak_gib"].value is None and "CPU" in figures["device_peak_gib"].reason
    assert figures["pss_peak_gib"].value is not None


@pytest.mark.gpu
@pytest.mark.skipif(environments.is_cpu(), reason="needs an NVIDIA GPU")
def test_a_real_card_tells_its_name_memory_and_energy():
    assert device.describe()["memory_gib"] > 1
    figures = watch(0.5)
    assert figures.metrics()["device_peak_gib"].value > 0
    assert figures.metrics()["mean_power_w"].value > 1
    assert figures.energy((time.monotonic() - 0.4, time.monotonic())).value > 0
