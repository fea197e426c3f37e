"""Before a run: its data, its directory, and what it goes on from."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.config.loading import LoadedConfig, save
from detector.config.schema import Config
from detector.errors import UserError, say
from detector.runtime.ranks import Ranks

if TYPE_CHECKING:
    from detector.data.dataset import Dataset
    from detector.training.state import Learner


def load_data(
    loaded: LoadedConfig, fall_back: Callable[[], LoadedConfig], ranks: Ranks
) -> tuple[Dataset, LoadedConfig]:
    """Read the dataset; where COCO8 cannot be had, say so and go on with the built-in shapes."""
    from detector.data.coco8 import DatasetUnavailable
    from detector.data.sources import load_dataset

    data = loaded.config.data
    try:
        return load_dataset(data.path, data.on_error, allow_outside=data.allow_outside), loaded
    except DatasetUnavailable as error:
        if data.fallback == "none":
            raise
        banner = (
            f"\n*** COCO8 IS NOT HERE. {error}\n"
            "*** Training on the built-in `shapes` set instead, under that name and with its own schedule.\n"
            "*** (data.fallback=none turns this into an error.)\n"
        )
    if ranks.first:
        say(banner)
    data = (loaded := fall_back()).config.data
    return load_dataset(data.path, data.on_error, allow_outside=data.allow_outside), loaded


def new_directory(config: Config, label: str, ranks: Ranks) -> Path:
    """Make `run.dir`, or a new folder in runs/, and save the configuration in it.

    Raises:
        UserError: it holds a run, or files that look like one's; or it cannot be made.
    """
    time_of_day = time.strftime("%Y%m%d-%H%M%S")
    directory = Path(config.run.dir or f"runs/{label}-s{config.train.seed}-{time_of_day}")
    if not ranks.first:
        return directory  # the first process makes it, and says what it is called
    if os.path.lexists(directory / "history.jsonl"):
        raise UserError(f"run.dir={directory} holds a run already; --resume {directory} goes on with it")
    for name in ("config.yaml", "summary.json", "ledger.json", "checkpoints", "plots", "wandb"):
        if os.path.lexists(directory / name):
            raise UserError(
                f"run.dir={directory} holds {name} already, which the run would write; name another"
            )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        save(config, directory / "config.yaml")
    except OSError as error:
        raise UserError(f"run.dir={directory} cannot be made: {error.strerror}; name another") from error
    return directory


def read_run(checkpoint: Path, ranks: Ranks) -> dict[str, Any]:
    """What a run goes on from, read by the first process for all.

    Raises:
        UserError: it is missing, damaged, or not one of a run.
    """
    from detector.models.build import facts_of
    from detector.runtime.checkpoint_file import read

    def read_here() -> dict[str, Any]:
        if not os.path.lexists(checkpoint):
            run = checkpoint.parent.parent
            raise UserError(
                f"{checkpoint}: there is no checkpoint here: the run ended before its first step. Begin it "
                f"again: train.py --config {run / 'config.yaml'} run.dir=ANOTHER"
            )
        saved = read(checkpoint)
        facts_of(saved, checkpoint, ("names", "data_fingerprint", "wandb_id"))
        return saved

    return ranks.from_first(ranks.agree(lambda: read_here() if ranks.first else {}))


def conditions(config: Config, dataset: Dataset, learner: Learner) -> dict[str, object]:
    """What must be the same on all processes of a run."""
    where = f"{learner.device.type} in {learner.precision_name}"
    return {"data": dataset.fingerprint, "device": where} | config.model_dump(mode="json", exclude={"run"})
