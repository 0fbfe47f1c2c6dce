"""How long one request takes, at few requests at once."""

from __future__ import annotations

from harness.workloads.load import Load


class Latency(Load):
    """How long one request takes, at few requests at once."""

    name = "latency"
