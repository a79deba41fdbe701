"""The page of many runs as a reader sees it, in a browser that is driven without a window."""

import fcntl
import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest

from tests.helpers.report_pages import (
    certificates,
    evil_page,
    page_of,
    run_folder,
    sweep,
    thumbnails,
)

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--remote-debugging-pipe"),
)
PATIENCE = 20
LAPTOP, PHONE = (1366, 768), (390, 844)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")


class Browser:
    """A browser with one page, driven through its DevTools pipe.

    Args:
        folder: an empty folder for its profile.
    """

    def __init__(self, folder):
        ours, theirs = os.pipe(), os.pipe()
        # The browser reads descriptor 3 and writes 4; high numbers cannot be in their way.
        read, write = (fcntl.fcntl(end, fcntl.F_DUPFD, 50) for end in (ours[0], theirs[1]))
        self.process = subprocess.Popen(
            [BROWSER, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=(3, 4),
            preexec_fn=lambda: (os.dup2(read, 3), os.dup2(write, 4)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (read, write, ours[0], theirs[1]):
            os.close(end)
        self.writing, self.reading = os.fdopen(ours[1], "wb"), os.fdopen(theirs[0], "rb", 0)
        self.buffer, self.number, self.events, self.session = b"", 0, [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Send a command, wait for its answer, and keep the events before it."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        self.writing.write(json.dumps(message).encode() + b"\0")
        self.writing.flush()
        while (answer := self.message()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def message(self):
        while b"\0" not in self.buffer:
            more = os.read(self.reading.fileno(), 1 << 20)
            assert more, "the browser has ended"
            self.buffer += more
        text, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(text)

    def open(self, path, size=LAPTOP, scheme="light"):
        """Open a page, and forget what the one before it said."""
        self.events.clear()
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=size == PHONE,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=path.as_uri())
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression):
        """Return what a JavaScript expression gives."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression):
        """Wait until a JavaScript expression holds."""
        end = time.monotonic() + PATIENCE
        while not self.value(expression):
            assert time.monotonic() < end, f"never: {expression}; {self.complaints()}"
            time.sleep(0.02)

    def scroll(self, selector):
        """Bring an element into view, and wait until it is built."""
        self.value(f"document.querySelector('{selector}').scrollIntoView()")
        self.wait(f"document.querySelector('{selector}').children.length > 0")

    def everything(self):
        """Build every part, as printing does."""
        self.value("dispatchEvent(new Event('beforeprint'))")
        self.wait("document.querySelectorAll('.canvas svg path').length > 0")

    def key(self, key, code):
        """Press and release a key."""
        named = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call(
            "Input.dispatchKeyEvent", type="keyDown", text="\r" if code == 13 else "", **named
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def complaints(self):
        """Return every error, warning and exception since the page was opened."""
        self.value("0")
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        said = [event["params"] for event in self.events if event.get("method") in kinds]
        count = self.value("document.documentElement.dataset.errors")
        return said + ([] if count == "0" else [count])

    def addresses(self):
        """Return what was loaded since the page was opened."""
        sent = [e["params"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [params["request"]["url"].split(",")[0] for params in sent]

    def close(self):
        self.writing.close()
        self.reading.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def opened(folder):
    browser = Browser(folder)
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    root, path = tmp_path_factory.mktemp("sweep"), tmp_path_factory.mktemp("out") / "page.html"
    sweep(root, images=90)
    page_of(root, path, ["A note."])
    return path


def texts(browser, selector):
    return browser.value(
        f"[...document.querySelectorAll('{selector}')].map((each) => each.textContent)"
    )


def lines(browser):
    """Return how many curves the first chart shows."""
    selector = "#section-1 .canvas svg .mark-line path"
    browser.wait("document.querySelector('#section-1 .canvas svg') !== null")
    return browser.value(
        f"[...document.querySelectorAll('{selector}')].filter((e) => e.getAttribute('d')).length"
    )


def click(browser, selector, number=0):
    browser.value(f"document.querySelectorAll('{selector}')[{number}].click()")
    # What a click changes is drawn in the next frames.
    browser.call(
        "Runtime.evaluate",
        expression="new Promise((done) => setTimeout(done, 80))",
        awaitPromise=True,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_it_fits_and_nothing_fails_or_is_loaded(browser, path, size, scheme):
    browser.open(path, size, scheme)
    browser.everything()
    wide = "[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
    # A scroll bar may take some of the width.
    assert max(browser.value(wide)) <= size[0]
    assert browser.complaints() == []
    assert {url.split("base64")[0] for url in browser.addresses()} <= {
        path.as_uri(),
        "data:image/png;",
    }
    dark = browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    assert dark == (scheme == "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_on_their_ground(browser, path, scheme):
    browser.open(path, scheme=scheme)
    ratio = """((name, ground) => {
      const light = (name) => {
        const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
        const parts = [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16) / 255);
        const [r, g, b] = parts.map((c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
      };
      const [low, high] = [light(name), light(ground)].sort((a, b) => a - b);
      return (high + .05) / (low + .05);
    })"""
    for name in ("ink", "muted", "link", "right", "wrong", "abstained"):
        for ground in ("ground", "raised"):
            assert browser.value(f"{ratio}('--{name}', '--{ground}')") >= 4.5, name
    assert browser.value(f"{ratio}('--ink', '--marked')") >= 4.5
    for name in ("edge", "focus", *(f"series-{number}" for number in range(3))):
        assert browser.value(f"{ratio}('--{name}', '--ground')") >= 3, name


def test_curves_are_drawn_and_switched(browser, path):
    browser.open(path)
    browser.scroll("#section-1 .curves")
    assert lines(browser) == 3
    assert texts(browser, "#section-1 .lines .name") == ["ADRE", "Gaussian", "published"]
    click(browser, "#section-1 .lines input", 0)
    assert lines(browser) == 2
    assert texts(browser, "#section-1 .lines .value")[0] == ""
    click(browser, "#section-1 .controls input[value=groups]")
    assert lines(browser) == 3
    click(browser, "#section-1 .controls input[value=runs]")
    assert lines(browser) == 5
    click(browser, "#section-1 .buttons button", 0)
    assert lines(browser) == 9
    click(browser, "#section-1 .buttons button", 1)
    assert lines(browser) == 0
    assert browser.complaints() == []


def test_methods_with_one_sigma_are_not_shown_by_sigma(browser, path):
    browser.open(path)
    browser.scroll("#section-2 .curves")
    views = texts(browser, "#section-2 .controls fieldset:first-child label")
    assert views == ["Methods", "Runs"]


def test_the_other_bound_shows_other_values(browser, path):
    browser.open(path)
    browser.scroll("#section-1 .curves")
    certified = texts(browser, "#section-1 .lines .value")
    click(browser, "#section-1 .controls input[value=again]")
    again = texts(browser, "#section-1 .lines .value")
    assert certified[0] != again[0]
    assert certified[2] == again[2]
    assert "are drawn as certified" in texts(browser, "#section-1 .curves > .quiet")[0]


def test_values_follow_the_slider_and_the_pointer(browser, path):
    browser.open(path)
    browser.scroll("#section-1 .curves")
    before = texts(browser, "#section-1 .lines .value")
    browser.value(
        "(() => { const s = document.querySelector('#section-1 .reader input'); s.value = 0;"
        "s.dispatchEvent(new Event('input')); })()"
    )
    assert texts(browser, "#section-1 .lines .value") > before
    browser.value("document.querySelector('#section-1 .sortable').id = 'best'")
    place = texts(browser, "#best thead th").index("0") + 1
    [first, *_] = texts(browser, f"#best tbody td:nth-child({place})")
    assert texts(browser, "#section-1 .lines .value")[0] == f"{first.split(' ')[0]}%"
    frame = browser.value(
        "(({x, y, width, height}) => [x + width * .6, y + height / 2])"
        "(document.querySelector('#section-1 .canvas').getBoundingClientRect())"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=frame[0], y=frame[1])
    browser.wait("!document.querySelector('#section-1 .tip').hidden")
    assert "% at radius 0." in texts(browser, "#section-1 .tip")[0]
    assert len(texts(browser, "#section-1 .lines label.near")) == 1


def test_tables_are_sorted_by_keyboard(browser, path):
    browser.open(path)
    column = "#section-1-runs"
    browser.value(f"document.querySelector('{column}').closest('table').id = 'runs'")
    place = texts(browser, "#runs thead th").index("ACR") + 1
    cells = f"#runs tbody td:nth-child({place})"
    values = [float(text) for text in texts(browser, cells)]
    browser.value(f"document.querySelector('#runs th:nth-child({place}) button').focus()")
    for order, name in ((True, "descending"), (False, "ascending")):
        browser.key("Enter", 13)
        browser.wait(f"document.querySelector('#runs [aria-sort={name}]') !== null")
        assert [float(text) for text in texts(browser, cells)] == sorted(values, reverse=order)
    click(browser, "#runs th button", 0)
    names = texts(browser, "#runs tbody th")
    assert names == sorted(names)
    assert len(texts(browser, "#runs [aria-sort]")) == 1


def test_only_differing_settings_are_shown_until_all_are_requested(browser, path):
    browser.open(path)
    browser.scroll("#section-1 .settings")
    shown = "[...document.querySelectorAll('#section-1 .compared tbody th[scope=row]')]"
    shown += ".filter((each) => each.offsetParent).map((each) => each.textContent)"
    differing = browser.value(shown)
    assert "sigma" in differing
    assert "git_commit" not in differing
    click(browser, "#section-1 .settings input")
    assert {"git_commit", "torch", *differing} <= set(browser.value(shown))


def test_certificates_are_filtered_sorted_and_added(browser, path):
    browser.open(path)
    browser.scroll("#section-1 .gallery")
    card = "#section-1 .card"
    assert len(texts(browser, card)) == 60
    assert len(texts(browser, f"{card} .picture [role=img]")) >= 55
    radius = f"{card} dd:nth-of-type(3)"
    radii = [float(text) for text in texts(browser, radius)]
    assert radii == sorted(radii, reverse=True)
    click(browser, "#section-1 .gallery > button")
    assert len(texts(browser, card)) == 90
    assert browser.value("document.querySelector('#section-1 .gallery > button').hidden")
    counts = {}
    for number, kind in enumerate(("all", "right", "wrong", "abstained")):
        click(browser, "#section-1 .gallery .buttons button", number)
        [label] = texts(browser, "#section-1 .gallery [aria-pressed=true]")
        name, count = label.split(" ")
        assert name == kind
        counts[kind] = int(count)
        assert len(texts(browser, card)) == min(60, counts[kind])
    assert counts.pop("all") == sum(counts.values()) == 90
    click(browser, "#section-1 .gallery .buttons button", 2)
    assert set(texts(browser, f"{card} h4 span")) == {"wrong (given up)"}
    assert browser.complaints() == []


def test_class_names_are_shown_and_what_is_not_recorded_is_a_dash(browser, path):
    browser.open(path)
    browser.scroll("#section-1 .gallery")
    assert set(texts(browser, "#section-1 .card dd:nth-of-type(1)")) == {"one"}
    browser.value(
        "(() => { const s = document.querySelector('#section-1 .gallery select');"
        "s.selectedIndex = s.options.length - 1; s.dispatchEvent(new Event('change')); })()"
    )
    assert set(texts(browser, "#section-1 .card dd:nth-of-type(n+4)")) == {"–"}
    assert set(texts(browser, "#section-1 .card dd:nth-of-type(1)")) == {"1"}
    assert texts(browser, "#section-1 .card .picture")[0].startswith("#")


def test_texts_of_files_are_shown_as_texts(browser, tmp_path):
    (tmp_path / "runs").mkdir()
    path = tmp_path / "page.html"
    evil_page(tmp_path / "runs", path)
    browser.open(path)
    browser.everything()
    assert browser.value("document.querySelectorAll('b, i, img').length") == 0
    selector = ".lines .name, .compared th, .card dd, option, .sortable th, .notes li"
    assert sum("<script>alert(1)" in text for text in texts(browser, selector)) > 60
    click(browser, ".controls input[value=runs]")
    assert "<b>run&amp;" in " ".join(texts(browser, ".lines .name"))
    assert browser.complaints() == []
    assert browser.addresses() == [path.as_uri()]


def test_many_runs_are_built_only_when_they_are_seen(browser, tmp_path):
    for number in range(6):
        folder = run_folder(tmp_path / "runs" / str(number), certificates(20), seed=number)
        thumbnails(folder, range(20))
    page_of(tmp_path / "runs", tmp_path / "page.html")
    browser.open(tmp_path / "page.html")
    browser.wait("document.querySelectorAll('[data-built]').length === 1")
    assert texts(browser, ".card") == []
    browser.scroll("#section-1 .gallery")
    assert len(texts(browser, ".card")) == 20


def test_it_can_be_read_without_javascript(browser, path):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(path)
        assert browser.value("document.querySelector('noscript p').offsetHeight") > 0
        assert len(texts(browser, ".sortable")) >= 4
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
