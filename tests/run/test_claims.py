"""Each Cell once, whoever else measures; whoever dies holds nothing."""

from __future__ import annotations

import subprocess
import sys

from harness.run.claims import Claims
from tests.helpers.records import ROOT

HOLD = """
import sys, time
from pathlib import Path
from harness.run.claims import Claims
with Claims(Path(sys.argv[1])) as claims:
    print(*claims.take(sys.argv[2:]), flush=True)
    time.sleep(float("60"))
"""


def test_a_claim_keeps_others_out_until_its_holder_ends_however_it_ends(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), "a", "b"], stdout=subprocess.PIPE, cwd=ROOT)
    assert other.stdout is not None and other.stdout.readline() == b"a b\n"
    with Claims(tmp_path) as claims:
        assert claims.take(["a", "c"]) == ["c"]
        assert claims.elsewhere(["a", "b", "c", "d"]) == ["a", "b"]
        assert claims.holder("a").startswith(f"process {other.pid} on ")
        other.kill()
        other.wait()
        assert claims.take(["a", "b"]) == ["a", "b"]
    assert not (tmp_path / "claims").exists()


def test_many_at_once_never_take_the_same(tmp_path):
    """Processes that take, hold for a moment and give back: a Cell never has two holders."""
    code = """
import sys, os, time
from pathlib import Path
from harness.run.claims import Claims
run, end, wrong = Path(sys.argv[1]), time.time() + 1.0, 0
while time.time() < end:
    with Claims(run) as claims:
        for key in claims.take("abc"):
            try:
                os.close(os.open(run / f"held-{key}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                wrong += 1
        for key in claims._held:
            (run / f"held-{key}").unlink(missing_ok=True)
print(wrong)
"""
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT) for _ in range(4)
    ]
    assert [p.communicate()[0].strip() for p in started] == [b"0"] * 4
