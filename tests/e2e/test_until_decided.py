"""Real engines, asked in turn until the gate's recovery is decided."""

from __future__ import annotations

import pytest

from harness.cli import main
from harness.compare import gate
from harness.record.folder import RunFolder
from harness.suite.gate_policy import AccuracyPolicy, Policy
from tests.helpers.commands import LIMIT, engines, harness, suite

pytestmark = pytest.mark.e2e


def test_two_engines_side_by_side_are_asked_until_it_is_decided(run, results, capsys):
    folder = RunFolder(results / "decided")
    arguments = suite("vl_accuracy", folder.path, "gate.accuracy.min_recovery=0.9", "workloads.accuracy.concurrency=16")
    done = harness(*arguments, "--until-decided", results=results)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("vLLM serves") == 2 and engines() == []
    assert "pass, recovery" in done.stderr and "--to-the-end asks the rest" in done.stderr
    records = list(folder.records())
    assert len(records) == 10 and all(r.asked is not None and r.asked.decided and r.asked.of == LIMIT for r in records)
    assert sum(r.samples for r in records) < 2 * 5 * LIMIT, "it stopped before the last question"
    base, packed = ([s.doc_id for r in records if r.cell.variant == v for s in folder.samples(r.cell.key)] for v in
                    ("bf16", "awq-int4-g128"))  # fmt: skip
    assert base == packed and len(set(base)) == len(base)
    assert gate.outcome(gate.judge(folder, Policy(accuracy=AccuracyPolicy(min_recovery=0.9)))) == "pass"
    assert main.main(["report", str(folder.path), "--html"]) == 0
    assert main.main(["compare", str(folder.path), "--early", "--limit", "0.9"]) == 0
    assert "hold at every look" in " ".join(capsys.readouterr().out.split())
    again = harness(*arguments, "--until-decided", results=results)
    assert again.returncode == 0 and "vLLM serves" not in again.stderr
