"""The command: which cells it makes, what it refuses, and what it says of runs that are there."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from detector.config.experiment import experiment
from detector.errors import UserError
from detector.jobs.runner import Job
from detector.rows import Key
from detector.rundir import RunDir
from detector.tools.why.cells import Design, design
from detector.tools.why.command import _jobs, why
from detector.tools.why.outcome import read_outcome

# --- the cells -----------------------------------------------------------------------------------


def changed(plan: Design, role: str) -> dict[str, object]:
    """What the first seed's cell has different from the baseline's."""
    base, cell = (experiment(plan.cells[r][0].config) for r in ("baseline", role))  # type: ignore[index]
    return {key: value for key, value in cell.items() if base[key] != value}


def test_the_cells_of_an_ablation_of_the_trunk() -> None:
    out = Path("out")
    plan = design(Path("no_residual"), "shapes", 2, out)
    assert not plan.strips_rest
    strip = {"model.shortcut": "none"}
    assert {role: changed(plan, role) for role in plan.cells} == {
        "baseline": {},
        "ablation": strip,
        "baseline_frozen": {"model.freeze": "backbone"},
        "trunk_frozen": strip | {"model.freeze": "backbone"},
        "control": {"gradients.impose": "out/nine_decades.json"},
        "sufficiency": {"gradients.impose": "out/no_residual-s{seed}"},
        "necessity": strip | {"gradients.impose": "out/baseline-s{seed}"},
    }
    assert [cell.name for cell in plan.cells["ablation"]] == ["no_residual-s0", "no_residual-s1"]
    assert [cell.config.train.seed for cell in plan.cells["control"]] == [0, 1]


def test_what_is_stripped_everywhere_is_grafted() -> None:
    plan = design(Path("plain_sigmoid"), "shapes", 1, Path("out"), ["model.scope=all"])
    strip = {"model.shortcut": "none", "model.norm": "none", "model.act": "sigmoid", "model.scope": "all"}
    assert plan.strips_rest
    assert changed(plan, "ablation") == strip
    assert changed(plan, "trunk") == {key: strip[key] for key in strip if key != "model.scope"}
    assert changed(plan, "rest") == strip | {"model.scope": "neck_and_head"}
    assert changed(plan, "trunk_frozen") == changed(plan, "trunk") | {"model.freeze": "backbone"}
    assert changed(plan, "sufficiency") == {"gradients.impose": "out/plain_sigmoid.trunk-s{seed}"}
    assert plan.sources == {"sufficiency": "trunk", "necessity": "baseline"}


def test_ablations_of_the_same_data_share_the_baseline_s_runs() -> None:
    one, other = (design(Path(name), "shapes", 1, Path("out")) for name in ("no_residual", "plain_silu"))
    for role in ("baseline", "baseline_frozen", "control"):
        assert one.cells[role][0].name == other.cells[role][0].name  # type: ignore[index]
        assert changed(one, role) == changed(other, role)
    tracking = one.cells["sufficiency"][0].config.tracking
    assert tracking.group == "why-shapes"
    assert set(tracking.tags) == {"why", "sufficiency", "no_residual"}


def test_a_curve_s_source_must_have_finished(trained: Callable[..., Design], tmp_path: Path) -> None:
    plan = trained()
    by_role = _jobs(plan, tmp_path / "out")
    assert [job.after for job in by_role["necessity"]] == [(job,) for job in by_role["baseline"]]
    assert [job.after for job in by_role["sufficiency"]] == [(job,) for job in by_role["ablation"]]
    assert all(job.was_there for jobs in by_role.values() for job in jobs)


# --- what it refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: {act: tanh}\n", "has no `base:`"),
        ("base: {root}\nmodel: {{neck_width: 8}}\n", "2: model.neck_width: detector why takes apart"),
        ("base: {root}\nmodel:\n  act: tanh\n  depths: [1, 1, 1, 1]\n", "4: model.depths: detector why"),
        ("base: {root}\ntrain: {{optimizer: adamw}}\n", "train.optimizer: detector why takes apart"),
        ("base: {root}\nmodel: {{act: silu}}\n", "strips nothing"),
        ("base: {root}\nmodel: {{act: tanh, scope: neck_and_head}}\n", "the trunk is as in the baseline"),
    ],
)
def test_what_cannot_be_taken_apart(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.yaml"
    root = Path(__file__).parents[3] / "configs/coco8.yaml"
    path.write_text(text.format(root=root) if "{root}" in text else text)
    with pytest.raises(UserError) as caught:
        design(path, "shapes", 1, tmp_path / "out")
    assert says in str(caught.value)
    assert "mine.yaml" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "key", ["train.seed=3", "run.dir=x", "model.freeze=backbone", "gradients.impose=flat"]
)
def test_what_the_cells_decide_is_not_overridden(tmp_path: Path, key: str) -> None:
    with pytest.raises(UserError, match=key.partition("=")[0]):
        design(Path("no_residual"), "shapes", 1, tmp_path, [key])


def test_data_without_objects_starts_nothing(data: Path, tmp_path: Path) -> None:
    for label in (tmp_path / "labels/train").iterdir():
        label.write_text("")
    with pytest.raises(UserError, match=r"tiny\.yaml: no object in any training image"):
        why(Path("no_residual"), on=str(data), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_profile_of_another_network_is_not_overwritten(data: Path, tmp_path: Path) -> None:
    profile = tmp_path / "out/nine_decades.json"
    profile.parent.mkdir()
    profile.write_text('{"mine": 1}')
    with pytest.raises(UserError, match="another --out"):
        why(Path("no_residual"), on=str(data), out=tmp_path / "out")
    assert profile.read_text() == '{"mine": 1}'


# --- what it says --------------------------------------------------------------------------------


def test_the_final_loss_is_the_mean_of_the_last_steps_and_the_curve_the_late_median(tmp_path: Path) -> None:
    plan = design(Path("no_residual"), "shapes", 1, tmp_path)
    run = RunDir.create(tmp_path / "run", plan.cells["baseline"][0].config)
    writer = run.open_history()
    for step in range(40):  # the last 20 losses are 20 … 39
        norms = {"00_stem": 2.0 if step % 2 else 8.0, "01_p2.down": 1.0, "02_p2.0": 2.0}
        row = {"step": step, "epoch": 0, Key.LOSS: float(step)}
        writer.append(row | {Key.ACTIVATION_GRAD + name: norm for name, norm in norms.items()})
    writer.close()
    job = Job(plan.cells["baseline"][0], run.path, status="finished", summary={Key.VAL_MAP: 0.25})
    found = read_outcome(job, Key.VAL_MAP)
    assert found.loss == pytest.approx(29.5)
    assert found.metric == 0.25
    # 13 late rows from step 27: seven odd steps with 1, six even ones with 4.
    assert found.curve == pytest.approx({"00_stem": 1.0, "01_p2.down": 0.5, "02_p2.0": 1.0})
    assert found.raw == {}
    job.status = "diverged"
    assert math.isnan(read_outcome(job, Key.VAL_MAP).loss)


def test_the_answer_of_runs_that_are_there(
    trained: Callable[..., Design], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is trained again; the answer is printed, stored and drawn."""
    trained()
    out, page = tmp_path / "out", tmp_path / "why.html"
    assert why(Path("no_residual"), on=str(data), seeds=3, out=out, html=page) == 0
    printed = capsys.readouterr()
    assert "21 runs in" in printed.err
    assert "21 of them complete" in printed.err
    assert "positive control passed" in printed.out
    says = printed.out.strip().splitlines()[-1]
    assert says.startswith("no_residual on tiny: of +1.60 in loss, +1.60 is there with both trunks frozen")
    stored = json.loads((out / "no_residual.json").read_text())
    assert stored["answer"]["reading"] == "answered"
    assert stored["answer"]["main"] == "forward"
    assert stored["answer"]["says"] == says
    assert stored["outcomes"]["baseline"]["1"]["loss"] == pytest.approx(4.11 + 0.02)
    assert stored["metric_shares"]["backward"]["n"] == 3
    text = page.read_text()
    assert says in text
    assert text.count("Plotly.newPlot") == 2
    assert "<script src" not in text


def test_an_ablation_that_diverged_has_no_loss_to_explain(
    trained: Callable[..., Design], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(diverged="ablation")
    why(Path("no_residual"), on=str(data), seeds=3, out=tmp_path / "out")
    assert "no seed has a finished baseline and a finished ablation" in capsys.readouterr().out


def test_a_dry_run_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert why(Path("plain_silu"), seeds=2, out=tmp_path / "out", dry_run=True) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 * 7
    assert why(Path("plain_silu"), "model.scope=all", seeds=2, out=tmp_path / "out", dry_run=True) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 * 9
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("forked_cells")
def test_a_tiny_experiment_from_end_to_end(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real runs, too short to mean anything: every cell trains, and imposed curves are their sources'."""
    monkeypatch.chdir(tmp_path)
    sizes = "data.image_size=32", "model.depths=[1,1,1,1]", "model.widths=[8,8,8,8,8]", "train.steps=3"
    tiny = *sizes, "train.batch=2", "train.warmup_steps=0", "tracking.wandb=disabled", "train.threads=1"
    out = Path("out")
    assert why(Path("no_residual"), *tiny, on=str(data), seeds=1, out=out) == 0
    stored = json.loads((out / "no_residual.json").read_text())
    cells = stored["outcomes"]
    assert set(cells) == {"baseline", "ablation", "trunk", "baseline_frozen", "trunk_frozen", "sufficiency",
                          "necessity", "control"}  # fmt: skip
    for cell, source in (("sufficiency", "ablation"), ("necessity", "baseline")):
        assert cells[cell]["0"]["curve"] == pytest.approx(cells[source]["0"]["curve"], rel=1e-3)
    assert min(cells["control"]["0"]["curve"].values()) == pytest.approx(1e-9, rel=1e-3)
    assert cells["control"]["0"]["raw"] != {}
    assert all(math.isfinite(cell["0"]["loss"]) for cell in cells.values())
    capsys.readouterr()
    assert why(Path("no_residual"), *tiny, on=str(data), seeds=1, out=out) == 0
    assert "7 of them complete" in capsys.readouterr().err
