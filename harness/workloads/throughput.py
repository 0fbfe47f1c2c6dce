"""How much the engine gives, at many requests at once."""

from __future__ import annotations

from harness.workloads.load import Load


class Throughput(Load):
    """How much the engine gives, at many requests at once."""

    name = "throughput"
