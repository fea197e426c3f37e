"""Labels and boxes as the network gets them: what reading found, and what a trained network says of them."""

from __future__ import annotations

import numpy as np
import torch

from detector.analysis.evidence import metric_of
from detector.data.loader import Loader
from detector.data.sources import check_command
from detector.rows import Key
from detector.tools.doctor.case import Case, Seen
from detector.tools.doctor.checks import Check, fails, ok, share_of
from detector.tools.doctor.error_kinds import KINDS, RIGHT, sort_errors

NAME = "labels"

MANY = 0.25  # of all boxes, or of the training images
FOUND = 0.7  # of the labelled objects
UNLABELLED = 0.25  # times as many detections on nothing as there are labelled objects
LOST = 2.0  # pixels a side, below which augmentation has cut a box to nothing

# What reading finds that can by itself explain a low mAP: kind -> the cause, and in how many boxes or images.
_BOXES = {"clipped": "boxes that leave the image", "double-box": "objects that are labelled twice"}
_IMAGES = {"unlabelled": "images without a label file", "labels-lost": "images that lost all their labels"}


def check_labels(case: Case) -> Check:
    """Look at what reading said, at training batches, and at what the trained network finds unlabelled."""
    data, notes = case.config.data, {note.kind: note for note in case.dataset.notes}
    items = case.dataset.splits["train"]
    boxes = sum(len(item.boxes) for split in case.dataset.splits.values() for item in split)
    look = check_command(data, case.config.train.seed)
    told = [note for note in case.dataset.notes if note.severity in ("error", "repair", "warning")]
    kinds = ", ".join(f"{note.kind} {note.count}" for note in told)
    number = sum(note.count for note in told)
    problems = f"{number} problem{'' if number == 1 else 's'} ({kinds})" if told else "no problems"
    evidence = f"{len(items)} training images, {boxes} boxes in all splits, {problems}"
    if "corners" in notes:
        says = "the labels are x1 y1 x2 y2 where cx cy w h is expected"
        return fails(NAME, f"{evidence}: {notes['corners'].first}", "corner labels", says, look)
    for kind, words in (_BOXES | _IMAGES).items():
        many = boxes if kind in _BOXES else len(items)
        if kind in notes and notes[kind].count >= MANY * many:
            share = f"{evidence}: {notes[kind].count} {words}"
            return fails(NAME, share, kind, f"there are too many {words}", look)
    skipped = sum(note.count for note in case.dataset.notes if note.severity == "error")
    if skipped >= MANY * (boxes + skipped):
        return fails(
            NAME, f"{evidence}: {skipped} left out", "skipped", "too much of the data is skipped", look
        )
    taught, asked = (
        {int(label) for item in case.dataset.splits[split] for label in item.classes}
        for split in ("train", "val")
    )
    missing = [case.dataset.names[label] for label in sorted(asked - taught)]
    if metric_of(case.dataset.name) == Key.VAL_MAP and len(missing) >= MANY * max(len(asked), 1):
        evidence = f"{evidence}; {len(missing)} of the {len(asked)} classes of val are not in train: "
        says = "classes of val are not in train, so that they cannot be learnt"
        return fails(NAME, evidence + ", ".join(missing[:3]), "classes missing", says, look)
    if told:
        evidence = f"{evidence}, too few of a kind to explain a low mAP"
    count, lost, before = _augmented(case)
    evidence = (
        f"{evidence}; {count} boxes in the first training batches, {share_of(lost)} of them less than "
        f"{LOST:g} px wide or high"
    )
    if lost - before >= MANY:
        says = "augmentation cuts away the objects"
        return fails(NAME, evidence, "augmentation", says, "data.translate=0.1 data.scale=0.3 data.mosaic=0")
    for split, seen in case.seen.items() if case.checkpoint is not None else ():
        if (found := unlabelled(seen)) is not None:
            labelled = sum(len(truth.classes) for truth in seen.truths)
            evidence = (
                f"{evidence}; on {len(seen.truths)} {split} images the network is as sure of {found} objects "
                f"that are not labelled as of the {labelled} that are"
            )
            says = f"objects are not labelled: in {split} the network finds them where no label is"
            return fails(NAME, evidence, "labels missing", says, f"{look} --sheet sheet.png")
    return ok(NAME, evidence)


def unlabelled(seen: Seen) -> int | None:
    """How many objects without a label there seem to be on a split; None if too few to tell from mistakes.

    A detector that finds the labelled objects and, just as sure, others where there is no label at all, and
    that hardly makes any other mistake, is right about those (the idea of Northcutt et al. 2021, "Confident
    Learning", arXiv:1911.00068, without its estimate). As sure: above the lowest quarter of the right ones.
    """
    images = [sort_errors(truth, found) for truth, found in zip(seen.truths, seen.predictions, strict=True)]
    kinds = np.concatenate([image.kinds for image in images])
    scores = np.concatenate([image.found.scores for image in images])
    labelled, right = sum(len(image.truth.classes) for image in images), int((kinds == RIGHT).sum())
    if not right or right < FOUND * labelled:
        return None
    sure = kinds[scores >= np.quantile(scores[kinds == RIGHT], 0.25)]
    on_nothing = int((sure == KINDS.index("background")).sum())
    others = sum(int((sure == KINDS.index(kind)).sum()) for kind in ("class", "place", "both"))
    return on_nothing if on_nothing >= UNLABELLED * labelled and others <= on_nothing / 2 else None


def _augmented(case: Case) -> tuple[int, float, float]:
    """Boxes in the first training batches, which share is next to nothing, and which is unaugmented."""
    config = case.config
    loader = Loader(case.dataset.splits["train"], config.data.model_copy(update={"cache": False}))
    augmented = loader.train_batches(
        batch=config.train.batch, seed=config.train.seed, stop=4, epochs=config.train.epochs, workers=0
    )
    found = []
    for batches in (augmented, case.batches("train")):
        sides = torch.cat([batch.boxes[:, 2:].amin(1) for batch in batches]) * config.data.image_size
        found.append((len(sides), float((sides < LOST).sum()) / max(len(sides), 1)))
    (count, lost), (_, before) = found
    return count, lost, before
