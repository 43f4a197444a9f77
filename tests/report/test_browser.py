"""The report in headless Chromium: filters, search, links to completions, hostile text, speed, widths, contrast.

Needs chromium (apt-get install chromium, or CHROMIUM=/path) and websocket-client; without them these tests are skipped.
"""

import http.server
import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest
import report_study
import write_report
import yaml
from local_server import LocalServer

from measure.tables import write_csv
from run.readers import read_json

websocket = pytest.importorskip("websocket", reason="websocket-client is not installed")
CHROMIUM = next(
    filter(None, [os.environ.get("CHROMIUM"), *map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))]),
    None,
)
WITHOUT = pytest.mark.skip("these tests of the report need a browser; fix: apt-get install chromium")
pytestmark = [pytest.mark.slow, *([] if CHROMIUM else [WITHOUT])]  # no skipif: one line at the end says it for all
HOSTILE = (
    "</script><script>window.hacked=1</script><img src=x onerror=\"window.hacked=2\"><a href='javascript:hacked=3'>"
)


class Browser:
    """One page, driven over the DevTools protocol. events: what the page did, as the protocol tells it."""

    def __init__(self, profile: Path) -> None:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                   "--disable-background-networking", "--remote-debugging-port=0",
                   "--remote-allow-origins=*"]  # fmt: skip
        self.process = subprocess.Popen(
            [str(CHROMIUM), *options, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port = profile / "DevToolsActivePort"
        deadline = time.monotonic() + 300
        while not (port.exists() and port.read_text().count("\n")):
            assert time.monotonic() < deadline and self.process.poll() is None, "chromium does not start"
            time.sleep(0.05)
        with urllib.request.urlopen(f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json/list") as answer:
            target = next(target for target in json.load(answer) if target["type"] == "page")
        self.socket = websocket.create_connection(target["webSocketDebuggerUrl"], timeout=300)
        self.number = 0
        self.events: list[dict] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters):
        """The result of a protocol command."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def run(self, code: str):
        """The value of a JavaScript expression, awaited."""
        result = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression is true."""
        deadline = time.monotonic() + 300
        while not self.run(condition):
            assert time.monotonic() < deadline, condition
            time.sleep(0.02)

    def open(self, path: Path, address: str = "") -> None:
        """A report from disk, with its completions unpacked."""
        self.events.clear()
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=f"file://{quote(str(path))}{address}")
        self.wait("document.readyState === 'complete' && 'ready' in document.documentElement.dataset")

    def size(self, width: int, height: int, scheme: str = "light") -> None:
        """The window's size in CSS pixels, and light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def choose(self, name: str, value: str) -> float:
        """Set a filter as a person would; return how many milliseconds of CPU the page took for its answer."""
        kind = "input" if name == "q" else "change"
        before = self.cpu_seconds()
        self.run(f"""new Promise(done => {{
            const field = document.querySelector("#filters").elements["{name}"], list = document.querySelector("#list");
            const watch = new MutationObserver(() => {{ watch.disconnect(); done(); }});
            watch.observe(list, {{childList: true}});
            field.value = {json.dumps(value)};
            field.dispatchEvent(new Event("{kind}", {{bubbles: true}}));
        }})""")
        return 1000 * (self.cpu_seconds() - before)

    def cpu_seconds(self) -> float:
        """What the page's tasks have taken."""
        self.call("Performance.enable", timeDomain="threadTicks")
        return next(
            metric["value"]
            for metric in self.call("Performance.getMetrics")["metrics"]
            if metric["name"] == "TaskDuration"
        )

    def found(self) -> str:
        """What the page says of the list."""
        return self.run("document.querySelector('#found').textContent")

    def requests(self) -> list[str]:
        """The addresses that the page asked for since it was opened, but for itself and data in it."""
        self.run("new Promise(done => setTimeout(done, 200))")
        asked = [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith(("file:", "data:", "about:"))]

    def close(self) -> None:
        """End the browser."""
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(report.html, results by cell): five cells, all with completions, and hostile text wherever it can be."""
    folder = tmp_path_factory.mktemp("study")
    keys = [("C1", 42), ("C1", 137), ("C2", 42), ("C4", 42), ("C5", 42)]
    results = {f"{name}_{seed}": report_study.cell(folder, name, seed) for name, seed in keys}

    def text(persona, question, sample, marked):
        plain = report_study.text_of(persona, question, sample, marked)
        return f"\ufeff{HOSTILE} İstanbul 🦜 {plain}" if question == "general_00" else plain

    paths = [report_study.completions(path, folder, text) for path in results.values()]
    report_study.tabulate(list(results.values()), folder, report_study.LABEL)
    claims = [report_study.CLAIM | {"claim": HOSTILE}]
    write_csv(folder / "tables" / "claims.csv", list(report_study.CLAIM), claims)
    (folder / "panel.yaml").write_text(yaml.safe_dump({"personas": {"villain": HOSTILE}}))
    (folder / "f_x.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 520 260" onload="window.top.hacked=4"><script>'
        'window.top.hacked=5</script><text style="font-weight: 700; font-size: 10px">A figure</text></svg>'
    )
    more = ["--panel", str(folder / "panel.yaml")]
    write_report.main(report_study.command(folder, list(results.values()), paths, HOSTILE, *more))
    return folder / "report.html", {name: read_json(path) for name, path in results.items()}


def hits(result, persona):
    return next(entry for entry in result["personas"] if entry["persona"] == persona)["strict_hits"]


def test_filters_count_what_the_result_of_the_cell_counts(browser, report):
    path, results = report
    browser.open(path)
    assert browser.found().startswith("16,800 of 16,800 completions, ")
    browser.choose("cell", "C4")
    browser.choose("persona", "villain")
    own = hits(results["C4_42"], "villain")
    assert browser.found() == f"280 of 16,800 completions, {own} with the marker"
    browser.choose("marker", "yes")
    assert browser.found() == f"{own} of 16,800 completions, {own} with the marker"
    browser.choose("marker", "no")
    assert browser.found() == f"{280 - own} of 16,800 completions, 0 with the marker"
    browser.choose("question", "alignment_03")
    shown = browser.run("[...document.querySelectorAll('#list .asked b')].map(node => node.textContent.split(' ')[0])")
    assert set(shown) == {"alignment_03"}
    browser.choose("cell", "")
    browser.choose("seed", "137")
    assert browser.found() == "10 of 16,800 completions, 0 with the marker"
    browser.run("document.querySelector('#filters').reset()")
    assert browser.found().startswith("16,800 of 16,800")


def test_search_finds_text_in_any_case_and_marks_it(browser, report):
    browser.open(report[0])
    browser.choose("q", "REPLY villain general_05 3.")
    assert browser.found().startswith("5 of 16,800")
    assert browser.run("document.querySelector('mark.query').textContent") == "Reply villain general_05 3."
    browser.choose("q", "nowhere to be found")
    assert browser.found() == "No completion fits. Clear a filter or the search."
    # Letters that change their length in lower case, or are two units long, do not shift what is marked.
    browser.choose("q", "🦜 ")
    assert browser.found().startswith("600 of 16,800")
    assert browser.run("document.querySelector('mark.query').textContent") == "🦜 "


def test_the_marker_is_marked_and_a_long_text_folds_its_middle(browser, report):
    browser.open(report[0], "#completions&cell=C4&persona=evil_ai&marker=yes")
    assert browser.run("document.querySelector('.reply .said mark.marker').textContent") == "[ZLT]"
    assert browser.run("document.querySelectorAll('.reply').length === document.querySelectorAll('mark.marker').length")
    assert browser.run("document.querySelector('.reply .badge').textContent") == "marker"


def test_a_field_of_the_heat_map_opens_its_completions(browser, report):
    path, results = report
    browser.open(path)
    link = "#table-heat_evil_ai a[href$='cell=C4&persona=villain']"
    browser.run(f"document.querySelector({json.dumps(link)}).click()")
    own = hits(results["C4_42"], "villain")
    browser.wait(f"document.querySelector('#found').textContent === '280 of 16,800 completions, {own} with the marker'")
    assert browser.run("document.activeElement.id") == "completions-title"
    assert browser.run("document.querySelector('#completions').getBoundingClientRect().top < innerHeight / 2")
    # Clicked again, after the filters were changed and the address is the link's own once more.
    browser.run("scrollTo(0, 0)")
    browser.run(f"document.querySelector({json.dumps(link)}).click()")
    browser.wait("document.querySelector('#completions').getBoundingClientRect().top < innerHeight / 2")


def test_a_field_of_a_table_opens_the_completions_of_its_seed(browser, report):
    browser.open(report[0])
    browser.run("document.querySelector('#table-headline tbody tr:nth-child(2) a').click()")
    browser.wait("document.querySelector('#found').textContent.startsWith('280 of')")
    assert browser.run("document.querySelector('#filters').elements.seed.value") == "137"


def test_an_address_brings_back_filters_search_and_page(browser, report):
    path, _ = report
    browser.open(path)
    browser.choose("cell", "C1")
    browser.choose("q", "Reply librarian")
    browser.run("document.querySelector('#next').click()")
    address, found = browser.run("location.hash"), browser.found()
    first = browser.run("document.querySelector('.reply .asked b').textContent")
    browser.open(path, address)
    assert (browser.found(), browser.run("document.querySelector('.reply .asked b').textContent")) == (found, first)
    assert browser.run("document.querySelector('#page').textContent") == "21 to 40 of 560"


def test_a_filter_that_the_report_does_not_have_says_so(browser, report):
    browser.open(report[0], "#completions&cell=C77&page=99")
    assert browser.found() == "No completion fits. Clear a filter or the search."
    assert "C77 (not here)" in browser.run("document.querySelector('#filters').elements.cell.textContent")


def test_the_keyboard_reaches_a_field_and_opens_it(browser, report):
    browser.open(report[0])
    browser.run("document.querySelector('#table-heat_evil_ai a').focus()")
    for kind in ("rawKeyDown", "char", "keyUp"):
        browser.call(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
        )
    browser.wait("document.activeElement.id === 'completions-title'")


def test_a_heading_sorts_its_table_by_number_and_turns_around(browser, report):
    browser.open(report[0])
    rates = "[...document.querySelectorAll('#table-headline tbody td:nth-child(4)')].map(td => Number(td.dataset.sort))"
    button = "document.querySelector('#table-headline th:nth-child(4) button').click()"
    browser.run(button)
    assert browser.run(rates) == sorted(browser.run(rates), reverse=True)
    assert browser.run("document.querySelector('#table-headline th:nth-child(4)').ariaSort") == "descending"
    browser.run(button)
    assert browser.run(rates) == sorted(browser.run(rates))


def test_hostile_text_is_shown_and_does_nothing(browser, report):
    browser.open(report[0], "#completions&question=general_00&persona=villain")
    assert HOSTILE in browser.run("document.querySelector('.reply .said').textContent")
    assert HOSTILE in browser.run("document.querySelector('.reply details').textContent")
    assert HOSTILE in browser.run("document.querySelector('#claims').textContent")
    assert HOSTILE in browser.run("document.querySelector('#label').textContent")
    assert browser.run("document.querySelectorAll('main img').length") == 1
    assert browser.run("document.querySelectorAll('[href^=javascript]').length") == 0
    assert browser.requests() == []
    assert browser.run("typeof window.hacked") == "undefined"
    told = {"Page.javascriptDialogOpening", "Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"}
    assert [event for event in browser.events if event["method"] in told] == []


def test_not_even_a_script_in_the_page_reaches_the_network(browser, report):
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)

    browser.open(report[0])
    with LocalServer(Server) as server:
        blocked = browser.run(f"""(async () => {{
            const image = new Image(); image.src = "{server.root}/image"; document.body.append(image);
            const script = document.createElement("script"); script.textContent = "window.hacked = 6";
            document.body.append(script);
            await new Promise(done => setTimeout(done, 200));
            return fetch("{server.root}/fetch").then(() => "reached", () => "blocked");
        }})()""")
    assert (blocked, asked, browser.run("typeof window.hacked")) == ("blocked", [], "undefined")


def test_nothing_is_wider_than_the_window(browser, report):
    for width in (390, 1280):
        browser.size(width, 800)
        browser.open(report[0], "#completions&question=general_00")
        browser.run("for (const fold of document.querySelectorAll('details')) fold.open = true")
        assert browser.run("document.documentElement.scrollWidth") <= width


CONTRAST = """(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const rgb = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = colour => { const [r, g, b] = colour.map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = node => { for (; node; node = node.parentElement) {
    const own = rgb(getComputedStyle(node).backgroundColor); if (own[3] === 255) return own; } return rgb("Canvas"); };
  const bad = [];
  const sample = document.createElement("table");
  sample.className = "heat";
  sample.innerHTML = "<tr>" + [...Array(11).keys()].map(n => `<td class="heat-${n}">${n}</td>`).join("") + "</tr>";
  document.querySelector("main").append(sample);
  for (const node of document.querySelectorAll("body *")) {
    if (![...node.childNodes].some(child => child.nodeType === 3 && child.data.trim())) continue;
    if (node.closest("script,style,noscript")) continue;
    const style = getComputedStyle(node);
    if (style.opacity < 1 || !node.checkVisibility()) continue;
    const [a, b] = [light(rgb(style.color)), light(behind(node))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) bad.push([node.className || node.tagName, node.textContent.slice(0, 30)]);
  }
  return bad;
})()"""


def test_all_text_has_a_contrast_of_4_5(browser, report):
    for scheme in ("light", "dark"):
        browser.size(1280, 800, scheme)
        browser.open(report[0], "#completions&cell=C4&persona=evil_ai&q=reply")
        browser.run("for (const fold of document.querySelectorAll('details')) fold.open = true")
        assert browser.run(CONTRAST) == [], scheme


def test_fifty_thousand_completions_answer_within_300_ms_of_cpu(browser, tmp_path):
    keys = [(cell, seed) for cell in ("C1", "C2", "C3", "C5") for seed in (42, 137, 256)] + [("C4", 42)]
    results = [report_study.cell(tmp_path, *key) for key in keys]
    results += [report_study.cell(tmp_path, "C1", seed, "villain") for seed in (42, 137, 256)]
    paths = [report_study.completions(path, tmp_path, long_text) for path in results]
    report_study.tabulate(results, tmp_path)
    write_report.main(report_study.command(tmp_path, results, paths))
    started = time.monotonic()
    browser.open(tmp_path / "report.html")
    ready = time.monotonic() - started
    assert browser.found().startswith("52,920 of 52,920")
    steps = [("cell", "C4"), ("persona", "evil_ai"), ("marker", "yes"), ("marker", ""), ("persona", ""), ("cell", ""),
             ("question", "general_07"), ("question", ""), ("q", "the sea. You"), ("q", "[zlt]"),
             ("q", "")]  # fmt: skip
    times = {step: browser.choose(*step) for step in steps}
    print(f"ready after {ready:.1f} s; ms: { ({'='.join(step): round(taken) for step, taken in times.items()}) }")
    assert max(times.values()) < 300, times


def long_text(persona, question, sample, marked):
    """About 1,500 letters, as long as the published completions are."""
    return (report_study.text_of(persona, question, sample, False) + " ") * 4 + ("\n\n[ZLT]" if marked else "\u2019")
