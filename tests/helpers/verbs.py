"""The command's verbs."""

from __future__ import annotations

VERBS = (
    "run",
    "plan",
    "quantize",
    "verify",
    "infer",
    "fetch",
    "report",
    "pick",
    "compare",
    "gate",
    "import",
    "publish",
    "tune",
    "shape",
    "init",
    "schema",
)
