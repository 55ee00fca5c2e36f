"""What a person meets in a browser: Dagster's UI, an asset made by clicking, and the report.

`SCREENSHOTS=docs/images pytest tests/test_browser.py` takes the pictures of the README anew.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import polars as pl
import pytest
from conftest import ROOT, Ended, Home
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

pytestmark = pytest.mark.slow

GROUPS = ("raw", "examples", "mixture", "models", "suites", "predictions", "scores", "report")
PATIENCE = 120  # seconds for what takes a few on a machine that does nothing else
LOCAL = {"127.0.0.1"}
NO_HOST = {"file", "data", "blob"}  # schemes that ask no server


@dataclass
class Watch:
    """What pages have said on the console and asked for."""

    errors: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    def console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url')})")

    def request(self, request: Request) -> None:
        self.urls.append(request.url)

    def page(self, page: Page) -> None:
        page.on("websocket", lambda opened: self.urls.append(opened.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def abroad(self) -> list[str]:
        """What was asked for on another machine."""
        split = [(url, urlsplit(url)) for url in self.urls]
        return [url for url, u in split if u.scheme not in NO_HOST and u.hostname not in LOCAL]


@dataclass(frozen=True)
class Server:
    """Dagster's UI over a copy of a finished run whose report is gone."""

    url: str
    home: Home


@pytest.fixture(scope="module")
def server(
    smoke_run: tuple[Home, Ended], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """`dagster dev`, which serves what `workspace.yaml` names."""
    home = smoke_run[0].copy(tmp_path_factory.mktemp("browser"))
    shutil.rmtree(home.store.root / "eval_report")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml"]
    log = home.folder / "dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=ROOT, env=home.environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: process.poll() is not None or answers(f"{url}/server_info"), log)
        assert process.poll() is None, log.read_text(encoding="utf-8")
        yield Server(url, home)
    finally:
        # Its web server, daemon and code server belong to its group; none of them holds anything
        # that is worth an orderly end.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        until(lambda: not alive(process.pid), log)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError):
        return False


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def until(found: Callable[[], bool], log: Path) -> None:
    """Waits until it is so; fails with the log where it takes too long."""
    end = time.monotonic() + PATIENCE
    while not found():
        if time.monotonic() > end:
            pytest.fail(f"not within {PATIENCE} s:\n{log.read_text(encoding='utf-8')[-5_000:]}")
        time.sleep(0.2)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        text = "needs Debian's chromium (apt-get install chromium), which is absent"
        pytest.fail(text) if os.environ.get("CI") else pytest.skip(text)
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def page(browser: Browser, watch: Watch) -> Iterator[Page]:
    """A page at 1,400 pixels; afterwards: it had no error, and asked no other machine."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(PATIENCE * 1000)
    expect.set_options(timeout=PATIENCE * 1000)
    context.on("console", watch.console)
    context.on("request", watch.request)
    context.on("page", watch.page)
    yield context.new_page()
    context.close()
    assert watch.urls
    assert watch.errors == []
    assert watch.abroad() == []


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("pictures")).absolute()


def test_the_graph_shows_every_group(server: Server, page: Page, pictures: Path) -> None:
    page.goto(f"{server.url}/asset-groups")  # where the link "Lineage" leads
    for group in GROUPS:
        expect(page.get_by_text(group, exact=True).first).to_be_visible()
    page.screenshot(path=pictures / "graph.png")


def test_the_run_of_a_terminal_is_on_the_landing_page(server: Server, page: Page) -> None:
    page.goto(server.url)
    expect(page.get_by_text("symbol_tuning", exact=True).first).to_be_visible()


def test_the_report_is_made_by_clicking_and_shows_its_plots(
    server: Server, page: Page, pictures: Path
) -> None:
    page.goto(f"{server.url}/assets/eval_report")
    page.get_by_text("Materialize", exact=True).first.click()
    report = server.home.store.root / "eval_report"
    until(lambda: any(report.glob("*/index.html")), server.home.folder / "dev.log")

    page.get_by_text("[Show Markdown]").first.click()
    image = page.get_by_alt_text("Accuracy by setting").first
    expect(image).to_be_visible()
    assert image.evaluate("image => image.naturalWidth") > 300
    # What surrounds it cuts what is wider, and the window what is higher.
    assert image.evaluate("""image => {
        const [inner, frame] = [image, image.parentElement].map((e) => e.getBoundingClientRect());
        return inner.right <= frame.right + 1 && inner.bottom <= innerHeight && inner.width > 300;
    }""")
    page.screenshot(path=pictures / "asset.png")


def test_checks_of_a_mart_hold(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/assets/mart_icl?view=checks")
    expect(page.get_by_text(re.compile(r"^Checks \(\d+\)$"))).to_be_visible()
    expect(page.get_by_text("Succeeded").nth(5)).to_be_visible()
    assert page.get_by_text("Failed", exact=True).count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1400, "light"), (1400, "dark")])
def test_the_charts_of_the_report_fit_the_page(
    smoke_run: tuple[Home, Ended],
    page: Page,
    pictures: Path,
    width: int,
    scheme: Literal["light", "dark"],
) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    report = smoke_run[0].store.folder("eval_report") / "index.html"
    page.goto(report.as_uri())
    charts = page.locator(".chart")
    assert charts.count() >= 3
    for chart in charts.all():
        box = chart.locator("svg").bounding_box()
        assert box is not None and box["height"] > 100
        assert 100 < box["width"] <= width and box["x"] >= 0 and box["x"] + box["width"] <= width
    page.evaluate("document.querySelectorAll('details').forEach((part) => part.open = true)")
    assert page.locator(".prompt pre").first.is_visible() and page.locator("#questions li").count()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach((part) => part.open = false)")
    # Text and the marks of chance stand out from the ground, on which charts and tables have no white.
    ground, *inks = page.evaluate("""[
        getComputedStyle(document.body).backgroundColor,
        ...[...document.querySelectorAll('.chart text, .gt_table td, #questions p, .filters select')]
            .map((e) => getComputedStyle(e)[e.tagName === 'text' ? 'fill' : 'color']),
        ...[...document.querySelectorAll('.chart [stroke=black]')].map((e) => getComputedStyle(e).stroke),
        ...[...document.querySelectorAll('.chart [fill=black]')].map((e) => getComputedStyle(e).fill),
    ]""")
    assert (brightness(ground) < 60) == (scheme == "dark")
    assert inks and all(abs(brightness(ink) - brightness(ground)) > 100 for ink in inks)
    if scheme == "light":
        charts.first.scroll_into_view_if_needed()
        page.screenshot(path=pictures / f"report_{width}.png")


def brightness(colour: str) -> float:
    """The mean of red, green and blue of a colour as a browser tells it, from 0 to 255."""
    red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
    return (red + green + blue) / 3


def test_a_click_on_a_setting_above_the_chart_shows_it_alone(
    smoke_run: tuple[Home, Ended], page: Page
) -> None:
    store = smoke_run[0].store
    tuned = store.read_table("mart_icl").filter(pl.col("variant") == "tuned")
    page.goto((store.folder("eval_report") / "index.html").as_uri())
    chart = page.locator("[id^=gains-]").first
    points = chart.locator(".mark-symbol.role-mark path[opacity='1']")
    expect(points).to_have_count(len(tuned))
    chart.locator(".role-legend-label text", has_text="symbols, no instruction").click()
    expect(points).to_have_count(len(tuned.filter(pl.col("setting") == "symbols, no instruction")))


def test_the_list_of_questions_is_filtered_by_setting_dataset_and_change(
    smoke_run: tuple[Home, Ended], page: Page
) -> None:
    """Against the table of predictions; a run as small as this has no sample of them."""
    store = smoke_run[0].store
    by_variant = store.read_table("eval_icl", "micro").pivot(
        "variant", index=["setting", "dataset", "context", "query"], values="correct"
    )
    changed = by_variant.filter(pl.col("untuned") != pl.col("tuned"))
    setting, dataset, untuned = (
        changed.sort("dataset").select("setting", "dataset", "untuned").row(0)
    )
    change = "right → wrong" if untuned else "wrong → right"
    report = store.folder("eval_report") / "index.html"
    assert report.stat().st_size < 3_000_000
    page.goto(report.as_uri())
    questions, matching = page.locator("#questions li"), page.locator("#matching")

    def expect_rows(rows: pl.DataFrame) -> None:
        expect(matching).to_have_text(f"{len(rows)} match; {min(25, len(rows))} shown.")
        expect(questions).to_have_count(min(25, len(rows)))

    page.get_by_label("setting", exact=True).select_option(setting)
    of_setting = by_variant.filter(setting=setting)
    expect_rows(of_setting)
    page.get_by_label("untuned → tuned").select_option(change)
    expect_rows(of_setting.filter(untuned=untuned, tuned=not untuned))
    page.get_by_label("dataset or category").select_option(dataset)
    expect_rows(of_setting.filter(untuned=untuned, tuned=not untuned, dataset=dataset))
    first = questions.first
    expect(first).to_contain_text(f"{setting} | {dataset} | {change}")
    for variant, right in (("untuned", untuned), ("tuned", not untuned)):
        expect(first).to_contain_text(f"{variant}, {'right' if right else 'wrong'}:")
    for label in ("setting", "untuned → tuned", "dataset or category"):
        page.get_by_label(label, exact=True).select_option("all")
    expect(questions).to_have_count(25)
    page.get_by_role("button", name="Show more").click()
    expect(questions).to_have_count(50)
