"""A run on one page: what `summary.json` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from detector.analysis.diagnosis import diagnose
from detector.data.dataset import Dataset
from detector.data.problems import counted
from detector.gradients.nonfinite import NonFiniteOrigin
from detector.models.size import image_ms, measure
from detector.registry import plugins
from detector.rows import Key, own_metrics
from detector.runtime.device import device_name
from detector.training.engine import Status
from detector.training.provenance import provenance
from detector.training.schedule import Schedule
from detector.training.state import TrainState

METRICS = Key.TRAIN_MAP, Key.TRAIN_MAP50, Key.VAL_MAP, Key.VAL_MAP50, Key.LOSS


def summarize(
    name: str,
    seed: int,
    dataset: Dataset,
    status: Status,
    origin: NonFiniteOrigin | None,
    state: TrainState,
    schedule: Schedule,
    rows: Sequence[Mapping[str, float]],
    processes: int = 1,
) -> dict[str, object]:
    """Summarize a run from its history, oldest row first. A metric that was never measured is null.

    Args:
        name: of the ablation.
        seed: of the run.
        dataset: that it was trained on.
        status: how training ended.
        origin: after "diverged", where numbers first were not finite.
        state: at the end.
        schedule: of the run.
        rows: its history.
        processes: how many trained together.
    """
    others = dict.fromkeys(name for row in rows for name in own_metrics(row))
    keys = (*METRICS, *(f"{split}/{name}" for name in others for split in ("train", "val")))
    return {
        "ablation": name,
        "seed": seed,
        "dataset": dataset.name,
        "status": status,
        "steps": state.step,
        "epochs": schedule.epochs_of(state.step),
        "seconds": state.seconds,
        **{key: next((row[key] for row in reversed(rows) if counts(row, key)), None) for key in keys},
        **diagnose(rows, schedule.steps, diverged=status == "diverged"),
        Key.FIRST_BAD_LAYER: origin and origin.where,
        Key.FIRST_BAD_OPERATION: origin and origin.operation,
        "steps_skipped": state.skipped,
        "processes": processes,
        **({"stacked": state.stacked} if state.stacked > 1 else {}),
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "data_fingerprint": dataset.fingerprint,
        "pixel_fingerprint": dataset.pixels or None,
        **counted(dataset.notes),
        "precision": state.precision_name,
        "threads": torch.get_num_threads(),  # sums come out differently on another number of them
        "cpu": torch.backends.cpu.get_cpu_capability(),  # so they do with other instructions
        **({"plugins": {p.path.name: p.digest for p in plugins.values()}} if plugins else {}),
        **provenance(device_name(state.device)),
    }


def cost_of(state: TrainState, image_size: int) -> dict[str, object]:
    """What the network costs: FLOPs and time of one image, as it is evaluated; of a YOLO, its layers."""
    network = state.eval_model
    training = network.training
    network.eval()
    image = state.preprocess(torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8))
    with state.autocast():
        milliseconds = image_ms(network, image)
    network.train(training)
    told = state.model.architecture().get("description", {})
    layers = [layer for part in ("backbone", "head") for layer in told.get(part, ())]
    flops = measure(state.model, image_size).flops
    return {Key.FLOPS: flops, Key.IMAGE_MS: milliseconds, **({Key.NETWORK: layers} if layers else {})}


def counts(row: Mapping[str, float], key: str) -> bool:
    """Whether a row has the metric. The loss of a skipped step is not the run's: it was not trained on."""
    return key in row and not (key == Key.LOSS and Key.SKIPPED in row)
