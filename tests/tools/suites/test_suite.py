"""Suite files: what they come to, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from detector.config.loading import load_config
from detector.config.schema import ModelConfig
from detector.errors import UserError
from detector.tools.suites.suite import expand, load_suite
from tests.support import ROOT

# By name: a user's own may lie beside them.
YOLOS = "yolov8", "yolo11", "yolo26"
NAMES = f"factorial factorial_shapes ladder leave_one_out init depth controls cures {' '.join(YOLOS)}"
SMALL = ("factorial_shapes",)  # what `detector why` trains: a shorter trunk
SEEDS = dict.fromkeys(("cures", "factorial", "factorial_shapes", *YOLOS), 5)  # the others: 3
SHIPPED = [ROOT / "ablations" / "suites" / f"{name}.yaml" for name in NAMES.split()]
BASE = ROOT / "configs" / "coco8.yaml"


def suite(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {BASE}\n{text}")
    return path


def test_the_promised_suites_are_there() -> None:
    assert [path for path in SHIPPED if not path.is_file()] == []


def test_a_suite_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for written in ("factorial", "ablations/suites/factorial.yaml"):
        assert load_suite(Path(written)) == load_suite(ROOT / "ablations/suites/factorial.yaml")
    for written, near in (("factorail", "factorial"), ("ablations/suites/laddr.yaml", "ladder.yaml")):
        with pytest.raises(UserError, match=f"no such file; did you mean .*{near}\\?$"):
            load_suite(Path(written))
    with pytest.raises(UserError, match=r"no_residual: no such file; ablations/suites have controls, "):
        load_suite(Path("no_residual"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_cell_of_a_shipped_suite_is_what_train_py_will_read(path: Path) -> None:
    cells = expand(load_suite(path))
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.seed for cell in cells} == set(range(SEEDS.get(path.stem, 3)))
    assert any(cell.ablation.startswith(("baseline", "he")) for cell in cells)
    for cell in cells:
        own = load_config(cell.base, cell.overrides)  # the same way as train.py
        assert own.config == cell.config
        assert own.name == cell.ablation == cell.config.run.name
        assert cell.config.train.seed == cell.seed
        assert cell.config.data.fallback == "none"
        assert path.stem in cell.config.tracking.tags
    header = path.read_text()
    assert f"# Command:  detector ablate ablations/suites/{path.name}" in header
    assert "# Question: " in header
    assert "# Run time: " in header


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_cell_named_like_an_ablation_is_that_ablation(path: Path) -> None:
    for cell in expand(load_suite(path), seeds=1):
        file = ROOT / "ablations" / f"{cell.ablation}.yaml"
        if file.exists() and (path.stem, cell.ablation) != ("ladder", "plain_sigmoid"):
            own, model = load_config(file).config.model, cell.config.model
            if path.stem in SMALL:
                own = own.model_copy(update={"depths": model.depths})
            if path.stem in YOLOS:
                own = own.model_copy(update={"pretrained": model.pretrained})
            assert own == model, cell.ablation


def test_the_factorial_is_every_combination() -> None:
    for name in ("factorial", "factorial_shapes"):
        models = [c.config.model for c in expand(load_suite(ROOT / f"ablations/suites/{name}.yaml"), seeds=1)]
        combinations = {(model.shortcut, model.norm, model.act) for model in models}
        assert len(combinations) == len(models) == 8
        assert combinations == {
            (s, n, a) for s in ("residual", "none") for n in ("batch", "none") for a in ("silu", "sigmoid")
        }


def test_a_cure_does_not_put_back_what_its_name_says_is_missing() -> None:
    for cell in expand(load_suite(ROOT / "ablations/suites/cures.yaml"), seeds=1):
        model, name = cell.config.model, cell.ablation
        if name.startswith(("plain", "no_residual")):
            assert model.shortcut == "none", name
        if name.startswith(("plain", "no_batchnorm")):
            assert model.norm == ("weight" if "weight" in name else "none"), name
        if "sigmoid" in name:
            assert model.act == "sigmoid", name


@pytest.mark.slow
def test_the_depth_suite_is_as_deep_as_it_says() -> None:
    from torch import nn

    from detector.models.detector import build_detector

    for cell in expand(load_suite(ROOT / "ablations/suites/depth.yaml"), seeds=1):
        points = build_detector(cell.config.model, 1).backbone_layers().values()
        convolutions = [m for point in points for m in point.modules() if isinstance(m, nn.Conv2d)]
        assert len(convolutions) == int(cell.ablation.rpartition("_")[2])


def test_the_later_wins_and_seeds_are_paired(tmp_path: Path) -> None:
    path = suite(
        tmp_path,
        "settings: {train: {steps: 9, lr: 0.5}, model: {act: relu}}\nseeds: 2\n"
        "cells: {a: {}, b: {model: {act: tanh}, train: {epochs: 3}}}\n",
    )
    cells = expand(load_suite(path), overrides=["train.lr=0.25"])
    assert [cell.name for cell in cells] == ["a-s0", "b-s0", "a-s1", "b-s1"]
    a, b = cells[0].config, cells[1].config
    assert (a.model.act, a.train.steps, a.train.epochs, a.train.lr) == ("relu", 9, None, 0.25)
    assert (b.model.act, b.train.steps, b.train.epochs, b.train.lr) == ("tanh", None, 3, 0.25)
    assert a.model == ModelConfig(act="relu", scope="trunk")
    assert [cell.seed for cell in expand(load_suite(path), seeds=1)] == [0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cels: {a: {}}", r"mine\.yaml:2: cels: unknown key"),
        ("seeds: 3", r"needs the key cells"),
        ("cells: {}", r"mine\.yaml:2: cells: must be a mapping"),
        ("seeds: true\ncells: {a: {}}", r"mine\.yaml:2: seeds: must be how many"),
        ("seeds: 0\ncells: {a: {}}", r"mine\.yaml:2: seeds: must be how many"),
        ("cells:\n  a: {model: {shortcutt: none}}", r"mine\.yaml:3: .*did you mean model\.shortcut"),
        ("cells:\n  a: {model: {shortcut: nope}}", r"mine\.yaml:3: model\.shortcut: must be one of"),
        ("cells:\n  a: {train: {seed: 3}}", r"mine\.yaml:3: train\.seed: .*--seeds"),
        ("settings: {run: {dir: here}}\ncells: {a: {}}", r"mine\.yaml:2: run\.dir: .*--out"),
        ("cells:\n  a: nowhere.yaml", r"mine\.yaml:3: nowhere\.yaml: no such file; .* relative to the suite"),
        (f"cells:\n  a: {BASE}", r"mine\.yaml:3: .*has no `base:`"),
        ("cells:\n  a/b: {}", r"mine\.yaml:3: a/b: a cell's name"),
        ("cells:\n  ..: {}", r"mine\.yaml:3: \.\.: a cell's name"),
        ("cells: {a: {}, b: {model: {act: silu}}}", r"b and a are the same experiment"),
        ("cells:\n  a: {base: x.yaml}", r"mine\.yaml:3: base: belongs at the top"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        expand(load_suite(suite(tmp_path, text)))
    assert re.search(message, str(error.value)), error.value
    assert len(str(error.value).splitlines()) <= 2


@pytest.mark.parametrize(
    "override", ["train.seed=1", "run.name=x", "run.dir=x", "data.fallback=shapes", "train.auto_batch=true"]
)
def test_what_the_suite_decides_cannot_be_overridden(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError, match=override.partition("=")[0]):
        expand(load_suite(suite(tmp_path, "cells: {a: {}}")), overrides=[override])
