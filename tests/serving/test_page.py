"""The page at ``/`` in a real browser: its pictures and numbers are those of `predict`, its messages those it needs."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.data.scenes import scene_of_split
from protoseg_deploy.evaluation.colors import overlay
from protoseg_deploy.evaluation.prediction import predict_files
from protoseg_deploy.runtimes.opening import open_runtime
from protoseg_deploy.serving.artefact import ArtefactSpec
from protoseg_deploy.serving.limits import Limits
from tests.serving.chromium import Browser, Page, chromium, chromium_path
from tests.serving.embedded import embedded_server, server_thread
from tests.serving.small_bundles import COLORS, NAMES, classes_of, confidence_of, write_bundle, write_unverified_graph

MOST_PIXELS, MOST_BYTES = 50_000, 500_000
TOKEN = "open-sesame"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """``sure`` and ``wrong``, which passed and failed their verification, and ``plain``, which never had one."""
    root = tmp_path_factory.mktemp("page")
    plain = write_unverified_graph(root / "plain")
    write_bundle(root / "exchanged")
    write_bundle(root / "next", quarter=80)
    write_bundle(root / "stored", exif="ignore")
    return write_bundle(root / "sure"), write_bundle(root / "wrong", "failed"), plain


@pytest.fixture(scope="module")
def server(bundles: tuple[Path, Path, Path]) -> Iterator[str]:
    """Address of the page of a server of all."""
    paths = {path.parent.name if path.is_file() else path.name: path for path in bundles}
    paths |= {name: bundles[0].parent / name for name in ("exchanged", "stored")}
    specs = [ArtefactSpec(path, name, device="cpu", allow_unverified=True) for name, path in paths.items()]
    with server_thread(*specs, limits=Limits(request_bytes=MOST_BYTES, image_pixels=MOST_PIXELS)) as (http, _):
        yield f"http://{http}/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium_path()
    if path is None:
        pytest.skip("the page is tested in Chromium, which is not installed")
    with chromium(path) as running:
        yield running


@contextmanager
def opened(browser: Browser, address: str, *, width: int = 1280, dark: bool = False) -> Iterator[Page]:
    """The page, which in the end has asked nobody but its server and has thrown nothing."""
    with browser.page(address, width=width, dark=dark) as page:
        page.wait_for("document.querySelector('#model').value")
        yield page
        wait_until_quiet = "new Promise((resolve) => setTimeout(resolve, 50))"
        page.evaluate(wait_until_quiet)
        assert [url for url in page.requested() if not url.startswith((address, "blob:", "data:"))] == []
        assert [text for text in page.problems() if not text.startswith("Failed to load resource")] == []


@pytest.fixture
def page(browser: Browser, server: str) -> Iterator[Page]:
    with opened(browser, server) as page:
        page.wait_for("document.querySelector('#accepted').textContent")
        yield page


def picture(number: int) -> Image.Image:
    return Image.fromarray(scene_of_split("val", number).image)


def choose(page: Page, *files: Path) -> None:
    """Choose files, and wait until each is done or has failed."""
    page.choose_files("#files", *files)
    wait_until_idle(page)


def wait_until_idle(page: Page) -> None:
    page.wait_for(
        "document.querySelector('.entry') && "
        "!document.querySelector('.entry:is([data-state=waiting], [data-state=running])')"
    )
    page.wait_for(
        "document.querySelector('.entry[aria-current]').dataset.state === 'failed' || "
        "document.querySelector('.file-name')?.title === document.querySelector('.entry[aria-current]').title"
    )


def seen(page: Page, canvas: str = "#canvas") -> np.ndarray:
    """``[H,W,4]`` RGBA of a canvas."""
    page.evaluate("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
    address = page.evaluate(f"document.querySelector('{canvas}').toDataURL('image/png')")
    return np.array(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGBA"))


def show(page: Page, view: str) -> np.ndarray:
    """``[H,W,3]`` of a view."""
    page.click(f"[name=view][value={view}]")
    return seen(page)[..., :3]


def set_opacity(page: Page, points: int) -> None:
    slider = "document.querySelector('#opacity')"
    page.evaluate(f"{slider}.value = {points}; {slider}.dispatchEvent(new Event('input', {{bubbles: true}}))")


def predicted(bundle: Path, files: Sequence[Path], out: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Class maps and overlays that `predict` writes."""
    predict_files(open_runtime(bundle, device="cpu"), files, out)
    return [
        tuple(
            np.asarray(Image.open(path))
            for path in (out / "index" / f"{f.stem}.png", out / "overlay" / f"{f.stem}.png")
        )
        for f in files
    ]


def legend(page: Page) -> dict[str, tuple[int, str]]:
    """Pixels and share of each class, in the order of the page."""
    rows = page.evaluate(
        "[...document.querySelectorAll('.class')].map((row) => ['.class-name', '.pixels', '.share']"
        ".map((part) => row.querySelector(part).textContent))"
    )
    return {name: (int(re.sub(r"\D", "", pixels)), share) for name, pixels, share in rows}


def test_the_server_lets_the_page_load_nothing_from_elsewhere(server):
    folder = Path(str(files("protoseg_deploy.serving.page")))
    names = [file.name for file in folder.iterdir() if file.suffix in {".css", ".html", ".js", ".svg"}]
    assert {"index.html", "style.css", "page.js", "icon.svg"} <= set(names)
    for name in names:
        with urlopen(server + name.replace("index.html", "")) as answer:
            assert answer.read() == (folder / name).read_bytes()
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
            assert "http" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"


def test_models_tell_their_limits(server):
    with urlopen(f"{server}v2/models/sure") as answer:
        parameters = json.load(answer)["parameters"]
    assert parameters["max_pixels"] == str(MOST_PIXELS)
    assert parameters["max_request_bytes"] == str(MOST_BYTES)


def test_pixels_as_the_network_saw_them(server):
    """The output `image_png`, of every image of a request."""
    images = np.stack([scene_of_split("val", number).image for number in (0, 1)])
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape), "data": images.ravel().tolist()}
    body = json.dumps({"inputs": [tensor], "outputs": [{"name": "image_png"}]}).encode()
    with urlopen(Request(f"{server}v2/models/sure/infer", body)) as answer:
        (output,) = json.load(answer)["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("image_png", "BYTES", [2])
    for image, element in zip(images, output["data"], strict=True):
        np.testing.assert_array_equal(Image.open(io.BytesIO(base64.b64decode(element))), image)


def test_pictures_and_areas_are_those_of_predict(page, bundles, tmp_path):
    files = [tmp_path / "first.png", tmp_path / "second.png"]
    for number, file in enumerate(files):
        picture(number).save(file)
    choose(page, *files)
    for file, (class_map, blend) in zip(files, predicted(bundles[0], files, tmp_path / "out"), strict=True):
        page.click(f".entry[title='{file.name}']")
        wait_until_idle(page)
        image = np.asarray(Image.open(file))
        np.testing.assert_array_equal(class_map, classes_of(image))
        np.testing.assert_array_equal(show(page, "image"), image)
        np.testing.assert_array_equal(show(page, "overlay"), blend)
        set_opacity(page, 30)
        np.testing.assert_array_equal(seen(page)[..., :3], overlay(image, class_map, COLORS, 0.3))
        set_opacity(page, 50)
        np.testing.assert_array_equal(show(page, "classes"), np.array(COLORS, np.uint8)[class_map])
        counts = np.bincount(class_map.ravel(), minlength=len(COLORS))
        expected = {NAMES[index]: int(counts[index]) for index in np.argsort(-counts, kind="stable") if counts[index]}
        found = legend(page)
        assert {name: pixels for name, (pixels, _) in found.items()} == expected
        assert list(found) == list(expected)
        assert re.search(r"^Not in this image: .*never$", page.text(".absent"))
        for name, (pixels, share) in found.items():
            part = f"{100 * pixels / class_map.size:.1f} %"
            assert share == ("<0.1 %" if part == "0.0 %" else part)
            assert f"{name} {share}" in page.evaluate("document.querySelector('#canvas').ariaLabel")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.jpg", {"quality": 90}),
        ("coarse.jpg", {"quality": 60, "subsampling": 2}),
        ("turned.jpg", {"quality": 90, "exif": 6}),
        ("upside-down.jpg", {"quality": 90, "exif": 3}),
        ("b.tif", {}),
        ("clear.png", {"mode": "RGBA"}),
        ("deep.png", {"mode": "I;16"}),
    ],
)
def test_files_that_browsers_read_in_their_own_way(page, bundles, tmp_path, name, options):
    image, file = picture(3), tmp_path / name
    if options.get("mode") == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    if options.get("mode") == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * np.uint16(251))
    if "exif" in options:
        image.getexif()[0x0112] = options["exif"]
        options = {**options, "exif": image.getexif()}
    image.save(file, **{key: value for key, value in options.items() if key != "mode"})
    choose(page, file)
    ((_, blend),) = predicted(bundles[0], [file], tmp_path / "out")
    np.testing.assert_array_equal(show(page, "overlay"), blend)


def test_orientations_that_the_bundle_ignores(page, bundles, tmp_path):
    """Browsers apply them, whatever they are told."""
    upside_down = Image.Exif()
    upside_down[0x0112] = 3
    picture(3).save(tmp_path / "a.jpg", exif=upside_down)
    choose(page, tmp_path / "a.jpg")
    turned = show(page, "overlay")
    choose_model(page, "stored")
    ((_, blend),) = predicted(bundles[0].parent / "stored", [tmp_path / "a.jpg"], tmp_path / "out")
    np.testing.assert_array_equal(show(page, "overlay"), blend)
    np.testing.assert_array_equal(turned, blend[::-1, ::-1])


def test_confidence(page, tmp_path):
    picture(1).save(tmp_path / "a.png")
    choose(page, tmp_path / "a.png")
    confidence = confidence_of(np.asarray(picture(1)))
    assert f"Mean confidence\n{100 * confidence.mean() / 255:.1f} %" in page.text(".facts")
    shown = show(page, "confidence").astype(int).sum(axis=2)
    assert page.is_shown("#scale")
    order = np.argsort(confidence.ravel(), kind="stable")
    assert (np.diff(shown.ravel()[order]) >= 0).all()  # brighter where surer


def test_files_that_are_saved(page, bundles, tmp_path):
    picture(2).save(tmp_path / "scene.png")
    choose(page, tmp_path / "scene.png")
    saved = tmp_path / "saved"
    page.let_download(saved)
    page.click("#save-classes")
    page.click("#save-overlay")
    palette, painted = saved_files(page, saved / "scene_classes.png", saved / "scene_overlay.png")
    ((class_map, blend),) = predicted(bundles[0], [tmp_path / "scene.png"], tmp_path / "out")
    assert palette.mode == "P"
    np.testing.assert_array_equal(np.asarray(palette), class_map)
    assert palette.getpalette()[: 3 * len(COLORS)] == [value for color in COLORS for value in color]
    np.testing.assert_array_equal(np.asarray(painted.convert("RGB")), blend)


def saved_files(page: Page, *files: Path) -> list[Image.Image]:
    """Wait for files, which appear when they are whole."""
    while not all(file.exists() and file.stat().st_size for file in files):
        page.evaluate("new Promise((resolve) => setTimeout(resolve, 20))")
    return [Image.open(io.BytesIO(file.read_bytes())) for file in files]


def test_files_that_are_refused(page, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty.png").touch()
    picture(0).save(tmp_path / "good.png")
    Image.new("RGB", (400, 300)).save(tmp_path / "large.png")
    Image.new("RGB", (400, 300)).save(tmp_path / "large.jpg")
    Image.new("RGB", (400, 300)).save(tmp_path / "large.tif")
    (tmp_path / "long.png").write_bytes(bytes(600_000))
    expected = {
        "notes.txt": "Not an image",
        "empty.png": "The file is empty",
        "large.png": "400 × 300 pixels; this server takes up to 50,000 pixels. It was not sent",
        "large.jpg": "400 × 300 pixels; this server takes up to 50,000 pixels. It was not sent",
        "large.tif": "Too large: 400x300 pixels",
        "long.png": "The file has 0.6 MB; this server takes up to 0.5 MB. It was not sent",
    }
    choose(page, *(tmp_path / name for name in expected), tmp_path / "good.png")
    for name, message in expected.items():
        page.click(f".entry[title='{name}']")
        assert page.text("#failure-name") == name
        assert message in page.text("#failure")
    assert page.evaluate("document.querySelector('#failure').role") == "alert"
    assert sum(url.endswith("/infer") for url in page.requested()) == 3
    page.click(".entry[title='good.png']")
    assert not page.is_shown("#failure")


def test_images_that_are_dropped_and_pasted(page):
    buffer = io.BytesIO()
    picture(0).save(buffer, "PNG")
    file = f"new File([Uint8Array.from(atob('{base64.b64encode(buffer.getvalue()).decode()}'), (c) => c.charCodeAt())]"
    transfer = "const data = new DataTransfer(); data.items.add"
    page.evaluate(
        f"{transfer}({file}, 'dropped.png', {{type: 'image/png'}}));"
        "for (const type of ['dragover', 'drop'])"
        " document.body.dispatchEvent(new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true}))"
    )
    page.evaluate(
        f"{{ {transfer}({file}, 'image.png', {{type: 'image/png'}}));"
        "document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true})) }"
    )
    wait_until_idle(page)
    names = page.evaluate("[...document.querySelectorAll('.entry[data-state=done]')].map((entry) => entry.title)")
    assert names == ["dropped.png", "pasted-1.png"]
    assert not page.is_shown("#dropping")


def test_models_of_every_verdict(page, bundles, tmp_path):
    picture(0).save(tmp_path / "a.png")
    choose(page, tmp_path / "a.png")
    assert page.text(".badge") == "verified"
    assert not page.is_shown("#verdict")
    assert page.is_shown("#confidence-view")
    show(page, "confidence")
    options = page.evaluate("[...document.querySelector('#model').options].map((option) => option.value)")
    assert options == ["sure", "wrong", "plain", "exchanged", "stored"]
    choose_model(page, "wrong")
    assert page.text(".badge") == "failed its verification"
    assert "Do not rely on them" in page.text("#verdict")
    choose_model(page, "plain")
    assert page.text(".badge") == "not verified"
    assert "This model is not verified" in page.text("#verdict")
    assert not page.is_shown("#confidence-view")
    assert page.evaluate("document.querySelector('[name=view]:checked').value") == "overlay"
    digest = hashlib.sha256(bundles[2].read_bytes()).hexdigest()
    assert page.evaluate("document.querySelector('#artefact .digest').title").startswith(digest)
    assert page.text("#artefact .digest") == digest[:12]
    expected = np.bincount(np.asarray(picture(0))[..., 0].ravel() % 3)
    assert {int(name): pixels for name, (pixels, _) in legend(page).items()} == dict(enumerate(expected))
    page.let_download(tmp_path / "saved")
    page.click("#save-classes")
    (colored,) = saved_files(page, tmp_path / "saved" / "a_classes.png")
    np.testing.assert_array_equal(np.asarray(colored.convert("RGB"))[..., 0], np.asarray(picture(0))[..., 0] % 3)


def choose_model(page: Page, name: str) -> None:
    select = "document.querySelector('#model')"
    page.evaluate(f"{select}.value = '{name}'; {select}.dispatchEvent(new Event('change'))")
    page.wait_for(f"document.querySelector('.facts')?.innerText.includes('{name}, version 1')")


def test_the_digest_is_that_of_the_artefact_that_answered(page, server, bundles, tmp_path):
    """The bundle is exchanged between the page's question which artefact there is and the answer to its image."""
    picture(0).save(tmp_path / "first.png")
    picture(1).save(tmp_path / "second.png")
    choose(page, tmp_path / "first.png")
    choose_model(page, "exchanged")
    page.call("Fetch.enable", patterns=[{"urlPattern": "*/infer"}])
    page.choose_files("#files", tmp_path / "second.png")
    paused = page.wait_for_event("Fetch.requestPaused")
    root = bundles[0].parent
    for name in ("model.onnx", "manifest.json"):
        (root / "exchanged" / name).write_bytes((root / "next" / name).read_bytes())
    page.wait_for(
        "fetch('v2/models/exchanged').then((answer) => answer.json()).then(({versions}) => versions[0] === '2')"
    )
    page.call("Fetch.continueRequest", requestId=paused["requestId"])
    page.call("Fetch.continueRequest", requestId=page.wait_for_event("Fetch.requestPaused")["requestId"])
    page.call("Fetch.disable")
    wait_until_idle(page)
    old, new = (hashlib.sha256((root / name / "model.onnx").read_bytes()).hexdigest()[:12] for name in ("sure", "next"))
    assert "exchanged, version 2" in page.text(".facts")
    assert page.text(".facts .digest") == page.text("#artefact .digest") == new
    np.testing.assert_array_equal(
        show(page, "classes"), np.array(COLORS, np.uint8)[np.asarray(picture(1))[..., 0] // 80]
    )
    page.click(".entry[title='first.png']")
    wait_until_idle(page)
    assert "exchanged, version 1" in page.text(".facts")
    assert page.text(".facts .digest") == old


def test_a_busy_server_is_asked_again(page, tmp_path):
    picture(0).save(tmp_path / "a.png")
    page.call("Fetch.enable", patterns=[{"urlPattern": "*/infer"}])
    page.choose_files("#files", tmp_path / "a.png")
    paused = page.wait_for_event("Fetch.requestPaused")
    body = base64.b64encode(b'{"error": "64 requests wait already"}').decode()
    headers = [{"name": "Retry-After", "value": "1"}]
    page.call(
        "Fetch.fulfillRequest", requestId=paused["requestId"], responseCode=503, responseHeaders=headers, body=body
    )
    page.wait_for("document.querySelector('#waiting-text').textContent.includes('The server is busy')")
    page.call("Fetch.continueRequest", requestId=page.wait_for_event("Fetch.requestPaused")["requestId"])
    page.call("Fetch.disable")
    wait_until_idle(page)
    assert legend(page)


def test_token_and_a_server_that_goes_away(browser, bundles, tmp_path):
    picture(0).save(tmp_path / "a.png")
    picture(1).save(tmp_path / "b.png")
    with ExitStack() as staying:
        with server_thread(ArtefactSpec(bundles[0], "sure", device="cpu"), token=TOKEN) as (http, _):
            page = staying.enter_context(browser.page(f"http://{http}/"))
            page.wait_for("document.querySelector('#token').checkVisibility()")
            assert page.text("#token-reason") == "The server asks for a token."
            enter_token(page, "wrong")
            page.wait_for("document.querySelector('#token-reason').textContent === 'The server refuses this token.'")
            enter_token(page, TOKEN)
            page.wait_for("!document.querySelector('#token').checkVisibility()")
            choose(page, tmp_path / "a.png")
        choose(page, tmp_path / "b.png")
        assert "The server does not answer" in page.text("#failure")
        assert "The server does not answer" in page.text("#offline")
        page.click("#reconnect")
        page.wait_for("document.querySelector('#reconnect').disabled === false")
        options = ("--token", TOKEN, "--port", http.rpartition(":")[2], "--grpc-port", "0")
        with embedded_server(bundles[0], options=options):
            page.click("#reconnect")
            page.wait_for("document.querySelectorAll('.entry[data-state=done]').length === 2")
            wait_until_idle(page)
            assert not page.is_shown("#offline")
            page.call("Page.reload")
            page.wait_for("document.querySelector('#model')?.value")
            assert not page.is_shown("#token")  # kept for the tab


def enter_token(page: Page, token: str) -> None:
    page.evaluate(f"document.querySelector('#token-value').value = {json.dumps(token)}")
    page.click("#token button")


def test_everything_is_reached_by_keyboard(page, tmp_path):
    picture(1).save(tmp_path / "a.png")
    picture(2).save(tmp_path / "b.png")
    page.call("Page.setInterceptFileChooserDialog", enabled=True)
    tab_to(page, "document.activeElement.id === 'choose'")
    page.press("Enter", "\r")
    chosen = page.wait_for_event("Page.fileChooserOpened")
    files = [str(tmp_path / name) for name in ("a.png", "b.png")]
    page.call("DOM.setFileInputFiles", files=files, backendNodeId=chosen["backendNodeId"])
    wait_until_idle(page)
    tab_to(page, "document.activeElement.title === 'b.png'")
    page.press("Enter", "\r")
    wait_until_idle(page)
    assert page.text(".file-name") == "b.png"
    page.press("k", "k")
    wait_until_idle(page)
    assert page.text(".file-name") == "a.png"
    tab_to(page, "document.activeElement.name === 'view'")
    page.press("ArrowRight", code=39)
    assert page.evaluate("document.querySelector('[name=view]:checked').value") == "classes"
    page.press("o", "o")
    tab_to(page, "document.activeElement.id === 'opacity'")
    page.press("ArrowRight", code=39)
    page.wait_for("document.querySelector('#opacity-value').textContent === '51 %'")
    assert "none" not in page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    tab_to(page, "document.activeElement.dataset.class")
    shaded = seen(page, "#mask")[..., 3] > 0
    assert np.count_nonzero(~shaded) == page.evaluate("Number(document.activeElement.dataset.pixels)")
    page.press("Enter", "\r")
    tab_to(page, "document.activeElement.id === 'save-overlay'")
    assert (seen(page, "#mask")[..., 3] > 0).any()
    page.press("Escape", code=27)
    assert not seen(page, "#mask")[..., 3].any()


def tab_to(page: Page, condition: str) -> None:
    for _ in range(60):
        page.press("Tab", code=9)
        if page.evaluate(condition):
            return
    raise AssertionError(f"the keyboard does not get to: {condition}")


def test_screen_readers_find_names_and_messages(page, tmp_path):
    picture(0).save(tmp_path / "a.png")
    choose(page, tmp_path / "a.png")
    page.wait_for("document.querySelector('#announcer').textContent.startsWith('a.png: segmented in ')")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = {}
    for node in nodes:
        named.setdefault(node.get("role", {}).get("value"), []).append(node.get("name", {}).get("value", ""))
    for role in ("button", "radio", "slider", "img", "combobox", "checkbox", "region"):
        assert all(name.strip() for name in named.get(role, [])), role
    assert {"Image", "Overlay", "Class map", "Confidence"} == set(named["radio"])
    assert named["slider"][0].startswith("Opacity")


@pytest.mark.parametrize("dark", [False, True])
def test_layout_and_contrast(browser, server, tmp_path, dark):
    picture(0).save(tmp_path / "a-file-with-a-rather-long-name-that-does-not-fit-into-a-narrow-column.png")
    (tmp_path / "b.txt").write_text("no image")
    with opened(browser, server, width=360, dark=dark) as page:
        for files in ((), sorted(tmp_path.iterdir())):
            if files:
                choose(page, *files)
            for width in (1280, 1920, 900, 360, 320):
                page.resize(width, 800)
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (width, files)
                image = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))
                assert image.shape == (800, width)
                assert (np.median(image) < 60) == dark
        for selector in ("body", ".hint", ".is-primary", ".badge", ".pixels", ".status", "[data-state=failed] .status"):
            assert contrast(page, selector) >= 4.5, selector


@pytest.mark.parametrize("width", [1280, 360])
def test_the_layout_stays_while_images_come_in(browser, server, tmp_path, width):
    """Cumulative layout shift; below 0.1 is good. What lies below the legend moves with the number of classes."""
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
    first, second = sorted(tmp_path.iterdir())[:2], sorted(tmp_path.iterdir())[2:]
    settled = "new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => resolve(shifts))))"
    with opened(browser, server, width=width) as page:
        page.evaluate(
            "void (window.shifts = 0, new PerformanceObserver((list) => list.getEntries()"
            ".forEach(({value}) => { shifts += value })).observe({type: 'layout-shift', buffered: true}))"
        )
        assert page.evaluate(settled) < 0.05
        choose(page, *first)  # a person's choice makes room for the result
        page.evaluate(settled)
        page.evaluate("shifts = 0")
        choose(page, *second)
        page.click(".entry")
        wait_until_idle(page)
        show(page, "confidence")
        assert page.evaluate(settled) < 0.1


def contrast(page: Page, selector: str) -> float:
    """WCAG 2: of the text of an element and the nearest ground behind it."""
    colors = page.evaluate(
        f"""(() => {{
            let element = document.querySelector("{selector}");
            const color = getComputedStyle(element).color;
            while (getComputedStyle(element).backgroundColor === "rgba(0, 0, 0, 0)") element = element.parentElement;
            return [color, getComputedStyle(element).backgroundColor];
        }})()"""
    )
    light, dark = sorted((luminance(color) for color in colors), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    channels = np.array([int(value) for value in re.findall(r"\d+", color)[:3]]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
