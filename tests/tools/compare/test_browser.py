"""The page in a real browser: it draws, answers to mouse and keyboard, and logs no error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from detector.tools.compare.comparison import compare
from detector.tools.compare.page import page
from detector.tools.compare.runs import load_runs

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.common.exceptions import WebDriverException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

Make = Callable[..., Path]
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


@pytest.fixture
def report(chromium: Any, make_run: Make, tmp_path: Path) -> Iterator[Any]:
    """A 2² factorial of two seeds with one hostile name, opened; no error in the console at the end."""
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
    file = tmp_path / "report.html"
    file.write_text(page(compare(*load_runs([directory.parent]))), encoding="utf-8")
    chromium.get_log("browser")
    chromium.get(file.as_uri())
    drawn(chromium, "depth")
    yield chromium
    assert [entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert chromium.title.startswith("Where gradients die")


def drawn(browser: Any, figure: str) -> None:
    """Scroll to a figure and wait until plotly has drawn it."""
    browser.execute_script(f"document.getElementById('{figure}').scrollIntoView({{block: 'center'}})")
    WebDriverWait(browser, 60).until(
        lambda b: b.execute_script(f"return !!document.querySelector('#{figure} .main-svg')")
    )


def lines(browser: Any, figure: str = "depth") -> dict[str, list[float]]:
    """The lines that stand for an ablation: name -> what is drawn."""
    script = f"return document.getElementById('{figure}').data.filter(t => t.name).map(t => [t.name, t.y])"
    return dict(browser.execute_script(script))


def click(browser: Any, selector: str) -> None:
    element = browser.find_element(By.CSS_SELECTOR, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def test_every_figure_is_drawn(report: Any) -> None:
    for figure in ("depth", "index", "loss", "map-train", "map-val", "effects", "layers", "heat"):
        drawn(report, figure)
    assert len(lines(report)) == 4
    assert report.find_elements(By.CSS_SELECTOR, "table")
    assert all(c.text for c in report.find_elements(By.TAG_NAME, "figcaption") if c.is_displayed())


def test_the_slider_moves_the_curve(report: Any) -> None:
    before = lines(report)["baseline"]
    assert before[0] == pytest.approx(10**-1.05, rel=0.01)  # the seeds' geometric mean
    slider = report.find_element(By.ID, "step")
    slider.send_keys(Keys.ARROW_RIGHT)  # by keyboard: it is a real input
    assert report.find_element(By.ID, "step-now").text == "5"
    assert lines(report)["baseline"][0] == pytest.approx(10**0.5, rel=0.02)
    slider.send_keys(Keys.END)
    assert slider.get_attribute("aria-valuetext") == "step 19"


def test_play_runs_to_the_end(report: Any) -> None:
    click(report, "#play")
    WebDriverWait(report, 10).until(lambda b: b.find_element(By.ID, "step-now").text == "19")
    WebDriverWait(report, 5).until(lambda b: b.find_element(By.ID, "play").text == "▶")


def test_filters_by_ablation_and_seed(report: Any) -> None:
    click(report, '[data-group="1"]')
    assert len(lines(report)) == 3
    assert report.find_element(By.CSS_SELECTOR, '[data-group="1"]').get_attribute("aria-pressed") == "false"
    click(report, "#only")
    assert list(lines(report)) == ["baseline"]
    click(report, '[data-seed="1"]')
    assert lines(report)["baseline"][0] == pytest.approx(0.1, rel=0.01)  # seed 0 alone
    click(report, "#all")
    assert len(lines(report)) == 4
    for chip in report.find_elements(By.CSS_SELECTOR, "[data-group]"):
        chip.send_keys(Keys.SPACE)
    assert lines(report) == {}  # nothing chosen is an empty figure, not an error


def test_weights_instead_of_activations(report: Any) -> None:
    before = lines(report)["baseline"]
    click(report, '[data-kind="weight_grad"]')
    assert lines(report)["baseline"] == pytest.approx([2 * y for y in before], rel=0.02)


def test_one_run_in_detail(report: Any) -> None:
    drawn(report, "layers")
    assert len(lines(report, "layers")) == 6
    assert not report.find_element(By.ID, "ledger-figure").is_displayed()
    select = report.find_element(By.ID, "run")
    chosen = next(
        o for o in select.find_elements(By.TAG_NAME, "option") if "<img" in o.text and "seed 1" in o.text
    )
    chosen.click()
    drawn(report, "ledger")
    assert report.execute_script("return document.getElementById('ledger').data[0].y") == [-1, -1]


def test_dark_and_light(report: Any) -> None:
    def paper() -> str:
        return str(report.execute_script("return getComputedStyle(document.body).backgroundColor"))

    before, label = paper(), report.find_element(By.ID, "theme").text
    click(report, "#theme")
    assert paper() != before
    assert report.find_element(By.ID, "theme").text != label
    click(report, "#theme")
    assert paper() == before


def test_it_fits_a_phone(report: Any) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    report.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        for figure in ("depth", "effects", "heat"):
            drawn(report, figure)
        assert report.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        report.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_names_do_not_run(report: Any) -> None:
    assert report.execute_script("return document.images.length") == 0
    chip = report.find_element(By.CSS_SELECTOR, '[data-group="3"], [data-group="0"]')
    assert chip.is_displayed()
    labels = [c.text for c in report.find_elements(By.CSS_SELECTOR, "[data-group]")]
    assert any(label.startswith("<img src=x") for label in labels)


def test_every_control_has_a_name_and_can_be_reached(report: Any) -> None:
    controls = report.find_elements(By.CSS_SELECTOR, "button, select, input")
    assert len(controls) >= 12
    for control in controls:
        assert control.accessible_name, control.get_attribute("outerHTML")
        assert control.get_attribute("tabindex") in (None, "", "0")
