"""The READMEs' pictures: `python -m tests.helpers.picture` opens the page of results/demo_cpu in Chromium."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from harness.record.folder import RunFolder
from reports.page import html
from tests.helpers.records import ROOT
from tests.reports.test_page import CHROMIUM

PICTURES = {"en": "report.png", "zh": "report.zh.png"}
SIZE = {"width": 1100, "height": 1960}
COLOURS = 128


def main() -> None:
    """Write docs/report.png and docs/report.zh.png."""
    with sync_playwright() as started, tempfile.TemporaryDirectory() as folder:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for language, name in PICTURES.items():
            file = Path(folder) / "page.html"
            file.write_text(html.page(RunFolder(ROOT / "results/demo_cpu"), language), encoding="utf-8")
            page = browser.new_page(viewport=SIZE, color_scheme="light")
            page.goto(file.as_uri())
            page.wait_for_function("document.body.dataset.ready === 'yes'")
            taken = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            taken.quantize(COLOURS).save(ROOT / "docs" / name, optimize=True)
        browser.close()


if __name__ == "__main__":
    main()
