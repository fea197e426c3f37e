"""What a few training steps show: can a network memorise one batch, and would more steps have helped?"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from copy import deepcopy
from itertools import repeat
from statistics import fmean, median
from typing import NamedTuple

from detector.analysis.next_steps import LEARNT
from detector.config.schema import TrainConfig
from detector.data.batch import Batch
from detector.data.loader import Loader
from detector.models.base import DetectionModel, freeze
from detector.models.build import build_model
from detector.models.loss import DetectionLoss
from detector.runtime.random_state import preserve_random_state, seed_everything
from detector.tools.doctor.case import Case, Signal, signal_of
from detector.tools.doctor.checks import Check, fails, ok, unknown
from detector.tools.doctor.history import MORE
from detector.training.clipping import clip_gradients
from detector.training.engine import backward
from detector.training.optimizer import set_learning_rate
from detector.training.state import TrainState

IMAGES = 4
STEPS = 60  # configs/coco8_fast.yaml, with the same optimizer and learning rate, memorises COCO8 in 50
SETTINGS = {"optimizer": "adamw", "lr": 0.004, "momentum": 0.9, "weight_decay": 0.0, "clip": 10.0}
SCHEDULE = {"schedule": "constant", "warmup_steps": 5}
ENDLESS = 10**9
MEMORISED = 0.4  # of the first loss: see docs/doctor.md

NAME = "memorising"


class Trial(NamedTuple):
    """How memorising one batch went."""

    losses: list[float]  # one a step
    seconds: float
    signal: Signal | None  # of the network before the first step
    model: DetectionModel  # after the last

    @property
    def share(self) -> float:
        """The loss that is left, as a share of the first."""
        return median(self.losses[-3:]) / self.losses[0]


def memorise(case: Case, seconds: float) -> Trial:
    """Train a new network until it has memorised a batch, at most `STEPS` steps or so many seconds."""
    with preserve_random_state(case.device):
        seed_everything(case.config.train.seed)
        model = build_model(case.config.model, case.dataset.names).model
        loader = Loader(case.images("train")[:IMAGES], case.config.data.model_copy(update={"cache": False}))
        batch = next(loader.eval_batches(batch=IMAGES, workers=0)).to(case.device)
        train = case.config.train.model_copy(update={**SETTINGS, **SCHEDULE})
        began = time.monotonic()
        losses: list[float] = []
        signal = signal_of(model.to(case.device), [batch], case.device)
        for loss in steps(case, model, train, repeat(batch)):
            losses.append(loss)
            trial = Trial(losses, time.monotonic() - began, signal, model)
            over = len(losses) == STEPS or trial.seconds > seconds
            if over or not math.isfinite(loss) or trial.share <= MEMORISED:
                break
    return trial


def train_on(case: Case) -> tuple[float, float]:
    """Train the run's network `MORE` steps further, at half its learning rate; the loss before and after."""
    config = case.config
    with preserve_random_state(case.device):
        seed_everything(config.train.seed)
        loader = Loader(case.dataset.splits["train"], config.data.model_copy(update={"cache": False}))
        batches = loader.train_batches(batch=config.train.batch, seed=config.train.seed, workers=0)
        train = config.train.model_copy(update={"lr": config.train.lr / 2, **SCHEDULE})
        model = deepcopy(case.model)
        freeze(model, config.model.freeze)
        losses = [loss for loss, _ in zip(steps(case, model, train, batches), range(MORE), strict=False)]
    return fmean(losses[:3]), fmean(losses[-3:])


def steps(case: Case, model: DetectionModel, train: TrainConfig, batches: Iterator[Batch]) -> Iterator[float]:
    """Train a network, and yield each step's loss before the step is taken."""
    state = TrainState.create(model, train, case.device)
    loss_fn = DetectionLoss(state.model, train)
    for step, batch in enumerate(batches):
        state.train_mode()
        set_learning_rate(state.optimizer, step, ENDLESS, train)
        state.optimizer.zero_grad(set_to_none=True)
        yield float(backward(state, loss_fn, batch).parts.sum())
        state.scaler.unscale_(state.optimizer)
        clip_gradients(state.parameters, train.clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()


def check_memorising(trial: Trial, seconds: float, learnt: float | None = None) -> Check:
    """Whether it could; what was learnt in the run itself, it can."""
    count, first, last = len(trial.losses), trial.losses[0], trial.losses[-1]
    evidence = f"loss {first:.3g} to {last:.3g} in {count} steps on {IMAGES} images, {trial.seconds:.0f} s"
    if trial.share <= MEMORISED:
        return ok(NAME, evidence)
    if math.isfinite(last) and count < STEPS:
        return unknown(NAME, f"{evidence}; that was all of --seconds {seconds:g}")
    if learnt is not None and learnt >= LEARNT:
        return ok(NAME, f"{evidence}; yet the training images are learnt, mAP {learnt:.2f}")
    return fails(
        NAME,
        f"{evidence}; {MEMORISED:g} of the first is expected",
        "network",
        "a new network of this kind cannot memorise a few images, with settings that suit the compact one",
        "detector info, then the keys under model one by one back to those of configs/coco8.yaml",
        symptom_of=("targets", "signal", "gradient"),
    )
