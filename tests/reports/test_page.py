"""The page in a real browser: nothing is asked of the network, every plot is drawn, no name does harm, tables sort."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.record.folder import RunFolder
from reports.page import html
from tests.helpers.records import ROOT, keep, record, sample
from tests.helpers.runs import full_run, recipe, variant, write

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "</script><script>window.harmed=1</script><img src=http://127.0.0.1:9/x onerror='window.harmed=1'>"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a Run's page; at the end, fails for any message, error or request."""
    told: list[str] = []
    pages = []

    def open_page(run: RunFolder, language: str = "en", **context: object):
        file = tmp_path / "page.html"
        file.write_text(html.page(run, language), encoding="utf-8")
        page = browser.new_page(**context)
        pages.append(page)
        page.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: told.append(f"error: {error}"))
        page.on("request", lambda request: request.url.startswith(("data:", file.as_uri())) or told.append(request.url))
        page.goto(file.as_uri())
        page.wait_for_function("document.body.dataset.ready === 'yes'", timeout=20_000)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert told == []


def column(page, table: str, number: int) -> list[str]:
    return page.locator(f"#{table} tbody tr > :nth-child({number})").all_inner_texts()


def test_every_plot_is_drawn_and_follows_the_theme(opened, tmp_path):
    page = opened(full_run(tmp_path / "r"), color_scheme="dark")
    drawn = page.locator(".plot").evaluate_all("all => all.map(one => [one.id, one.dataset.drawn])")
    names = ("recovery", "bets", "changes", "heat", "tradeoff-0", "memory", "pareto-size", "pareto-speed")
    assert drawn == [[f"plot-{name}", "yes"] for name in names]
    assert page.locator(".plot svg .mark-rule, .plot svg .mark-rect, .plot svg .mark-symbol").count() > 10
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    page.locator("#plot-tradeoff-0 select").select_option("mean_ttft_ms")
    assert page.locator("#plot-tradeoff-0 svg .mark-symbol path").count() >= 9


def test_a_table_is_sorted_by_a_click_and_by_a_key(opened, tmp_path):
    page = opened(full_run(tmp_path / "r"))
    button = page.locator("#table-summary thead button").nth(4)
    button.click()
    assert column(page, "table-summary", 1) == ["awq-g128", "rtn-g32", "bf16", "gone"]
    assert page.locator("#table-summary th[aria-sort=ascending]").inner_text().startswith("weights on disk")
    button.focus()
    page.keyboard.press("Enter")
    assert column(page, "table-summary", 1) == ["bf16", "rtn-g32", "awq-g128", "gone"]


def test_names_that_hold_scripts_are_shown_as_text(opened, tmp_path):
    run, keys = RunFolder(tmp_path / "r"), []
    names = ("bf16", EVIL, "a|b`*_{x}\u202e")
    for number, name in enumerate(names):
        samples = [sample(str(i), float(number == 0 or i > 3), EVIL, target=EVIL) for i in range(20)]
        keys.append(keep(run, record(name, str(number), EVIL, checkpoint=name), samples).cell.key)
    write(run, {n: variant(9 - i, recipe(observer=EVIL) if i else None) for i, n in enumerate(names)}, keys, model=EVIL)
    page = opened(run)
    assert page.evaluate("window.harmed") is None
    assert EVIL in page.locator("h1").inner_text() and EVIL in column(page, "table-summary", 1)
    assert page.locator("#lost .exhibit").first.locator("dd").nth(2).inner_text() == EVIL
    assert page.locator(".exhibit").count() == 4 and page.locator("#by-variant option").count() == 3
    page.locator("#by-variant").select_option(EVIL)
    assert page.locator(".exhibit:visible").count() == 4


@pytest.mark.parametrize("width", [360, 1200])
def test_the_demo_fits_the_screen_and_shows_its_pictures(opened, width):
    page = opened(RunFolder(ROOT / "results/demo_cpu"), viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    pictures = page.locator(".exhibit img")
    assert pictures.count() == 30
    assert pictures.evaluate_all("all => all.every(one => one.complete && one.naturalWidth === 96)")
    overflow = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).length"
    assert page.locator(".plot, .card, .exhibit").evaluate_all(overflow) == 0


def test_what_a_screen_reader_needs_is_there(opened, tmp_path):
    page = opened(full_run(tmp_path / "r"), "zh")
    assert page.locator("html").get_attribute("lang") == "zh-CN" and page.locator("h2").first.inner_text() == "总览"
    nameless = "all => all.filter(one => !(one.getAttribute('aria-label') || one.alt || one.textContent.trim())).length"
    assert page.locator("img, button, a, [role=img], [role=region]").evaluate_all(nameless) == 0
    assert page.locator("h1").count() == 1 and page.locator("main").count() == 1
    doubled = "all => all.length - new Set(all.map(one => one.id)).size"
    assert page.locator("[id]").evaluate_all(doubled) == 0


def test_a_printed_page_is_light_and_unfolded(opened, tmp_path):
    page = opened(full_run(tmp_path / "r"), color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#tables details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("#tables details:not([open])").count() > 3


@pytest.mark.parametrize("facts", [{}, {"bf16": {}, "int4": {}}])
def test_a_run_without_records_is_a_page(opened, tmp_path, facts):
    page = opened(write(RunFolder(tmp_path / "r"), facts, []))
    assert page.locator(".plot").count() == 0
    assert Path(tmp_path / "page.html").stat().st_size < 100_000
