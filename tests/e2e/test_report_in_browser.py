"""The report in a real browser: Debian's Chromium, headless."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from example_rollout import example
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from rollout.reporting.page import Figures
from rollout.reporting.report import build, render_html

pytestmark = pytest.mark.browser

LOADED_WITHIN_S = 20
DEMO = Path(__file__).parents[2] / "demo-report"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
FIGURES = """
return [...document.querySelectorAll("[data-path]")].map(found => ({
  path: found.dataset.path, value: found.dataset.value, text: found.textContent,
  shown: found.getClientRects().length > 0,
}));
"""
DRAWINGS = """
return [...document.querySelectorAll("svg.drawing")].map(drawing => {
  const box = drawing.getBoundingClientRect();
  const marks = [...drawing.querySelectorAll("path, use")].filter(mark => {
    const size = mark.getBoundingClientRect();
    return size.width + size.height > 0;
  });
  return {label: drawing.getAttribute("aria-label"), width: box.width, height: box.height,
          marks: marks.length, words: drawing.querySelectorAll("text").length};
});
"""
COLLISIONS = """
const found = [];
for (const drawing of document.querySelectorAll("svg.drawing")) {
  const words = [...drawing.querySelectorAll("text")].map(
    word => ({said: word.textContent, at: word.getBoundingClientRect()}));
  words.forEach((one, place) => words.slice(place + 1).forEach(other => {
    const across = Math.min(one.at.right, other.at.right) - Math.max(one.at.left, other.at.left);
    const down = Math.min(one.at.bottom, other.at.bottom) - Math.max(one.at.top, other.at.top);
    if (across > -2.5 && down > one.at.height / 2) {
      found.push([drawing.getAttribute("aria-label"), one.said, other.said]);
    }
  }));
}
return found;
"""
CUT = """
return [...document.querySelectorAll(".table")]
  .filter(table => table.scrollWidth > table.clientWidth + 1)
  .map(table => table.getAttribute("aria-label"));
"""
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth;"


def browser_paths() -> tuple[str, str]:
    """Find Chromium and its driver; without them fail in CI and skip elsewhere."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium and driver:
        return chromium, driver
    words = "this test needs Chromium: apt-get install -y chromium chromium-driver"
    if os.environ.get("CI") == "true":
        pytest.fail(words)
    pytest.skip(words)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chromium, driver = browser_paths()
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield found
    finally:
        found.quit()


def demo_report() -> Path:
    """Find what `make demo` wrote; without it fail in CI and skip elsewhere."""
    if not (DEMO / "report.html").is_file():
        words = "this test needs the demo's report: make demo"
        if os.environ.get("CI") == "true":
            pytest.fail(words)
        pytest.skip(words)
    return DEMO


def example_report(folder: Path) -> Path:
    report = build(example(requests=2000))
    (folder / "report.json").write_text(report.model_dump_json(), encoding="utf-8")
    (folder / "report.html").write_text(render_html(report), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=["example", "demo"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "demo":
        return demo_report()
    return example_report(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return folder / "report.html"


@pytest.fixture
def opened(browser: webdriver.Chrome, file: Path) -> webdriver.Chrome:
    for log in ("browser", "performance"):
        browser.get_log(log)  # type: ignore[no-untyped-call]  # and empties it
    browser.get("about:blank")  # else a page that is opened again may be read half loaded
    browser.get(file.as_uri())
    WebDriverWait(browser, LOADED_WITHIN_S).until(
        lambda shown: shown.execute_script("return document.readyState") == "complete"
    )
    return browser


def test_every_figure_in_the_browser_equals_the_json(
    opened: webdriver.Chrome, folder: Path
) -> None:
    document = Figures(json.loads((folder / "report.json").read_text(encoding="utf-8")))
    figures: list[dict[str, Any]] = opened.execute_script(FIGURES)
    assert len(figures) > 500
    for figure in figures:
        assert json.loads(figure["value"]) == document.value(figure["path"]), figure
        assert figure["shown"], figure
        assert figure["text"].strip(), figure


def test_every_chart_is_drawn(opened: webdriver.Chrome) -> None:
    drawings: list[dict[str, Any]] = opened.execute_script(DRAWINGS)
    assert len(drawings) == 28
    for drawing in drawings:
        assert drawing["label"]
        assert drawing["width"] > 150, drawing
        assert drawing["height"] > 80, drawing
        assert drawing["marks"] > 10, drawing
        assert drawing["words"] > 3, drawing


def test_the_page_asks_the_network_for_nothing_and_logs_nothing(opened: webdriver.Chrome) -> None:
    assert opened.get_log("browser") == []  # type: ignore[no-untyped-call]
    messages = [
        json.loads(entry["message"])["message"]
        for entry in opened.get_log("performance")  # type: ignore[no-untyped-call]
    ]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert asked == [opened.current_url]


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_never_scrolls_sideways(opened: webdriver.Chrome, width: int) -> None:
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    assert opened.execute_script(OVERFLOW) == 0


def test_no_words_of_a_chart_touch_each_other(opened: webdriver.Chrome) -> None:
    screen = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    assert opened.execute_script(COLLISIONS) == []


def test_no_table_is_cut_off_on_a_laptop(opened: webdriver.Chrome) -> None:
    screen = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    assert opened.execute_script(CUT) == []
