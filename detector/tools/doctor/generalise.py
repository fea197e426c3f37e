"""Unseen images beside those trained on: overfitting, and the kinds of mistakes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from detector.analysis.evidence import metric_of
from detector.analysis.next_steps import LEARNT
from detector.data.sources import check_command
from detector.rows import Key
from detector.tools.doctor.case import Case, Seen
from detector.tools.doctor.checks import Check, fails, ok
from detector.tools.doctor.error_kinds import KINDS, ErrorKinds, Kind, error_kinds, sort_errors

GAP = 0.5  # of the training images' mAP
MENDED = 0.75  # of the training images' AP50
COSTLY = 0.15  # AP50
ONE_WAY = 0.8  # of a class's mistakes: a rule, not confusion

_CHANGES: Mapping[Kind, tuple[str, str]] = {
    "class": ("objects are found and given the wrong class", "train.cls_gain=1, and more images of each"),
    "place": ("objects are found, and the boxes lie badly", "train.steps and data.image_size up"),
    "both": ("boxes lie badly and have the wrong class", "train.steps up; then model.widths"),
    "duplicate": ("objects are found twice", "detector predict CHECKPOINT IMAGES --iou 0.5"),
    "background": ("objects are found where there is none", "more training images without objects"),
    "missed": ("objects are not found", "data.image_size up, and more training images of such objects"),
}  # fmt: skip


class Mistakes:
    """The kinds of mistakes on both splits, worked out once."""

    def __init__(self, case: Case) -> None:
        classes = len(case.dataset.names)
        self.seen = case.seen
        self.kinds: dict[str, ErrorKinds] = {
            split: error_kinds(seen.truths, seen.predictions, classes) for split, seen in self.seen.items()
        }
        self.goal = "train" if metric_of(case.dataset.name) == Key.TRAIN_MAP else "val"

    @property
    def one_rule(self) -> bool:
        """Whether mending one kind, class or place, makes unseen images as good as those trained on."""
        val, expected = self.kinds["val"], MENDED * self.kinds["train"].ap50
        return val.ap50 < expected <= val.ap50 + max(val.costs["class"], val.costs["place"])


def check_overfitting(case: Case, mistakes: Mistakes) -> Check:
    """Whether unseen images fare much worse, in more than one way."""
    name = "overfitting"
    train, val = (mistakes.seen[split] for split in ("train", "val"))
    evidence = (
        f"mAP {train.score:.2f} on {len(train.truths)} training images, "
        f"{val.score:.2f} on {len(val.truths)} of val"
    )
    if mistakes.goal == "train":
        return ok(name, f"{evidence}; on {case.dataset.name} memorising is the task")
    if train.score < LEARNT or not val.score < GAP * train.score:
        return ok(name, evidence)
    if mistakes.one_rule:
        return ok(name, f"{evidence}; one kind of mistake is all the difference, see errors")
    says = "the training images are learnt and unseen ones are not: there are too few of them, or too alike"
    change = "data.fliplr=0.5 data.translate=0.1 data.scale=0.3, and more training images"
    return fails(name, evidence, "overfitting", says, change)


def check_errors(case: Case, mistakes: Mistakes) -> Check:
    """Which kind of mistake costs most."""
    name, split = "errors", mistakes.goal
    kinds = mistakes.kinds[split]
    costs = ", ".join(f"{kind} {kinds.costs[kind]:.2f}" for kind in KINDS)
    evidence = f"AP50 {kinds.ap50:.2f} on {split}; without its mistakes of one kind higher by: {costs}"
    worst = kinds.worst
    if not kinds.costs[worst] >= COSTLY:
        return ok(name, evidence)
    says, change = _CHANGES[worst]
    look = f"{check_command(case.config.data, case.config.train.seed)} --sheet sheet.png"
    if worst == "class" and (rule := class_rule(mistakes.seen[split], case.dataset.names)):
        says, change = (
            f"the classes of {split} are numbered otherwise: {rule}",
            f"names in the data YAML; {look}",
        )
    if worst == "place" and (shift := common_shift(mistakes.seen[split])):
        says, change = f"the boxes of {split} are labelled beside the objects: {shift}", look
    return fails(
        name,
        evidence,
        f"errors of {worst}" if worst in ("class", "place") else f"{worst} errors",
        says,
        change,
    )


def class_rule(seen: Seen, names: tuple[str, ...]) -> str:
    """Where nearly each object of a class is taken for the same other one: `a is taken for b, …`; else ""."""
    taken: dict[int, list[int]] = {}
    for truth, found in zip(seen.truths, seen.predictions, strict=True):
        image = sort_errors(truth, found)
        for object_ in range(len(truth.classes)):
            about = np.flatnonzero(image.target == object_)
            if len(about):  # the best score first
                taken.setdefault(int(truth.classes[object_]), []).append(int(image.found.classes[about[0]]))
    rules = []
    for label, others in sorted(taken.items()):
        most = max(set(others), key=others.count)
        if most != label and others.count(most) >= ONE_WAY * len(others):
            rules.append(f"{names[label]} is taken for {names[most]} ({others.count(most)} of {len(others)})")
    return ", ".join(rules)


def common_shift(seen: Seen) -> str:
    """If boxes lie beside their objects in the same direction: by how much of their size; else ""."""
    shifts = []
    for truth, found in zip(seen.truths, seen.predictions, strict=True):
        image = sort_errors(truth, found)
        place = image.kinds == KINDS.index("place")
        for object_ in np.unique(image.target[place]):
            best = np.flatnonzero(place & (image.target == object_))[0]
            a, b = image.truth.boxes[object_], image.found.boxes[best]
            shifts.append(((a[:2] + a[2:]) - (b[:2] + b[2:])) / 2 / (a[2:] - a[:2]))
    if not shifts:
        return ""
    middle = np.median(shifts, 0)
    spread = np.quantile(shifts, 0.75, 0) - np.quantile(shifts, 0.25, 0)
    if not (np.abs(middle) > np.maximum(spread, 0.1)).any():
        return ""
    return f"by {middle[0]:+.0%} of their width and {middle[1]:+.0%} of their height (n = {len(shifts)})"
