"""The pages' tables and pictures: where scripts write them, and that the README says what the tables say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from detector import fit, load_config
from detector.config.schema import Config
from detector.tools.suites.suite import expand, load_suite
from scripts import at_init, yolos
from scripts.ablations import ABLATIONS, table
from scripts.pictures import crossed
from tests.support import ROOT, TINY

README, FINDINGS = ((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/findings.md"))
WRITTEN = {
    "table: why": "docs/findings.md",
    "table: coco8": "docs/findings.md",
    "table: shapes": "docs/findings.md",
    "table: cures": "docs/findings.md",
    "effects: coco8": "docs/findings.md",
    "effects: shapes": "docs/findings.md",
    "table: shares": "README.md",
    "table: repairs": "README.md",
    "table: reliability": "docs/reliability.md",
    "table: bccd": "docs/speed.md",
    "table: at_init depth": "docs/findings.md",
    "table: at_init init": "docs/findings.md",
    "table: yolo init": "docs/any_yolo.md",
    **{f"table: yolo26 {data}": "docs/any_yolo.md" for data in yolos.DATA},
    "yolo26": "README.md",
}


@pytest.mark.parametrize("marker", WRITTEN)
def test_a_table_has_one_place(marker: str) -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    found = [page for page in pages if f"<!-- {marker} -->" in page.read_text(encoding="utf-8")]
    assert found == [ROOT / WRITTEN[marker]]
    text = found[0].read_text(encoding="utf-8")
    assert text.count(f"<!-- {marker} -->") == text.count(f"<!-- /{marker} -->") == 1


def test_every_number_of_the_readme_is_in_the_tables() -> None:
    findings = README.split("## Four findings")[1].split("\n## ")[0]
    numbers = set(re.findall(r"[+−]?\d\.\d\d\b", findings))
    assert len(numbers) > 20
    assert sorted(n for n in numbers if not re.search(rf"(?<![\d.]){re.escape(n)}(?!\d)", FINDINGS)) == []


def test_the_readme_is_short() -> None:
    assert README.count("\n") < 130
    assert README.index("![") < 1200


def summary(seed: int, **changes: Any) -> dict[str, Any]:
    return {
        "commit": "0123456789", "dirty": False, "status": "finished", "device": "cpu",
        "versions": {"torch": "2.15.0", "ultralytics": "8.4.190"}, "val/mAP50": 0.1 * seed,
        "gradient/vanishing_index_init": 0.5, "gradient/verdict_init": "healthy",
        "gradient/vanishing_index": -1.0 - seed, "gradient/verdict": "vanishing",
    } | changes  # fmt: skip


def test_a_row_has_mean_spread_and_n_and_the_verdicts_that_differ() -> None:
    measured = {
        "baseline": [summary(0), summary(1)],
        "tanh": [],
        "no_residual": [summary(0), summary(1), summary(2, status="diverged", **{
            "gradient/verdict": "diverged", "gradient/vanishing_index": float("nan"), "val/mAP50": None,
        })],
    }  # fmt: skip
    lines = table(measured, ["val/mAP50"]).splitlines()
    rows = {line.split("|")[1].strip(" `"): line for line in lines if line.startswith("| `")}
    assert list(rows) == ["baseline", "no_residual"]  # what has no runs has no row
    assert rows["no_residual"] == (
        f"| `no_residual` | {ABLATIONS['no_residual']} | +0.50 ± 0.00 | healthy | −1.50 ± 0.71 "
        "| vanishing 2, diverged 1 | 0.05 ± 0.07 | 3 |"
    )
    assert lines[0].count("|") == lines[1].count("|") == rows["baseline"].count("|")
    assert "commit 0123456; torch 2.15.0" in lines[-1]


@pytest.mark.parametrize("trunk", ["ablation", "trunk"])
def test_the_picture_shows_curves_and_outcomes(trunk: str) -> None:
    def cell(decades: float, loss: float, metric: float) -> dict[str, Any]:
        curve = {"00_stem": 10**-decades, "01_p2": 1.0}
        return {str(seed): {"curve": curve, "loss": loss + seed, "metric": metric} for seed in range(3)}

    outcomes = {"baseline": cell(0, 4, 0.5), "sufficiency": cell(3, 5, 0.25), "necessity": cell(0, 7, 0.125),
                "ablation": cell(3, 8, 0.0), trunk: cell(3, 8, 0.0)}  # fmt: skip
    left, right = crossed({"ablation": "mine", "outcomes": outcomes}).axes
    assert [line.get_ydata()[0] for line in left.lines] == pytest.approx([1, 1e-3, 1, 1e-3])  # type: ignore[index]
    means = [line.get_xdata()[0] for line in right.lines[1::2]]  # type: ignore[index]
    assert means == [5, 6, 8, 9]
    assert [text.get_text() for text in right.texts] == ["0.50", "0.25", "0.12", "0.00", "val mAP"]
    assert right.get_yticklabels()[-1].get_text() == "mine"


def yolo_runs(out: Path) -> None:
    """Of the suite on shapes two cells, one with a seed that diverged and one without an end."""
    broken = {"status": "diverged", "val/mAP50-95": None, "gradient/vanishing_index": float("nan")}
    for name, seed, changes in (
        ("baseline", 0, {}),
        ("baseline", 1, {}),
        ("no_batchnorm", 0, {}),
        ("no_batchnorm", 1, broken),
        ("sigmoid", 0, {"status": "stopped"}),
    ):
        run = out / "yolo26_shapes" / f"{name}-s{seed}"
        run.mkdir(parents=True)
        facts = summary(seed, **{"val/mAP50-95": 0.1 + 0.2 * seed, "signal/input_dependence": 0.5})
        (run / "summary.json").write_text(json.dumps(facts | changes))


def test_the_tables_of_stripped_yolos_are_written_from_the_runs_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for page in ("PAGE", "README"):
        monkeypatch.setattr(yolos, page, tmp_path / f"{page}.md")
        yolos.__dict__[page].write_text("".join(f"<!-- {m} -->\n<!-- /{m} -->\n" for m in WRITTEN))
    yolo_runs(tmp_path)
    assert yolos.main(["--report-only", "--out", str(tmp_path)]) == 0
    assert "yolo26_coco8: no runs yet" in capsys.readouterr().err
    page = yolos.PAGE.read_text()
    # Two values 0.2 apart: their deviation is 0.2 / √2, and Student's t for one degree of freedom 12.706.
    half = f"{12.706 * 0.2 / 2:.3f}"
    assert (
        f"| `baseline` | healthy | +0.50 ± 0.00 | −1.50 ± 6.35 | 0.50 ± 0.00 | 0.200 ± {half} | 2 |" in page
    )
    assert "| `no_batchnorm` | healthy | +0.50 ± 0.00 | −1.00 | 0.50 | 0.100 | 1 (1 diverged) |" in page
    assert "`sigmoid`" not in page  # it was stopped
    assert "commit 0123456; torch 2.15.0, ultralytics 8.4.190, cpu." in page
    said = yolos.README.read_text()
    assert set(re.findall(r"[+−]?\d\.\d+", said)) <= set(re.findall(r"[+−]?\d\.\d+", page))
    assert f"unseen images is 0.200 ± {half}" in said
    assert yolos.main(["--report-only", "--suite", "yolov8", "--out", str(tmp_path)]) == 0  # it has no place


@pytest.mark.parametrize("data", yolos.DATA)
def test_what_changes_a_suite_of_yolos_is_valid(data: str) -> None:
    changes = [change.format(datasets="mine") for change in yolos.DATA[data][1]]
    assert len(expand(load_suite(Path("yolo26")), None, changes)) == 6 * yolos.SEEDS


def test_the_readme_says_of_yolo26_what_its_tables_say() -> None:
    said = README.split("<!-- yolo26 -->")[1].split("<!-- /yolo26 -->")[0]
    page = (ROOT / "docs" / "any_yolo.md").read_text(encoding="utf-8")
    numbers = re.findall(r"[+−]?\d\.\d+", said)
    assert [number for number in numbers if number not in page] == []


def test_v_before_the_first_step_is_what_a_run_records_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_config("coco8", [*TINY, "train.steps=1", "train.seed=3", "model.norm=none", "run.dir=a"])
    run = fit(loaded)
    found = at_init.vanishing_index(loaded.config, 3)
    assert found == pytest.approx(run.summary["gradient/vanishing_index_init"], abs=1e-5)
    assert abs(at_init.vanishing_index(loaded.config, 4) - found) > 1e-3
    rounded = at_init.vanishing_index(loaded.config, 3, "bf16")
    assert 0 < abs(rounded - found) < 0.2


@pytest.mark.parametrize("name", ["depth", "init"])
def test_each_cell_of_a_suite_has_its_own_place_in_the_table(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is measured as its number in the suite, less or more by the seed."""
    met: dict[str, int] = {}

    def numbered(config: Config, seed: int) -> float:
        return met.setdefault(repr(config.model), len(met)) + seed - 2

    monkeypatch.setattr(at_init, "vanishing_index", numbered)
    cells = list(load_suite(ROOT / f"ablations/suites/{name}.yaml").cells)
    head, _, *lines = at_init.TABLES[name]().splitlines()
    columns = {"with batch norm": "", "without": "_no_batchnorm"}
    written = {}
    for line in lines:
        row, *values = (cell.strip() for cell in line.strip("|").split("|"))
        for column, value in zip(head.strip("|").split("|")[1:], values, strict=True):
            column = column.strip().removesuffix(" convolutions")
            written[row.strip("`") + columns.get(column, f"_{column}")] = float(value.split(" ± ")[0])
    assert written == {cell: number for number, cell in enumerate(cells)}
