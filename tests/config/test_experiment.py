"""Which keys make a run another experiment: one answer for suites, the comparison and the stored evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detector.analysis.evidence import FAILURES, settings
from detector.config.experiment import MARKERS, experiment, flat
from detector.config.schema import Config
from detector.config.section import COMPARED_OTHERWISE, MEASUREMENT, RUNTIME
from detector.jobs.runner import differences
from detector.tools.compare.history import Curves
from detector.tools.compare.runs import KEYS, Run

PLAIN = Config()


def changed(key: str) -> Config:
    """The default configuration with another value for one key, whatever its type."""
    section, name = key.split(".")
    inner = getattr(PLAIN, section).model_copy(update={name: "another"})
    return PLAIN.model_copy(update={section: inner})


def identity(config: dict[str, Any]) -> dict[str, Any]:
    return Run(
        directory=Path("run"), name="mine", seed=0, state="finished", notes=(), config=config,
        values=dict.fromkeys(KEYS, 0.0), verdicts=(None, None), data=None, dataset="coco8", commit=None,
        curves=Curves(),
    ).identity  # fmt: skip


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("key", MARKERS)
def test_every_key_is_either_marked_or_compared(key: str) -> None:
    other, mark = changed(key), MARKERS[key]
    assert bool(differences(PLAIN, other)) == (mark is not RUNTIME)
    compared = mark is None
    assert (experiment(PLAIN) != experiment(other)) == compared
    assert (identity(flat(PLAIN)) != identity(flat(other))) == compared
    without_effect = (*FAILURES, "model.scope")  # nothing is stripped here
    assert (settings(PLAIN) != settings(other)) == (compared and key not in without_effect)


def test_what_is_marked_and_why() -> None:
    """A new mark changes what counts as the same experiment: it belongs into this list, too."""
    marked = {
        mark: {key for key, found in MARKERS.items() if found is mark} for mark in MARKERS.values() if mark
    }
    assert marked[COMPARED_OTHERWISE] == {
        "data.path", "data.format", "data.on_error", "data.repair", "data.ignore_scores", "train.seed",
    }  # fmt: skip
    assert marked[MEASUREMENT] == {
        "train.eval_every", "train.eval_train", "train.metrics", "train.monitor", "gradients.every",
        "gradients.ledger", "gradients.points", "gradients.probe",
    }  # fmt: skip
    assert {key for key in marked[RUNTIME] if not key.startswith(("tracking.", "run."))} == {
        "data.allow_outside", "data.fallback", "data.cache", "data.workers", "data.timeout",
        "model.allow_noop", "train.channels_last", "train.device", "train.threads", "train.timeout",
    }  # fmt: skip


def test_keys_that_another_version_did_not_know_have_their_defaults() -> None:
    old = {key: value for key, value in flat(PLAIN).items() if key not in ("train.sync_norms", "data.mosaic")}
    assert experiment(old) == experiment(PLAIN)
    assert experiment(old | {"model.rings": 7}) == experiment(PLAIN) | {"model.rings": 7}
    assert experiment(old | {"train.timeout": 7}, RUNTIME)["train.timeout"] == 7
