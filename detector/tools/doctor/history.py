"""What the history says, without a pass: the loss, the learning rate, the gradient, the number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median

from detector.analysis.evidence import metric_of
from detector.analysis.next_steps import HARDLY_FELL, LEARNT, POOR, loss_course
from detector.config.schema import Config
from detector.gradients.indices import FORWARD, limits
from detector.rows import Key, by_layer
from detector.tools.doctor.case import Case
from detector.tools.doctor.checks import Check, fails, ok, unknown
from detector.tools.doctor.passes import components

# docs/doctor.md says where these come from. All are of the weights' norm.
TOO_SHORT = 0.03  # all steps together, if each went the same way, moved the layer that moves most by less
TOO_LONG = 0.03  # a typical step moved it by more
REWRITTEN = 0.5  # a single step moved half of the layers by more
USUAL = 0.02  # the largest step of runs that learn
TYPICAL = 0.005  # a typical step of theirs
MORE = 20  # steps, to see whether more would help
STILL_FALLING = 0.1  # of the loss, in so many more steps
TRAINED = "vanishing", "underflow", "exploding"  # verdicts on a gradient that does not train the trunk


def check_loss(case: Case) -> Check:
    """Against its value at initialisation, unless the mAP says that the training images were learnt."""
    name, course = "loss", loss_course(case.rows, case.summary, case.config)
    lower = f"train.lr={case.config.train.lr / 10:.2g}"
    if case.summary.get("status") == "diverged":
        where = case.summary.get(Key.FIRST_BAD_LAYER)
        first = f", first in {where}" if where else ""
        evidence = f"not finite after {case.summary.get('steps')} steps{first}"
        says = "training diverged: the numbers stopped being finite"
        return fails(name, evidence, "diverged", says, lower, ("learning rate",))
    if course is None:
        return unknown(name, "fewer than two of them are in the history")
    began = "before the first step" if course.rows == 1 else f"at first (median of {course.rows} rows)"
    evidence = f"{course.start:.3g} {began}, {course.end:.3g} at the end"
    expected = 1.0 if case.config.model.pretrained else HARDLY_FELL
    if course.end <= expected * course.start:
        return ok(name, evidence)
    learnt = case.learnt
    if learnt is not None and learnt >= LEARNT:
        return ok(name, f"{evidence}; yet the training images are learnt, mAP {learnt:.2f}")
    says = f"the loss {'rose' if course.rose else 'hardly fell'}, and no other check says why"
    causes = ("learning rate", "targets", "signal", "gradient", "steps")
    # A lower learning rate teaches less in as many steps, and whether the steps are too long is for the next
    # check to say. Only what pretrained weights knew is undone by steps that would be short for new ones.
    change = lower if course.rose and case.config.model.pretrained else _longer(case.config)
    if learnt is not None and learnt >= POOR:
        says = f"{says}; but the training images were being learnt, mAP {learnt:.2f}"
        change = _longer(case.config)
    return fails(name, evidence, "loss", says, change, causes)


def check_learning_rate(case: Case) -> Check:
    """By how much the steps change the weights of the trunk."""
    name, train = "learning rate", case.config.train
    by_row = [[v for v in by_layer(row, Key.UPDATE_RATIO).values() if math.isfinite(v)] for row in case.rows]
    by_row = [ratios for ratios in by_row if ratios]
    if not by_row or not any(map(any, by_row)):
        return unknown(name, "no update of a layer is in the history")
    if case.summary.get(Key.VERDICT + Key.INIT) in FORWARD:
        return unknown(name, "the trunk gives no signal, see signal: what moves its weights says nothing")
    typical = median(max(ratios) for ratios in by_row)
    longest = max(median(ratios) for ratios in by_row)
    steps = int(case.summary.get("steps") or 1)
    path, nearby = typical * steps, f"train.lr={_nearby(train.lr, max(typical, longest), USUAL)}"
    evidence = (
        f"{train.optimizer} at {train.lr:g}: a typical step changes the trunk's layer that moves most by "
        f"{typical:.1g} of its norm, all steps together by no more than {path:.2g}; none changes half of the "
        f"layers by more than {longest:.1g}"
    )
    learnt = case.learnt
    if learnt is not None and learnt >= LEARNT:
        return ok(name, evidence)
    if typical > TOO_LONG or longest > REWRITTEN:
        return fails(
            name,
            evidence,
            "learning rate too high",
            "the learning rate is too high: a step moves the weights too far",
            nearby,
        )
    if path < TOO_SHORT:
        says = "the learning rate is too low for so few steps: the weights hardly move"
        # In a handful of steps even usual ones do not go far: then as long as they may be.
        change = f"train.lr={_nearby(train.lr, typical, TYPICAL)}" if typical < TYPICAL / 2 else nearby
        if 2 * train.warmup_steps > steps:
            says = f"the warm-up of {train.warmup_steps} steps takes most of the run: the weights hardly move"
            change = f"train.warmup_steps={max(1, steps // 10)}"
        return fails(name, evidence, "learning rate too low", says, change)
    return ok(name, evidence)


def _nearby(lr: float, step: float, aim: float) -> str:
    """The learning rate at which this step would be as long as `aim`, to one digit."""
    return f"{lr * aim / max(step, 1e-9):.0g}"


def check_gradient(case: Case) -> Check:
    """Whether the trunk's first layers get one, where the training images were not learnt."""
    name, config = "gradient", case.config
    verdict, index = case.summary.get(Key.VERDICT), case.metric(Key.VANISHING_INDEX)
    if verdict is None or index is None or not math.isfinite(index):
        return unknown(name, "no layer's gradient is in the history")
    layers = len(by_layer(case.rows[-1], Key.ACTIVATION_GRAD))
    low, high = limits(layers)
    evidence = f"{verdict}: V {index:+.2f} decades over {layers} layers, {low:+.1f} to {high:+.1f} is healthy"
    learnt = case.learnt
    if verdict not in TRAINED:
        return ok(name, evidence)
    if learnt is not None and learnt >= LEARNT:
        return ok(name, f"{evidence}; yet the training images are learnt, mAP {learnt:.2f}")
    says = {"exploding": "explodes on its way to the trunk's first layers"}.get(
        str(verdict), "vanishes on its way to the trunk's first layers, which are hardly trained"
    )
    change = "gradients.impose=null" if config.gradients.impose else components(case)
    return fails(name, evidence, f"{verdict} gradient", f"the gradient {says}", change)


def check_steps(case: Case, trained_on: Callable[[], tuple[float, float]]) -> Check:
    """Whether the training images were not learnt yet, and more steps teach more of them.

    Args:
        case: a run.
        trained_on: trains the network some steps further, and returns the loss before and after.
    """
    name, config = "steps", case.config
    done, learnt = int(case.summary.get("steps") or 0), case.learnt
    if learnt is None:
        return unknown(name, f"{done} steps, but no mAP of the training images")
    evidence = f"{done} steps, {case.metric('epochs') or 0:.3g} epochs; train mAP {learnt:.2f}"
    if learnt >= LEARNT:
        return ok(name, evidence)
    before, after = trained_on()
    evidence = f"{evidence}; {MORE} steps more take the loss from {before:.3g} to {after:.3g}"
    if after > (1 - STILL_FALLING) * before:
        return ok(name, evidence)
    return fails(name, evidence, "too few steps", "training ended before it was done", _longer(config))


def _longer(config: Config) -> str:
    if config.train.steps is not None:
        return f"train.steps={4 * config.train.steps}"
    return f"train.epochs={4 * (config.train.epochs or 1)}"


def score(case: Case) -> str:
    """What the run reached, in words."""
    parts = [
        f"{key.split('/')[0]} mAP50-95 {value:.2f}"
        for key in (Key.TRAIN_MAP, Key.VAL_MAP)
        if (value := case.metric(key)) is not None and math.isfinite(value)
    ]
    goal = "train" if metric_of(case.dataset.name) == Key.TRAIN_MAP else "val"
    return ", ".join(parts) + (f" ({goal} counts)" if parts else "")
