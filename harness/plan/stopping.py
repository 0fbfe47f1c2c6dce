"""Where the asking of accuracy questions may end before the last one, and whether a Record has what the suite asks for."""

from __future__ import annotations

from harness.record.records import Record
from harness.suite.gate_policy import Policy
from harness.suite.schema import Suite
from harness.workloads.accuracy import Accuracy


def looks(suite: Suite) -> tuple[float, int] | None:
    """The recovery that must be kept, and how many candidates share the error of the looks; None where all is asked."""
    if getattr(Accuracy.spec_of(suite.workloads), "stop", None) is None:
        return None
    again = {name for name, v in suite.variants.items() if v.repeat and not (v.recipe or v.checkpoint)}
    return (suite.gate or Policy()).accuracy.min_recovery, max(1, len(suite.variants.keys() - again - {suite.baseline}))


def enough(record: Record, suite: Suite) -> bool:
    """Whether all its questions were asked, or asking ended where the suite's own stop would have ended it."""
    asked = record.asked
    return record.whole or (asked is not None and asked.decided and looks(suite) == (asked.limit, asked.candidates))
