"""The page in a real browser: it draws, answers to mouse and keyboard, and logs no error."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from detector.tools.compare.comparison import compare
from detector.tools.compare.page import page
from detector.tools.compare.runs import load_runs
from tests.tools.compare.conftest import runs_in

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.common.exceptions import WebDriverException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

pytestmark = pytest.mark.slow

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1200,900"
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no chromium with chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    try:
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    except WebDriverException as error:
        pytest.skip(f"chromium does not start here: {error.msg}")
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a 2² factorial of two seeds with one hostile name."""
    make_run = runs_in(tmp_path_factory.mktemp("report"))
    ablations: dict[str, dict[str, str]] = {
        "baseline": {},
        "no_norm": {"model.norm": "none"},
        "no_shortcut": {"model.shortcut": "none"},
        "<img src=x onerror=document.title='broken'>": {"model.norm": "none", "model.shortcut": "none"},
    }
    for number, (name, changes) in enumerate(ablations.items()):
        for seed in (0, 1):
            v = -1.0 - number**2 - seed / 10
            directory = make_run(name, seed, v=v, late=0.5, folder=f"{number}-{seed}", **changes)
    entries = [
        {"step": step, "block": block, "operation": "a.act", "factor": 0.1}
        for step in (0, 19)
        for block in ("05_p3.1", "04_p3.0")
    ]
    (directory / "ledger.json").write_text(json.dumps(entries))
    return page(compare(*load_runs([directory.parent])))


@pytest.fixture
def report(chromium: Any, written: str, tmp_path: Path) -> Iterator[Any]:
    """That page, opened anew from a file of this test's own; no error in the console at the end."""
    file = tmp_path / "report.html"
    file.write_text(written, encoding="utf-8")
    chromium.get_log("browser")
    chromium.get(file.as_uri())
    WebDriverWait(chromium, 60).until(lambda b: b.execute_script("return document.body.dataset.ready"))
    yield chromium
    assert [entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert chromium.title.startswith("Where gradients die")


def drawn(browser: Any, figure: str) -> bool:
    """Whether a figure shows anything: lines, bars or a map."""
    script = "return !!document.querySelector(`#${arguments[0]} :is(.trace, .hm)`)"
    return bool(browser.execute_script(script, figure))


def lines(browser: Any, figure: str = "depth") -> dict[str, list[float]]:
    """The lines that stand for an ablation: name -> what is drawn."""
    script = (
        f"return document.getElementById('{figure}').data"
        ".filter(t => t.name && t.visible !== false).map(t => [t.name, t.y])"
    )
    return {name: y for name, y in browser.execute_script(script) if not name.startswith("theory")}


def click(browser: Any, selector: str) -> None:
    element = browser.find_element(By.CSS_SELECTOR, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def wait(browser: Any, condition: Callable[[Any], bool]) -> None:
    WebDriverWait(browser, 30, 0.05).until(condition)


def test_every_figure_is_drawn(report: Any) -> None:
    for figure in ("depth", "index", "loss", "map-train", "map-val", "effects-0", "layers", "heat"):
        assert drawn(report, figure), figure
    assert {name for name in lines(report) if "seed" not in name} == {
        "baseline", "no_norm", "no_shortcut", "&lt;img src=x onerror=document.title='broken'&gt;"
    }  # fmt: skip
    assert len(lines(report)) == 4 * 3  # each with two seeds
    assert report.find_elements(By.CSS_SELECTOR, "table")
    assert all(c.text for c in report.find_elements(By.TAG_NAME, "figcaption") if c.is_displayed())
    bars = report.find_elements(By.CSS_SELECTOR, "#layers .colorbar, #heat .colorbar")
    assert len(bars) == 2


def test_the_slider_moves_the_curve(report: Any) -> None:
    assert lines(report)["baseline"][0] == pytest.approx(10**-1.05, rel=0.01)  # the seeds' geometric mean
    axis = "return document.getElementById('depth')._fullLayout.yaxis.range"
    before = report.execute_script(axis)
    slider = report.find_element(By.ID, "step")
    slider.send_keys(Keys.ARROW_RIGHT)  # by keyboard: it is a real input
    assert report.find_element(By.ID, "step-now").text == "5"
    wait(report, lambda b: lines(b)["baseline"][0] == pytest.approx(10**0.5, rel=0.02))
    assert report.execute_script(axis) == before  # it is the curve that moves
    slider.send_keys(Keys.END)
    assert report.find_element(By.ID, "step-now").text == "19"
    assert slider.get_attribute("aria-valuetext") == "step 19"


def test_play_runs_to_the_end_and_can_pause(report: Any) -> None:
    def now() -> str:
        return str(report.find_element(By.ID, "step-now").text)

    # Within one call, so that no time passes: the first step is taken, and then no other.
    report.execute_script("for (let n = 0; n < 2; n++) document.getElementById('play').click()")
    time.sleep(0.5)
    assert now() == "5"
    click(report, "#play")
    wait(report, lambda b: now() == "19")
    time.sleep(0.3)
    click(report, "#play")  # from the beginning again
    wait(report, lambda b: now() in ("5", "10"))
    wait(report, lambda b: now() == "19")


def test_filters_by_ablation_and_seed(report: Any) -> None:
    click(report, '[name="group"][value="1"]')
    for figure in ("depth", "index", "loss", "map-train", "map-val"):
        wait(report, lambda b, figure=figure: len(lines(b, figure)) == 3 * 3)
    assert not report.find_element(By.CSS_SELECTOR, '[name="group"][value="1"]').is_selected()
    click(report, "#only")
    wait(report, lambda b: list(lines(b)) == ["baseline, seed 0", "baseline, seed 1", "baseline"])
    click(report, '[name="seed"][value="1"]')
    wait(report, lambda b: list(lines(b)) == ["baseline, seed 0"])  # seed 0 alone: no mean of the others
    assert lines(report)["baseline, seed 0"][0] == pytest.approx(0.1, rel=0.01)
    click(report, '[name="seed"][value="1"]')
    click(report, "#all")
    wait(report, lambda b: len(lines(b)) == 4 * 3)


def test_nothing_chosen_is_said(report: Any) -> None:
    def said(figure: str) -> str:
        script = "return getComputedStyle(document.getElementById(arguments[0]), '::before').content"
        return str(report.execute_script(script, figure))

    assert said("depth") == "none"
    for box in report.find_elements(By.CSS_SELECTOR, '[name="group"]'):
        box.send_keys(Keys.SPACE)
    for figure in ("depth", "index", "loss", "map-train", "map-val"):
        wait(report, lambda b, figure=figure: lines(b, figure) == {} and not drawn(b, figure))
        assert "Nothing to draw" in said(figure)
    click(report, "#all")
    wait(report, lambda b: drawn(b, "depth"))
    for box in report.find_elements(By.CSS_SELECTOR, '[name="seed"]'):
        box.send_keys(Keys.SPACE)
    wait(report, lambda b: not drawn(b, "depth"))
    assert "Nothing to draw" in said("depth")


def test_weights_instead_of_activations(report: Any) -> None:
    before = lines(report)["baseline"]
    assert "activation" in report.execute_script(
        "return document.querySelector('#depth .ytitle').textContent"
    )
    click(report, '[value="weight_grad"]')
    wait(report, lambda b: lines(b)["baseline"] == pytest.approx([2 * y for y in before], rel=0.02))
    wait(
        report,
        lambda b: "weight" in b.execute_script("return document.querySelector('#depth .ytitle').textContent"),
    )
    assert len(lines(report, "layers")) == 6


def test_one_run_in_detail(report: Any) -> None:
    assert list(lines(report, "layers")) == ["stem", "p2.down", "p2.0", "p3.down", "p3.0", "p3.1"]
    before = lines(report, "layers")["stem"]
    assert not report.find_element(By.ID, "ledger-figure").is_displayed()
    select = report.find_element(By.ID, "run")
    chosen = next(
        o for o in select.find_elements(By.TAG_NAME, "option") if "<img" in o.text and "seed 1" in o.text
    )
    chosen.click()
    wait(report, lambda b: b.find_element(By.ID, "ledger-figure").is_displayed())
    # The block nearest to the head is on the left. Each bar is a decade lost, at the first step and the last.
    assert (
        report.execute_script("return document.getElementById('ledger').data.map(t => [t.x, t.y])")
        == [[["p3.1", "p3.0"], [-1, -1]]] * 2
    )
    now = lines(report, "layers")["stem"]
    assert now[0] == pytest.approx(10**-10.1, rel=0.01)
    assert now[0] < before[0]
    low, high = report.execute_script("return document.getElementById('layers')._fullLayout.yaxis.range")
    assert low < -10.1 < 0.5 < high  # the axis follows the run


def test_dark_and_light(report: Any) -> None:
    """As the system has it; the figures' texts too."""
    script = (
        "const color = (one, what) => getComputedStyle(document.querySelector(one))[what];"
        "return [color('body', 'backgroundColor'), color('#depth .xtick text', 'fill'),"
        "color('#heat .cbtitle text', 'fill')]"
    )

    def colors(scheme: str) -> list[int]:
        """Their brightness, 0 to 255."""
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        report.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        found = report.execute_script(script)
        return [max(map(int, re.findall(r"\d+", color)[:3])) for color in found]

    try:
        paper, *ink = colors("light")
        assert paper > 240 > 60 > max(ink)
        paper, *ink = colors("dark")
        assert paper < 30 < 220 < min(ink)
    finally:
        report.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_it_fits_a_phone(report: Any) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    report.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        report.refresh()
        wait(report, lambda b: b.execute_script("return document.body.dataset.ready"))
        assert report.execute_script("return document.documentElement.scrollWidth") <= 390
        script = (
            "return [...document.querySelectorAll('.main-svg')].map(svg => svg.getBoundingClientRect().right)"
        )
        assert max(report.execute_script(script)) <= 390
    finally:
        report.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_names_do_not_run(report: Any) -> None:
    assert report.execute_script("return document.images.length") == 0
    labels = [c.text for c in report.find_elements(By.CSS_SELECTOR, "#filters label") if c.is_displayed()]
    assert any(label.startswith("<img src=x") for label in labels)


def test_every_control_has_a_name_and_can_be_reached(report: Any) -> None:
    controls = report.find_elements(By.CSS_SELECTOR, "button, select, input")
    controls = [control for control in controls if control.is_displayed()]  # plotly's own come on hovering
    assert len(controls) >= 12
    for control in controls:
        assert control.accessible_name, control.get_attribute("outerHTML")
        assert control.get_attribute("tabindex") in (None, "", "0")
