"""The diagnosis says what the numbers say, and no number that is not in the summary."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from detector.analysis.evidence import collect, find, metric_of, read_effects, write_effects
from detector.analysis.explain import explain
from detector.analysis.next_steps import LossCourse, loss_course
from detector.analysis.remedies import candidates
from detector.analysis.trunk_theory import block_factors, layer_names, stage_factor
from detector.config.schema import Config, ModelConfig
from detector.gradients.entries import Entry, read_ledger
from detector.models.curve import curve_of
from detector.registry import register
from detector.rundir import RunDir
from tests.support import ROOT, Run

PLAIN_SIGMOID = {"shortcut": "none", "norm": "none", "act": "sigmoid"}


def config(**model: object) -> Config:
    return Config.model_validate({"model": model})


def summary(
    verdict: str, index: float, init: str | None = None, at_init: float | None = None
) -> dict[str, Any]:
    return {
        "dataset": "coco8",
        "train/mAP50-95": 0.0,
        "gradient/verdict": verdict,
        "gradient/vanishing_index": index,
        "gradient/verdict_init": init or verdict,
        "gradient/vanishing_index_init": index if at_init is None else at_init,
        "signal/input_dependence": 0.9,
        "gradient/first_bad_layer": None,
    }


def row(factor: float) -> dict[str, float]:
    """Step 0 of a trunk whose every layer of two convolutions passes on `factor²`."""
    names = layer_names((2, 10, 4, 2))
    return {"step": 0, **{f"activation_grad/{n}": factor ** (-2 * d) for d, n in enumerate(names)}}


LEDGER = {
    step: [
        Entry("05_p3.0", "a.conv", "convolution", 10**0.1),
        Entry("05_p3.0", "a.act", "sigmoid", 10 ** -(1.5 + step)),
        Entry("06_p3.1", "a.conv", "convolution", 10**0.2),
        Entry("06_p3.1", "a.act", "sigmoid", 10**-1.0),
        Entry("07_p3.2", "a.conv", "convolution", 10**0.3),
    ]
    for step in (0, 9)
}


def numbers(text: str) -> list[str]:
    """The numbers of a sentence; those in names (p3.2, mAP50-95, frozen_backbone) are none."""
    text = re.sub(r"\bp\d\.\w+|mAP50-95|\bP3\b|ablations/\S+|model\.\S+|train\.\S+|trunk\.\S+", "", text)
    return re.findall(r"[-+]?\d+(?:\.\d+)?(?:e[-+]\d+)?", text)


def backed(text: str, facts: dict[str, Any]) -> None:
    """Every number of the text is a number of the summary, rounded."""
    known = [v for v in facts.values() if isinstance(v, int | float) and math.isfinite(v)]
    known += [100 * facts["theory/difference"]] if "theory/difference" in facts else []
    for number in numbers(text):
        digits = len(number.partition(".")[2])
        rounded = {f"{abs(value):.2g}" if "e" in number else f"{abs(value):.{digits}f}" for value in known}
        assert number.lstrip("+-") in rounded, (number, text)


def test_a_vanishing_gradient() -> None:
    facts = explain(summary("vanishing", -8.9), [row(0.317)], LEDGER, config(**PLAIN_SIGMOID))
    text = facts["gradient/diagnosis"]
    assert facts["gradient/worst_blocks_init"] == facts["gradient/worst_blocks"] == "p3.0 to p3.1"
    assert facts["gradient/decades_lost_init"] == pytest.approx(2.2)
    assert facts["gradient/decades_lost"] == pytest.approx(11.2)
    assert facts["gradient/worst_operation"] == "sigmoid"
    assert facts["gradient/worst_operation_decades_lost_init"] == pytest.approx(2.5)
    assert facts["gradient/other_operations_decades_lost_init"] == pytest.approx(-0.3)
    assert facts["theory/factor"] == pytest.approx(0.318, abs=1e-3)
    assert facts["theory/measured_factor"] == pytest.approx(0.317)
    assert "loses the most in blocks p3.0 to p3.1, 2.2 decades: the sigmoid loses 2.5" in text
    assert "give back 0.3" in text
    assert "misses" not in text
    assert facts["gradient/cause"] == "not shown"
    assert "not shown by one run" in text and "narrow_neck" in text
    yolo = explain(summary("vanishing", -8.9), [row(0.317)], {}, config(pretrained="yolo26n.yaml"))
    assert "the control ablations/frozen_backbone.yaml on" in yolo["gradient/diagnosis"]  # a neck of its own
    assert facts["remedy/change"] == "model.shortcut=residual"
    assert "was not measured" in text
    backed(text, {**summary("vanishing", -8.9), **facts})


def test_an_exploding_one_that_turns() -> None:
    grows = {0: [Entry("05_p3.0", "conv", "convolution", 50.0), Entry("05_p3.0", "act", "SiLU", 0.5)]}
    facts = explain(
        summary("vanishing", -2.0, "exploding", 1.45),
        [row(1.3)],
        grows | {9: LEDGER[9]},
        config(shortcut="none"),
    )
    text = facts["gradient/diagnosis"]
    assert text.startswith("At initialisation the trunk's gradient explodes")
    assert facts["gradient/decades_lost_init"] == pytest.approx(-math.log10(25))
    assert "gains the most in block p3.0, 1.4 decades: the convolution gains 1.7" in text
    assert "take back 0.3" in text
    assert "here the theory misses" in text  # 1.3 against 1.101
    backed(text, {**summary("vanishing", -2.0, "exploding", 1.45), **facts})


def test_a_healthy_one_needs_no_remedy_and_no_cause_and_does_not_sound_like_an_alarm() -> None:
    well = summary("healthy", 0.5) | {"train/mAP50-95": 0.98}
    facts = explain(well, [row(1.07)], LEDGER, config())
    text = facts["gradient/diagnosis"]
    assert text.endswith("The gradient is not what holds this run back; its train/mAP50-95 is 0.98.")
    assert not any(key.startswith(("remedy/", "control/", "gradient/cause")) for key in facts)
    assert "the most" not in text and "decades_lost" in " ".join(facts)  # in the summary all the same
    backed(text, {**well, **facts})


def test_a_healthy_gradient_and_no_map_names_what_to_look_at_next() -> None:
    rows = [row(1.07) | {"train/loss": 40.0}, {"step": 9, "train/loss": 36.0, "train/clip_factor": 0.03}]
    learnt_nothing = summary("healthy", 0.5)
    facts = explain(learnt_nothing, rows, {}, config(freeze="backbone"))
    text = facts["gradient/diagnosis"]
    assert "The gradient is not the problem, though train/mAP50-95 is 0.00. Look next at" in text
    for hint in ("model.freeze=backbone", "train.clip, which scaled the gradient by 0.03",
                 "the loss only fell from 40 to 36", "detector check datasets/coco8.yaml"):  # fmt: skip
        assert hint in text
    fell = [row(1.07) | {"train/loss": 40.0}, {"step": 9, "train/loss": 4.0, "train/clip_factor": 0.9}]
    text = explain(learnt_nothing, fell, {}, config())["gradient/diagnosis"]
    assert "train.steps, since the loss fell from 40 to 4 and may fall further" in text
    assert "train.clip" not in text and "freeze" not in text


@pytest.mark.parametrize(
    ("losses", "seen", "hint"),
    [
        ([4.27, 4.64], 0.0, "train.lr and train.steps, since the loss rose from 4.27 to 4.64"),
        ([4.27, 4.27], 0.0, "train.lr and train.steps, since the loss stayed at 4.27"),
        ([4.27, 3.22], 0.0, "train.lr and train.steps, since the loss only fell from 4.27 to 3.22"),
        # Something was learnt at this learning rate: no word of it.
        ([4.27, 3.22], 0.3, "at train.steps, since the loss fell from 4.27 to 3.22 while train/mAP50-95"),
        ([4.27, 4.64], 0.3, "at train.steps, since the loss rose from 4.27 to 4.64 while train/mAP50-95"),
        # One easy batch at either end is no trend.
        ([4.0, 9.0, 8.0, 7.0, 3.0, 3.2, 9.9], 0.0, "since the loss fell from 8 to 3.2 and may fall further"),
        ([9.0, 8.0, 8.5, 7.0, 6.9, 7.2, 0.2], 0.0, "since the loss only fell from 9 to 6.9"),
        ([4.0], 0.0, "Look next at the labels"),
    ],
)  # fmt: skip
def test_the_closing_words_say_which_way_the_loss_went(losses: list[float], seen: float, hint: str) -> None:
    rows = [{"step": 10 * at, "train/loss": loss} for at, loss in enumerate(losses)]
    mine = summary("healthy", 0.5) | {"dataset": "mine", "train/mAP50-95": seen, "val/mAP50-95": 0.01}
    text = explain(mine, rows, {}, config())["gradient/diagnosis"]
    assert hint in text
    assert ("train.lr" in text) == ("train.lr" in hint or "only" in hint)


def test_the_short_batch_at_the_end_of_an_epoch_is_left_out_where_there_are_others() -> None:
    losses = [8.0, 7.0, 0.5] * 3 + [6.0, 5.0, 0.4] * 3
    rows = [{"step": step, "train/loss": loss} for step, loss in enumerate(losses)]
    schedule = {"steps": len(rows), "epochs": len(rows) / 3}
    whole = loss_course(rows, schedule, config())
    assert whole == LossCourse(8.0, 5.0, 1) and str(whole) == "fell from 8 to 5"
    # Two batches a step: those of epochs of three are 01, 20, 12: the second and third hold a last one.
    twice = Config.model_validate({"train": {"accumulate": 2}})
    course = loss_course(rows, {"steps": len(rows), "epochs": len(rows) * 2 / 3}, twice)
    assert course is not None and course == LossCourse(8.0, 6.0, 1)
    # Too few rows are left: then all count, also where no epoch is known.
    assert loss_course(rows[:6], {"steps": 6, "epochs": 2.0}, config()) == LossCourse(8.0, 7.0, 1)
    assert loss_course(rows[:6], {}, config()) == LossCourse(8.0, 7.0, 1)


def test_the_loss_of_a_step_that_was_not_taken_or_is_not_finite_does_not_count() -> None:
    rows: list[dict[str, float]] = [
        {"step": 0, "train/loss": 8.0},
        {"step": 1, "train/loss": math.nan},
        {"step": 2, "train/loss": 4.0},
        {"step": 3, "train/loss": 900.0, "train/skipped": 1},
    ]
    assert loss_course(rows, {}, config()) == LossCourse(8.0, 4.0, 1)
    assert loss_course(rows[:2], {}, config()) is None


def test_a_middling_map_is_told_no_more_than_one_run_shows() -> None:
    """And is given the same advice as none at all."""
    rows = [row(1.07) | {"train/loss": 40.0}, {"step": 9, "train/loss": 36.0}]
    middling = summary("healthy", 0.5) | {"train/mAP50-95": 0.14}
    text = explain(middling, rows, {}, config())["gradient/diagnosis"]
    advice = {
        0.0: "train.lr and train.steps, since the loss only fell from 40 to 36",
        0.14: "train.steps, since the loss fell from 40 to 36 while train/mAP50-95 came to 0.14",
    }
    labels = "the labels (detector check datasets/coco8.yaml)."
    start = "The gradient is healthy, which by itself explains no train/mAP50-95 of 0.14."
    assert text.endswith(f"{start} Look next at {advice[0.14]}; {labels}")
    exploded = summary("healthy", 0.5, "exploding", 9.0)
    for value, hint in advice.items():
        text = explain(exploded | {"train/mAP50-95": value}, rows, {}, config())["gradient/diagnosis"]
        start = "What its start (exploding) costs is not shown by one run; train/mAP50-95 is"
        assert text.endswith(f"{start} {value:.2f}. Look next at {hint}; {labels}")
    text = explain(exploded | {"train/mAP50-95": 0.98}, rows, {}, config())["gradient/diagnosis"]
    assert text.endswith("Late in training the gradient is healthy, and train/mAP50-95 is 0.98.")


def test_features_that_a_probe_finds_nothing_in_are_named() -> None:
    probed = {
        "signal/probe_auc_p3_init": 0.9, "signal/probe_auc_p3": 0.66, "signal/probe_auc_p3_position": 0.65,
        "signal/probe_auc_p4": 0.51, "signal/probe_auc_p4_position": 0.63,
    }  # fmt: skip
    mine = summary("healthy", 0.5) | {"dataset": "mine", "val/mAP50-95": 0.01} | probed
    hint = "a linear probe finds objects no better than by place (AUC 0.66, 0.65)"
    assert hint in explain(mine, [], {}, config())["gradient/diagnosis"]
    for better in ({"signal/probe_auc_p4": 0.7}, {"dataset": "coco8"}):
        assert "probe" not in explain(mine | better, [], {}, config())["gradient/diagnosis"]


def test_images_that_were_learnt_point_to_the_data_not_to_the_training() -> None:
    mine = summary("healthy", 0.5) | {"dataset": "mine", "train/mAP50-95": 0.9, "val/mAP50-95": 0.01}
    rows = [row(1.07) | {"train/loss": 40.0}, {"step": 9, "train/loss": 36.0}]
    text = explain(mine, rows, {}, config())["gradient/diagnosis"]
    assert "val/mAP50-95 is 0.01. Look next at the data, since the images trained on were learnt" in text
    assert "train.lr" not in text
    unmeasured = summary("healthy", 0.5) | {"train/mAP50-95": None}
    assert "was not measured" in explain(unmeasured, [], {}, config())["gradient/diagnosis"]


def test_residual_blocks_are_told_by_the_shares_of_their_two_ways() -> None:
    entries = [
        Entry("05_p3.0", "conv1.conv", "convolution", 0.5),
        Entry("05_p3.0", "shortcut", "shortcut", 4.0),
    ]
    facts = explain(summary("exploding", 2.0), [row(1.3)], {0: entries}, config(norm="none"))
    assert facts["gradient/identity_share_init"] == pytest.approx(0.8)
    text = facts["gradient/diagnosis"]
    assert "gains the most in block p3.0, 0.3 decades, all in the residual blocks." in text
    assert "80 % of the gradient comes by the identity, 20 % through the branch" in text


def test_a_curve_that_was_imposed_is_not_explained_by_the_network() -> None:
    imposed = Config.model_validate({"gradients": {"impose": "flat"}})
    facts = explain(summary("vanishing", -6.8), [row(0.3)], {}, imposed)
    assert "gradients.impose=flat" in facts["gradient/diagnosis"]
    assert set(facts) == {"gradient/diagnosis"}


def test_what_was_not_measured_is_not_said() -> None:
    assert explain({}, [], {}, config()) == {}
    resumed = summary("vanishing", -2.0) | {
        "gradient/verdict_init": None,
        "gradient/vanishing_index_init": None,
    }
    text = explain(resumed, [], {}, config(shortcut="none"))["gradient/diagnosis"]
    assert "initialisation the" not in text
    assert "expects one layer" not in text
    broken = summary("diverged", math.nan, "exploding", 2.0) | {
        "gradient/first_bad_layer": "backbone.p3_1.conv1.conv"
    }
    nan = {0: [Entry("05_p3.0", "conv", "convolution", math.nan)]}
    text = explain(broken, [row(math.inf)], nan, config(norm="none"))["gradient/diagnosis"]
    assert "stops being finite, first in backbone.p3_1.conv1.conv" in text
    assert "nan" not in text


@pytest.mark.parametrize("model", [{"act": "RReLU"}, {"act": "GELU"}, {"norm": "none", "act": "mine"}])
def test_without_a_theory_there_is_no_sentence_about_it(model: dict[str, str], own_names: None) -> None:
    register.activation("mine")(object)
    facts = explain(summary("vanishing", -2.0), [row(0.7)], LEDGER, config(**model))
    assert "theory/factor" not in facts
    assert "Mean-field" not in facts["gradient/diagnosis"]
    assert "First remedy" in facts["gradient/diagnosis"]
    json.dumps(facts, allow_nan=False)


def test_an_activation_of_torch_is_predicted_from_its_curve() -> None:
    factors = []
    for act in ("silu", "SiLU", "GELU"):
        facts = explain(summary("healthy", 0.2), [row(1.05)], {}, config(act=act), act=curve_of(act))
        assert "Mean-field theory expects" in facts["gradient/diagnosis"]
        factors.append(facts["theory/factor"])
    assert factors[0] == pytest.approx(factors[1], rel=1e-12)
    assert factors[0] != pytest.approx(factors[2], rel=1e-3)


def test_a_remedy_s_theory_is_of_the_remedy_s_activation() -> None:
    curve = curve_of("Hardsigmoid")
    own = explain(
        summary("vanishing", -2.0), [row(0.9)], {}, config(act="Hardsigmoid", shortcut="none"), act=curve
    )
    assert own["remedy/change"] == "model.shortcut=residual"
    expected = stage_factor(block_factors(ModelConfig(act="Hardsigmoid"), act=curve))
    assert own["remedy/theory_factor"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "verdict", ["vanishing", "exploding", "underflow", "dead forward", "collapsed", "diverged"]
)
@pytest.mark.parametrize(
    "model", [{}, PLAIN_SIGMOID, {"shortcut": "none"}, {"norm": "none", "init": "naive"}]
)
def test_every_verdict_has_a_sentence_and_a_remedy_that_is_a_change(
    verdict: str, model: dict[str, str]
) -> None:
    run = config(**model)
    facts = explain(summary(verdict, -2.0), [row(0.9)], LEDGER, run)
    key, value = facts["remedy/change"].split("=")
    section, name = key.split(".")
    assert str(getattr(getattr(run, section), name)) != value
    for key, value in candidates(verdict, run):  # each is a valid configuration
        section, name = key.split(".")
        plain = json.loads(run.model_dump_json())
        plain[section][name] = value
        Config.model_validate(plain)


def finished(
    directory: Path,
    name: str,
    mAP: float,
    seed: int = 0,
    V: float = 0.5,
    verdict: str = "healthy",
    **model: object,
) -> Path:
    """A run's directory as `train.py` leaves it."""
    run = directory / f"{name}-s{seed}"
    run.mkdir(parents=True)
    written = Config.model_validate({"model": model, "train": {"seed": seed, "threads": 1}})
    (run / "config.yaml").write_text(yaml.safe_dump(json.loads(written.model_dump_json())))
    (run / "summary.json").write_text(
        json.dumps(
            {
                "ablation": name,
                "status": "finished",
                "dataset": "coco8",
                "train/mAP50-95": mAP,
                "gradient/vanishing_index": "NaN" if mAP == 0.3 else V,
                "gradient/verdict": verdict,
                "commit": "0" * 40,
            }
        )
    )
    return run


def test_effects_are_quoted_only_where_they_were_measured(tmp_path: Path) -> None:
    runs = [
        finished(tmp_path, "baseline", 0.96),
        finished(tmp_path, "baseline", 1.0, seed=1),
        finished(tmp_path, "frozen_backbone", 0.97, freeze="backbone"),
        finished(tmp_path, "no_residual", 0.3, shortcut="none"),
        tmp_path / "nothing",
    ]
    write_effects(collect(runs), tmp_path / "evidence.json")
    effects = read_effects(tmp_path / "evidence.json")
    assert effects == collect(runs)
    base = find(effects, config(), "coco8")
    assert base is not None
    assert (base.n, base.mean, base.metric) == (2, pytest.approx(0.98), "train/mAP50-95")
    assert base.sd == pytest.approx(0.02828, abs=1e-5)

    no_residual = summary("vanishing", -2.0)
    facts = explain(no_residual, [], {}, config(shortcut="none"), effects)
    text = facts["gradient/diagnosis"]
    assert facts["gradient/cause"] == "not by itself"
    assert "0.97 (n=1), trained 0.98 (n=2): no trunk needs to learn here" in text
    assert (facts["remedy/before"], facts["remedy/after"]) == (0.3, pytest.approx(0.98))
    assert "measured train/mAP50-95: 0.30 (n=1) to 0.98 (n=2)." in text
    backed(text, {**no_residual, **facts})

    # Another schedule is another measurement.
    longer = Config.model_validate({"model": {"shortcut": "none"}, "train": {"steps": 300}})
    other = explain(no_residual, [], {}, longer, effects)
    assert other["gradient/cause"] == "not shown"
    assert "remedy/after" not in other
    assert find(effects, config(), "shapes") is None


def test_only_coco8_is_judged_by_its_training_images() -> None:
    """Four images are too few to say anything about unseen ones."""
    assert [metric_of(name) for name in ("coco8", "shapes", "mine")] == [
        "train/mAP50-95",
        *["val/mAP50-95"] * 2,
    ]


def test_a_change_that_was_measured_not_to_heal_is_no_remedy(tmp_path: Path) -> None:
    runs = [
        finished(tmp_path, "plain_sigmoid", 0.02, V=-9.2, **PLAIN_SIGMOID),
        finished(tmp_path, "plain_silu", 0.15, V=-4.0, **PLAIN_SIGMOID | {"act": "silu"}),
    ]
    facts = explain(summary("vanishing", -9.2), [], {}, config(**PLAIN_SIGMOID), collect(runs))
    assert facts["remedy/change"] == "model.shortcut=residual"  # unmeasured, but theory expects it to heal
    assert facts["remedy/theory_factor"] == pytest.approx(1, abs=0.01)
    assert "was not measured" in facts["gradient/diagnosis"]


def test_the_measured_change_with_the_best_map_is_the_remedy(tmp_path: Path) -> None:
    runs = [
        finished(tmp_path, "plain_sigmoid", 0.02, V=-9.2, **PLAIN_SIGMOID),
        finished(tmp_path, "residual", 0.4, **PLAIN_SIGMOID | {"shortcut": "residual"}),
        finished(tmp_path, "batch", 0.6, **PLAIN_SIGMOID | {"norm": "batch"}),
        finished(tmp_path, "silu", 0.9, V=-4.0, **PLAIN_SIGMOID | {"act": "silu"}),  # heals no gradient
    ]
    before = summary("vanishing", -9.2)
    facts = explain(before, [], {}, config(**PLAIN_SIGMOID), collect(runs))
    assert facts["remedy/change"] == "model.norm=batch"
    assert (facts["remedy/before"], facts["remedy/after"], facts["remedy/after_n"]) == (0.02, 0.6, 1)
    without = explain(before, [], {}, config(**PLAIN_SIGMOID), collect(runs[1:]))
    assert (without["remedy/change"], without["remedy/after"]) == ("model.norm=batch", 0.6)
    assert "remedy/before" not in without


def test_a_change_after_which_the_signal_collapses_is_no_remedy(tmp_path: Path) -> None:
    """Its V is small, since nothing comes through that could vanish."""
    swapped = PLAIN_SIGMOID | {"shortcut": "residual"}
    runs = [
        finished(tmp_path, "plain_sigmoid", 0.02, V=-9.2, verdict="vanishing", **PLAIN_SIGMOID),
        finished(tmp_path, "no_batchnorm_sigmoid", 0.9, V=-0.4, verdict="collapsed", **swapped),
    ]
    facts = explain(summary("vanishing", -9.2), [], {}, config(**PLAIN_SIGMOID), collect(runs))
    assert "remedy/after" not in facts
    runs[1] = finished(tmp_path / "b", "no_batchnorm_sigmoid", 0.9, V=-0.4, **swapped)
    facts = explain(summary("vanishing", -9.2), [], {}, config(**PLAIN_SIGMOID), collect(runs))
    assert facts["remedy/after"] == 0.9


def test_a_change_that_costs_map_is_no_remedy(tmp_path: Path) -> None:
    runs = [
        finished(tmp_path, "plain_sigmoid", 0.7, V=-9.2, **PLAIN_SIGMOID),
        finished(tmp_path, "batch", 0.6, **PLAIN_SIGMOID | {"norm": "batch"}),
    ]
    facts = explain(summary("vanishing", -9.2), [], {}, config(**PLAIN_SIGMOID), collect(runs))
    assert facts["remedy/change"] == "model.shortcut=residual"
    assert "remedy/after" not in facts


def test_a_collapse_says_how_little_depends_on_the_image() -> None:
    collapsed = summary("collapsed", 0.1, init="healthy") | {"signal/input_dependence": 0.07}
    text = explain(collapsed, [], {}, config(), [])["gradient/diagnosis"]
    assert "(V = +0.10 decades, input dependence 0.07)" in text
    assert text.count("input dependence") == 1  # of late training, not of the start


def test_a_dead_signal_is_not_put_down_to_the_gradient(tmp_path: Path) -> None:
    runs = [finished(tmp_path, "baseline", 0.96), finished(tmp_path, "frozen", 0.2, freeze="backbone")]
    sizes = {
        "signal/rms_p3_init": 2e-5,
        "signal/rms_p5_init": 1e-7,
        "signal/rms_p3": 0.5,
        "signal/rms_p5": 2e-6,
    }
    dead = summary("dead forward", -2.5) | sizes
    facts = explain(dead, [], {}, config(shortcut="none", norm="none"), collect(runs))
    text = facts["gradient/diagnosis"]
    assert "the signal is almost zero where it leaves the trunk (V = -2.50 decades, RMS 1e-07)" in text
    assert "RMS 2e-06)" in text
    assert facts["gradient/cause"] == "forward" and "fault of the forward pass" in text
    assert "lost gradient" not in text and not any(key.startswith("control/") for key in facts)
    assert facts["remedy/change"] == "model.norm=batch"


def test_a_vanished_gradient_behind_a_signal_that_says_nothing_is_told_with_it() -> None:
    both = summary("vanishing", -9.0) | {"signal/input_dependence": 5e-8}
    text = explain(both, [], {}, config(**PLAIN_SIGMOID), [])["gradient/diagnosis"]
    assert "late in training it vanishes (V = -9.00 decades, input dependence 5e-08)" in text


def test_a_trunk_that_is_needed_makes_the_gradient_a_possible_cause(tmp_path: Path) -> None:
    runs = [
        finished(tmp_path, "baseline", 0.96),
        finished(tmp_path, "frozen_backbone", 0.2, freeze="backbone"),
    ]
    facts = explain(summary("vanishing", -2.0), [], {}, config(shortcut="none"), collect(runs))
    assert facts["gradient/cause"] == "possible"
    assert "can be what limits mAP" in facts["gradient/diagnosis"]


@pytest.mark.parametrize(("frozen", "cause"), [(0.45, "not by itself"), (0.1, "possible")])
def test_a_poor_control_is_compared_all_the_same(frozen: float, cause: str, tmp_path: Path) -> None:
    runs = [finished(tmp_path, "baseline", 0.4), finished(tmp_path, "frozen", frozen, freeze="backbone")]
    facts = explain(summary("vanishing", -2.0), [], {}, config(shortcut="none"), collect(runs))
    assert facts["gradient/cause"] == cause


def test_what_is_tried_first() -> None:
    """A missing part before the learning rate; of somebody's network only what was stripped of it."""
    plain = {"shortcut": "none", "norm": "none", "act": "sigmoid"}
    slower = ("train.lr", Config().train.lr / 2)
    shortcut, norm = ("model.shortcut", "residual"), ("model.norm", "batch")
    act, clip = ("model.act", "silu"), ("train.clip", 10.0)

    def tried(verdict: str, train: dict[str, object], **model: object) -> list[tuple[str, object]]:
        return list(candidates(verdict, Config.model_validate({"model": model, "train": train})))

    unclipped: dict[str, object] = {"clip": None}
    assert tried("vanishing", unclipped, **plain) == [shortcut, norm, act, clip, slower]
    assert tried("collapsed", unclipped, **plain) == [norm, act, shortcut, slower]
    assert tried("diverged", unclipped, **plain) == [clip, norm, shortcut, slower]
    assert tried("diverged", {"clip": 5.0}) == [slower]
    assert tried("vanishing", {"clip": 5.0}, pretrained="yolov8n.pt") == [slower]
    assert tried("diverged", unclipped, pretrained="yolov8n.pt") == [clip, slower]
    stripped = {"pretrained": "yolov8n.pt", "norm": "none"}
    assert tried("vanishing", {"clip": 5.0}, **stripped) == [("model.norm", "batch"), slower]


def test_broken_effects_are_no_effects(tmp_path: Path) -> None:
    assert read_effects(tmp_path / "missing.json") == []
    for text in ("[", "[{}]", '{"effects": []}', '{"defaults": {}, "effects": [{"settings": {}}]}', "3"):
        (tmp_path / "evidence.json").write_text(text)
        assert read_effects(tmp_path / "evidence.json") == []


QUICK = ("data.image_size=64", "train.steps=6", "train.eval_every=null", "tracking.plots=false")


@pytest.mark.slow
def test_a_run_leaves_its_ledger_and_its_diagnosis(train_py: Callable[..., Run]) -> None:
    run = train_py("--config", str(ROOT / "ablations/plain_sigmoid.yaml"), *QUICK)
    ledger = read_ledger(RunDir(run.directory))
    assert list(ledger) == [0, 5]
    names = layer_names((2, 10, 4, 2))
    rows = {row["step"]: row for row in run.history}
    for step, entries in ledger.items():
        ends = [rows[step][f"activation_grad/{name}"] for name in (names[0], names[-1])]
        total = sum(math.log10(entry.factor) for entry in entries)
        assert total == pytest.approx(math.log10(ends[0] / ends[1]), abs=1e-9)
    facts = run.summary
    text = facts["gradient/diagnosis"]
    assert " ".join(text.split()) in " ".join(run.out.split())
    assert facts["gradient/worst_operation"] == facts["gradient/worst_operation_init"] == "sigmoid"
    assert facts["gradient/decades_lost_init"] > 10
    assert facts["theory/measured_factor"] == pytest.approx(facts["theory/factor"], rel=0.05)
    backed(text, facts)


@pytest.mark.slow
def test_the_ledger_can_be_left_out_and_changes_nothing(train_py: Callable[..., Run]) -> None:
    with_it = train_py(*QUICK, name="with")
    without = train_py(*QUICK, "gradients.ledger=false", name="without")
    assert not (without.directory / "ledger.json").exists()
    assert "gradient/worst_blocks" not in without.summary
    strip = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in with_it.history]
    assert strip == [{k: v for k, v in r.items() if not k.startswith("time/")} for r in without.history]


PLAIN_SILU = {"shortcut": "none", "norm": "none"}
LEAKY = {"act": "tailored_relu", "act_slope": 0.8, "init": "delta_orthogonal"}


def test_the_best_measured_cure_is_quoted_beside_the_remedy(tmp_path: Path) -> None:
    runs = [
        finished(tmp_path, "plain_silu", 0.15, V=-4.0, **PLAIN_SILU),
        finished(tmp_path, "no_batchnorm", 0.96, norm="none"),
        finished(tmp_path, "plain_relu", 0.31, V=-3.0, **PLAIN_SILU | {"act": "relu"}),
        finished(tmp_path, "tanh", 0.5, V=-3.0, **PLAIN_SILU | {"act": "tanh"}),
        finished(tmp_path, "deep", 0.99, **PLAIN_SILU | {"depths": (1, 1, 1, 1)}),  # no cure, another network
    ]
    before = summary("vanishing", -4.0)
    facts = explain(before, [], {}, config(**PLAIN_SILU), collect(runs))
    text = facts["gradient/diagnosis"]
    assert facts["remedy/change"] == "model.shortcut=residual"
    assert (facts["cure/change"], facts["cure/tried"]) == ("model.act=tanh", 2)
    assert (
        "Without putting it back, the best of 2 measured is model.act=tanh: "
        "train/mAP50-95 0.15 (n=1) to 0.50 (n=1)." in text
    )
    backed(text, {**before, **facts})


def test_a_cure_that_is_better_than_putting_it_back_is_the_remedy(tmp_path: Path) -> None:
    runs = [
        finished(tmp_path, "plain_silu", 0.15, V=-4.0, **PLAIN_SILU),
        finished(tmp_path, "no_batchnorm", 0.96, norm="none"),
        *(finished(tmp_path, "delta", 1.0 - seed / 50, seed=seed, **PLAIN_SILU | LEAKY) for seed in (0, 1)),
    ]
    before = summary("vanishing", -4.0)
    facts = explain(before, [], {}, config(**PLAIN_SILU), collect(runs))
    text = facts["gradient/diagnosis"]
    change = "model.act=tailored_relu model.act_slope=0.8 model.init=delta_orthogonal"
    assert facts["remedy/change"] == facts["cure/change"] == change
    assert f"First remedy to try: {change}; measured train/mAP50-95: 0.15 (n=1) to 0.99 (n=2)." in text
    assert "It puts nothing back that is stripped, and is the best of 1 such measured." in text
    run = Config.model_validate({"model": PLAIN_SILU | LEAKY})  # the changes are of a valid configuration
    assert run.model.act_slope == 0.8


def test_where_no_cure_was_measured_or_none_helped_it_says_so(tmp_path: Path) -> None:
    before = summary("vanishing", -4.0)
    text = explain(before, [], {}, config(**PLAIN_SILU))["gradient/diagnosis"]
    assert "without putting back what is stripped was not measured under these conditions." in text
    runs = [
        finished(tmp_path, "plain_silu", 0.4, V=-4.0, **PLAIN_SILU),
        finished(tmp_path, "plain_relu", 0.2, V=-3.0, **PLAIN_SILU | {"act": "relu"}),
    ]
    facts = explain(before, [], {}, config(**PLAIN_SILU), collect(runs))
    assert facts["cure/change"] is None
    assert "Nothing that was measured without putting it back (1) did better." in facts["gradient/diagnosis"]
    # Nothing is stripped, or the network is somebody's: there is nothing to do without.
    for other in ({}, {"pretrained": "yolov8n.pt"}):
        assert not any(key.startswith("cure/") for key in explain(before, [], {}, config(**other)))


@pytest.mark.parametrize(
    ("cure", "counts"),
    [
        ({"shortcut": "skipinit"}, False),  # a shortcut, if with a factor
        ({"norm": "group"}, False),
        ({"shortcut": "gated"}, True),
        ({"norm": "weight"}, True),
    ],
)
def test_another_of_the_same_kind_puts_it_back(cure: dict[str, str], counts: bool, tmp_path: Path) -> None:
    runs = [finished(tmp_path, "mine", 0.9, **PLAIN_SILU | cure)]
    facts = explain(summary("vanishing", -4.0), [], {}, config(**PLAIN_SILU), collect(runs))
    assert facts["cure/tried"] == int(counts)


def test_what_strips_more_is_no_cure(tmp_path: Path) -> None:
    runs = [
        finished(tmp_path, "no_batchnorm_sigmoid", 0.05, norm="none", act="sigmoid"),
        finished(tmp_path, "plain_relu", 0.3, **PLAIN_SILU | {"act": "relu"}),
    ]
    facts = explain(summary("vanishing", -4.0), [], {}, config(norm="none", act="sigmoid"), collect(runs))
    assert facts["cure/tried"] == 0
