"""The layer in which numbers first go wrong is named: in the real detector, in a real step of training.

Twenty cases: five layers from the stem to the head, forward and backward, NaN and Inf.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from torch import Tensor, nn

from detector.config.schema import Config
from detector.data.batch import Batch
from detector.data.dataset import Dataset
from detector.data.loader import Loader
from detector.data.sources import load_dataset
from detector.gradients.recorder import GradientRecorder
from detector.models.detector import build_detector
from detector.models.loss import DetectionLoss
from detector.rundir import RunDir
from detector.runtime.random_state import seed_everything
from detector.training.nonfinite_guard import save_nonfinite_step
from detector.training.schedule import Schedule
from tests.gradients.test_nonfinite import Poison
from tests.training.harness import create_state, train_steps

LAYERS = (
    "backbone.stem.act",
    "backbone.p2_1.conv1.conv",
    "backbone.p3_7.conv2.norm",
    "neck.top_down.0.conv",
    "head.box.1.2",
)
BAD_STEP = 1


@pytest.fixture(scope="module")
def data(coco8: Path) -> tuple[Config, Dataset, list[Batch]]:
    """The baseline at 64 px, and the batches of its first steps."""
    config = Config.model_validate({"data": {"image_size": 64}, "train": {"threads": 1}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTOR_DATASETS", str(coco8))
        dataset = load_dataset("datasets/coco8.yaml")
    batches = Loader(dataset.splits["train"], config.data).train_batches(batch=4, seed=0, stop=BAD_STEP + 1)
    return config, dataset, list(batches)


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["NaN", "Inf"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_right_layer_is_named(
    data: tuple[Config, Dataset, list[Batch]], layer: str, direction: str, value: float, tmp_path: Path
) -> None:
    config, dataset, batches = data
    seed_everything(0)
    state = create_state(build_detector(config.model, len(dataset.names)), config.train)
    injected = state.model.get_submodule(layer)

    def poison(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        if state.step != BAD_STEP or not state.model.training:
            return output
        poisoned: Tensor = Poison.apply(output, value, direction == "backward")
        return poisoned

    injected.register_forward_hook(poison)
    said: list[str] = []
    facts = {"config": config.model_dump(mode="json"), "names": list(dataset.names)}
    outcome = train_steps(
        state,
        DetectionLoss(state.model, config.train),
        batches,
        Schedule(steps=4, batches_per_epoch=1, accumulate=1, record_every=1, evaluate_every=None),
        config.train,
        GradientRecorder(state.model.backbone_layers()),
        lambda row: None,
        lambda: False,
        failed=lambda step: save_nonfinite_step(
            step, RunDir(tmp_path), dataset, facts, state.device_summary, said.append
        ),
    )
    assert outcome.status == "diverged"
    assert state.step == BAD_STEP
    named = f"{direction} {layer} ({type(injected).__name__})"
    assert outcome.origin is not None
    assert outcome.origin.where == named
    assert named in said[0]
    kept = json.loads((tmp_path / "failure/failure.json").read_text())
    assert kept["step"] == BAD_STEP
    items = dataset.splits["train"]
    assert kept["images"] == [[str(items[index].image) for index in batches[BAD_STEP].indices]]
