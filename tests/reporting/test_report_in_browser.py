"""The page in Chromium: two widths, light and dark, with scripts and without, on paper."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.reporting.making import ReportOptions, make_report
from tests.serving.chromium import Browser, Page, chromium, chromium_path

# For all elements with text of their own: the contrast of its colour with what is painted below it (WCAG 2).
_CONTRASTS = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const below = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      if (color[3] > 0.99) return color;
    }
    return [255, 255, 255, 1];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest("script, title, .hidden, .skip, option")) continue;
    const style = getComputedStyle(element);
    const ink = light(rgba(element.closest("svg") ? style.fill : style.color)), paper = light(below(element));
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (contrast < 4.5) found.push(`${element.tagName} ${contrast.toFixed(2)} ${element.textContent}`);
  }
  return found.slice(0, 10);
})()
"""


@pytest.fixture(scope="module")
def address(run: Path, student: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "report.html"
    return make_report([run, student, bundle], out, ReportOptions(device="cpu")).path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium_path()
    if path is None:
        pytest.skip("reports are tested in Chromium, which is not installed")
    with chromium(path) as running:
        yield running


def pixels(page: Page) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_everybody_can_read_it(browser: Browser, address: str, width: int, dark: bool) -> None:
    with browser.page(address, width=width, dark=dark) as page:
        page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
        assert page.evaluate(_CONTRASTS) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert (np.median(pixels(page)) < 60) == dark
        assert page.evaluate(
            "Promise.all([...document.images].map((image) => { image.loading = 'eager'; return image.decode(); }))"
            ".then(() => [...document.images].every((image) => image.naturalWidth > 0))"
        )
        assert [url for url in page.requested() if not url.startswith(("file:", "data:"))] == []
        assert page.problems() == []
        assert page.evaluate("window.alerted") is None


def test_the_contrast_of_faint_text_is_noticed(browser: Browser, address: str) -> None:
    with browser.page(address) as page:
        page.evaluate("document.querySelector('h2').style.color = '#999'")
        assert len(page.evaluate(_CONTRASTS)) == 1


def column(page: Page, number: int) -> list[str]:
    rows = "[...document.querySelector('#accuracy table.sortable').tBodies[0].rows]"
    return list(page.evaluate(f"{rows}.map((row) => row.cells[{number}].textContent.replace('weak', '').trim())"))


def test_tables_are_sorted_by_numbers_and_by_names(browser: Browser, address: str) -> None:
    with browser.page(address) as page:
        head = "#accuracy table.sortable thead th"
        before = column(page, 0)
        page.evaluate(f"document.querySelectorAll('{head}')[1].querySelector('button').focus()")
        page.press("Enter", text="\r")
        values = [float(text) for text in column(page, 1) if text != "–"]
        assert values == sorted(values)
        assert page.evaluate(f"document.querySelectorAll('{head}')[1].getAttribute('aria-sort')") == "ascending"
        page.press("Enter", text="\r")
        assert [float(text) for text in column(page, 1) if text != "–"] == values[::-1]
        page.click(f"{head} button")
        assert sorted(column(page, 0)) == sorted(before)
        assert page.evaluate("document.querySelectorAll('#accuracy [aria-sort]').length") == 1


def test_sliders_move_between_pictures(browser: Browser, address: str) -> None:
    with browser.page(address) as page:
        clip = "document.querySelector('.compare .stage img + img').style.clipPath"
        assert page.evaluate(clip) == "inset(0px 0px 0px 50%)"
        page.evaluate("document.querySelector('.compare input').focus()")
        for _ in range(5):
            page.press("ArrowRight", code=39)
        assert page.evaluate(clip) == "inset(0px 0px 0px 55%)"
        right = "document.querySelector('.compare .stage img + img')"
        before = page.evaluate(f"{right}.alt")
        assert before.startswith("Classes of")
        page.evaluate(
            "(() => { const select = document.querySelectorAll('.compare select')[1]; select.value = '1';"
            "select.dispatchEvent(new Event('change')); })()"
        )
        assert page.evaluate(f"{right}.alt").startswith("True classes of")


def test_without_scripts_everything_is_shown(browser: Browser, address: str) -> None:
    with browser.page("about:blank#", width=900) as page:
        page.call("Emulation.setScriptExecutionDisabled", value=True)
        page.call("Page.navigate", url=address)
        page.wait_for("document.readyState === 'complete' && document.querySelector('#provenance') !== null")
        assert page.evaluate("document.querySelectorAll('.compare, thead button').length") == 0
        for part in (".panel img", ".chart", "table.matrix", ".bank img"):
            assert page.is_shown(part)


def test_on_paper_it_is_light_and_complete(browser: Browser, address: str) -> None:
    with browser.page(address, dark=True) as page:
        page.call("Emulation.setEmulatedMedia", media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.is_shown("nav.contents")
        page.resize(718, 1000)  # A4 between margins
        assert page.evaluate("document.documentElement.scrollWidth") <= 718
        pdf = base64.b64decode(page.call("Page.printToPDF", printBackground=True)["data"])
        assert pdf.startswith(b"%PDF")
        assert page.evaluate("[...document.querySelectorAll('details')].every((details) => details.open)")
