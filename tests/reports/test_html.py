"""The page as text: one file, bounded, and with what makes its figures believable."""

from __future__ import annotations

import re
import subprocess
import sys
from html import unescape

from harness.record.folder import RunFolder
from harness.record.samples import Question
from harness.suite.schema import Suite, load_suite
from reports.page import html
from tests.helpers.records import ROOT
from tests.helpers.runs import full_run

DEMO = ROOT / "results/demo_cpu"


def test_the_demo_is_one_small_file_without_addresses():
    page = html.page(RunFolder(DEMO))
    assert len(page.encode()) < 5_000_000
    own = re.sub(r"<script>/\* vega.*?</script>", "", page, flags=re.DOTALL)
    assert re.findall(r"""(?:src|href|action|url)\s*[=(]\s*["']?(?!data:|#)[^\s"'>)]+""", own) == []
    assert "Content-Security-Policy" in page and "default-src 'none'" in page


def test_the_suite_shown_is_the_suite_that_ran(tmp_path):
    page = html.page(RunFolder(DEMO))
    shown = re.search(r"<summary>suite.yaml</summary><pre[^>]*><code>(.*?)</code>", page, re.DOTALL)
    (tmp_path / "suite.yaml").write_text(unescape(shown[1]), encoding="utf-8")
    assert load_suite(tmp_path / "suite.yaml") == Suite.model_validate(RunFolder(DEMO).read().suite)
    assert "git checkout 1847de6d5357a867d6aa46c37c6bcb17ac4088ef" in page


def test_pictures_that_are_not_there_say_why(tmp_path):
    run = full_run(tmp_path / "r")
    known = [
        Question(task="text", doc_id="text0", image_hash="itext0", text="what?", images=["../../../etc/passwd", "gone.png"]),
        Question(task="text", doc_id="text1", image_hash="another", text="wrong picture", images=["x.png"]),
        Question(task="text", doc_id="text2", image_hash="itext2", reason="the data set is gone"),
    ]
    run.keep_questions(known)
    (run.path / "questions.jsonl").open("a").write("no JSON\n")
    page = html.page(run)
    assert "what?" in page and "wrong picture" not in page and "passwd" not in page
    for note in ("the picture&#39;s file is missing", "the data set is gone", "are not kept in this Run"):
        assert note in page


def test_many_pictures_do_not_make_the_file_large(tmp_path, monkeypatch):
    run = full_run(tmp_path / "r")
    run.image_path("x.png").parent.mkdir()
    run.image_path("x.png").write_bytes(b"x" * 1000)
    run.keep_questions(
        Question(task="text", doc_id=f"text{i}", image_hash=f"itext{i}", text="?", images=["x.png"]) for i in range(6)
    )
    monkeypatch.setattr(html, "IMAGE_BYTES", 2500)
    page = html.page(run)
    assert page.count("data:image/png;base64,") == 2 and page.count("left out to keep this file small") == 4


def test_the_script_is_what_the_package_gives():
    """Only where the package is installed; `python -m reports.page.vendor` writes the file."""
    head = (ROOT / "reports/page/vega.js").read_text(encoding="utf-8").splitlines()[0]
    assert head.startswith("/* vega 6.") and "BSD-3-Clause" in head
    done = subprocess.run([sys.executable, "-c", "import reports.page.vendor"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0
