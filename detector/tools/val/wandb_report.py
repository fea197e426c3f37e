"""An evaluation as a W&B run of its own, of the job type "val"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.config.schema import Config
from detector.loggers.base import PredictionImage
from detector.loggers.wandb_logger import WandbLogger
from detector.loggers.wandb_session import Start

if TYPE_CHECKING:
    import wandb


def log_evaluation(
    directory: Path,
    config: Config,
    name: str,
    dataset: str,
    content: Mapping[str, Any],
    plots: Sequence[Path],
    worst: Sequence[PredictionImage],
) -> None:
    """Send the numbers, the table of classes and the pictures; return when they are sent or given up.

    Args:
        directory: of the evaluation; an offline run is stored in `wandb/` inside it.
        config: of the run that made the checkpoint: its project, entity and tags are used.
        name: of that run: the evaluation joins its group.
        dataset: the data's name.
        content: as `document` gives it.
        plots: pictures to show.
        worst: images with boxes.
    """
    tracking = config.tracking.model_copy(update={"wandb": "auto"})  # --wandb was asked for
    config = config.model_copy(update={"tracking": tracking})
    logger = WandbLogger(Start(directory, config, name, dataset, job_type="val"))
    split, step = content["split"], content["step"] or 0
    metrics = {f"{split}/{key}": value for key, value in content["metrics"].items()}

    def send(run: wandb.Run) -> None:
        import wandb

        columns = list(content["classes"][0])
        table = wandb.Table(columns, [list(row.values()) for row in content["classes"]])
        pictures = {f"evaluation/{path.stem}": wandb.Image(str(path)) for path in plots}
        run.log({"evaluation/classes": table, **pictures}, step=step)

    logger.log({"step": step, **metrics})
    logger.send(send)
    logger.predictions(step, worst)
    keys = ("checkpoint", "data", "split", "images", "boxes", "image_size", "best_f1", "speed")
    logger.finish(metrics | {key: content[key] for key in keys}, None)
    logger.close()
