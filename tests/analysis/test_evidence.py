"""What was measured is found again, also by configurations of a later schema."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from detector.analysis.evidence import Effect, collect, find, read_effects, settings, write_effects
from detector.analysis.explain import explain
from detector.config.experiment import experiment
from detector.config.loading import load_config
from detector.config.safe_yaml import written
from detector.config.schema import Config, DataConfig, ModelConfig, TrainConfig
from detector.rows import Key
from detector.rundir import RunDir
from detector.tools.suites.suite import load_suite
from tests.support import ROOT

ABLATIONS = sorted(file for file in (ROOT / "ablations").glob("*.yaml") if file.stem != "sweep")
ON_SHAPES = {"no_residual", "plain_sigmoid"}


def effect(config: Config, index: float | None = None) -> Effect:
    return Effect("mine", "coco8", settings(config), Key.TRAIN_MAP, 3, 0.5, 0.1, index, 0, ["a"])


@pytest.mark.parametrize("file", [ROOT / "configs" / "coco8.yaml", *ABLATIONS], ids=lambda file: file.stem)
def test_each_shipped_ablation_finds_what_was_measured_of_it(file: Path) -> None:
    loaded = load_config(file)
    found = find(read_effects(), loaded.config, "coco8")
    assert found is not None
    assert found.ablation == ("baseline" if file.stem == "coco8" else file.stem)
    assert found.n >= 5 and found.metric == Key.TRAIN_MAP


@pytest.mark.parametrize("name", sorted(ON_SHAPES))
def test_an_ablation_on_shapes_finds_it_too(name: str) -> None:
    suite = load_suite(ROOT / "ablations" / "suites" / "factorial_shapes.yaml")
    changes = [f"{key}={written(value.value)}" for key, value in (suite.settings | suite.cells[name]).items()]
    found = find(read_effects(), load_config(suite.base, changes).config, "shapes")
    assert found is not None and found.ablation == name and found.metric == Key.VAL_MAP


def test_no_residual_quotes_a_control_and_a_remedy_with_n() -> None:
    summary = {
        "dataset": "coco8",
        Key.VERDICT + Key.INIT: "exploding",
        Key.VANISHING_INDEX + Key.INIT: 1.5,
        Key.VERDICT: "vanishing",
        Key.VANISHING_INDEX: -2.0,
        Key.INPUT_DEPENDENCE: 0.9,
    }
    settings = ["train.seed=7", "train.timeout=900"]
    config = load_config(ROOT / "ablations" / "no_residual.yaml", settings).config
    text = explain(summary, [], {}, config, read_effects())[Key.DIAGNOSIS]
    frozen = "With the trunk frozen at its initialisation the baseline reaches a train/mAP50-95 of"
    assert f"{frozen} 0.98 (n=5), trained 0.96 (n=5)" in text
    assert "First remedy to try: model.shortcut=gated" in text
    assert "measured train/mAP50-95: 0.48 (n=5) to 0.97 (n=5)." in text


def test_a_key_that_came_later_had_its_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "evidence.json"
    write_effects([effect(Config())], path)
    content = json.loads(path.read_text())
    for later in ("train.timeout", "train.sync_norms", "data.mosaic"):
        content["defaults"].pop(later, None)
    path.write_text(json.dumps(content))
    (found,) = read_effects(path)
    assert find([found], Config(), "coco8") == found
    assert find([found], Config(train=TrainConfig(sync_norms=False)), "coco8") is None
    assert find([found], Config(data=DataConfig(mosaic=0.5)), "coco8") is None


def test_a_scope_counts_only_where_something_is_stripped() -> None:
    def config(**model: str) -> Config:
        return Config(model=ModelConfig(**model))  # type: ignore[arg-type]

    assert settings(config(scope="trunk")) == settings(config())
    assert settings(config(scope="trunk", act="tanh")) != settings(config(act="tanh"))
    found = [effect(config(scope="trunk", act="tanh"))]
    assert find(found, config(scope="trunk"), "coco8", act="tanh") == found[0]
    assert find(found, config(), "coco8", act="tanh") is None
    baseline = [effect(config())]
    assert find(baseline, config(scope="trunk", act="tanh"), "coco8", act="silu") == baseline[0]


def test_a_default_that_changes_changes_nothing_that_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "evidence.json"
    write_effects([effect(Config())], path)
    monkeypatch.setattr(
        "detector.analysis.evidence.experiment",
        lambda config: experiment(config) | ({"train.lr": 0.5} if config == Config() else {}),
    )
    (found,) = read_effects(path)
    assert found.settings["train.lr"] == 0.02


def test_how_a_failure_is_handled_does_not_matter(tmp_path: Path) -> None:
    skipping = Config(train=TrainConfig(on_nonfinite="skip", max_skipped=3))
    assert settings(skipping) == settings(Config())


def test_the_file_has_a_line_an_effect_and_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    effects = [effect(Config()), effect(Config(train=TrainConfig(lr=0.1)), index=-1.5)]
    write_effects(effects, path)
    assert read_effects(path) == effects
    lines = path.read_text().splitlines()
    assert len(lines) == 5
    assert json.loads(lines[3])["settings"] == {"train.lr": 0.1}


def test_runs_that_did_not_finish_are_left_out(tmp_path: Path) -> None:
    runs = []
    for seed, status in enumerate(("finished", "diverged", "stopped", "finished")):
        run = RunDir.create(tmp_path / str(seed), Config(train=TrainConfig(seed=seed, threads=1 + seed)))
        summary: dict[str, Any] = {"ablation": "x", "dataset": "coco8", "status": status, "commit": "c"}
        index = math.nan if seed == 0 else 0.5
        run.write_summary(summary | {Key.TRAIN_MAP: 0.1 * seed, Key.VANISHING_INDEX: index})
        runs.append(run.path)
    (found,) = collect([*runs, tmp_path / "nothing"])
    assert (found.n, found.vanishing_index) == (2, None)
    assert found.mean == pytest.approx(0.15)


def test_a_seed_of_two_suites_counts_once(tmp_path: Path) -> None:
    runs = []
    for suite, seed in (("ablations", 0), ("ablations", 1), ("cures", 0), ("cures", 2)):
        run = RunDir.create(tmp_path / f"{suite}-{seed}", Config(train=TrainConfig(seed=seed, threads=1)))
        summary: dict[str, Any] = {"ablation": "x", "dataset": "coco8", "status": "finished", "commit": suite}
        run.write_summary(summary | {Key.TRAIN_MAP: 0.1 * seed, Key.VANISHING_INDEX: 0.5})
        runs.append(run.path)
    (found,) = collect(runs)
    assert (found.n, found.mean) == (3, pytest.approx(0.1))
