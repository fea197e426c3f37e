"""The loss of several networks at once: of each what ultralytics' own is alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from detector.config.schema import ModelConfig, TrainConfig
from detector.models.detector import build_detector
from detector.models.loss import DetectionLoss
from detector.models.stacked_loss import StackedLoss

IMAGES, CLASSES = 2, 4


@pytest.mark.parametrize("objects", [(3, 0, 12), (0, 0, 0), (1, 5, 2)])
def test_each_network_has_its_own_loss_and_gradient(objects: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    predictions, targets, losses = [], [], []
    for count in objects:
        config = ModelConfig(depths=(1, 1, 1, 1), widths=(8,) * 5, neck_width=8)
        model = build_detector(config, CLASSES)
        losses.append(DetectionLoss(model, TrainConfig(box_gain=3.0)))
        predictions.append(model(torch.rand(IMAGES, 3, 64, 96)))
        targets.append({
            "batch_idx": torch.randint(0, IMAGES, (count,)).sort().values.float(),
            "cls": torch.randint(0, CLASSES, (count,)).float(),
            "bboxes": torch.rand(count, 4) * 0.4 + 0.3,
        })  # fmt: skip
    parts = "boxes", "scores"
    stacked = {name: torch.stack([own[name] for own in predictions]).detach() for name in parts}
    for tensor in stacked.values():
        tensor.requires_grad_()
    feats = [torch.stack(level) for level in zip(*(own["feats"] for own in predictions), strict=True)]
    found = StackedLoss(losses[0])({**stacked, "feats": feats}, targets)
    (found.sum() * IMAGES).backward()
    for at, (loss, own, wanted) in enumerate(zip(losses, predictions, targets, strict=True)):
        alone = loss(own, wanted)
        torch.testing.assert_close(found[at], alone.parts, rtol=1e-5, atol=1e-7)
        gradients = torch.autograd.grad(alone.total, [own[name] for name in parts])
        for name, gradient in zip(parts, gradients, strict=True):
            mine = stacked[name].grad
            assert mine is not None
            torch.testing.assert_close(mine[at], gradient, rtol=1e-4, atol=1e-7)
    assert objects == (0, 0, 0) or (found[:, 0] > 0).tolist() == [count > 0 for count in objects]


def test_at_a_step_no_number_is_sent_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU would wait for a GPU to have done all that was asked of it before."""
    model = build_detector(ModelConfig(depths=(1, 1, 1, 1), widths=(8,) * 5, neck_width=8), CLASSES)
    loss = DetectionLoss(model, TrainConfig())
    stacked, predictions = StackedLoss(loss), model(torch.rand(IMAGES, 3, 64, 64))
    wanted = {"batch_idx": torch.zeros(1), "cls": torch.ones(1), "bboxes": torch.full((1, 4), 0.5)}
    alone = loss(predictions, wanted).parts
    monkeypatch.setattr(
        "detector.models.stacked_loss.torch", SimpleNamespace(**vars(torch) | {"tensor": None})
    )
    one = {name: own[None] for name, own in predictions.items() if name != "feats"}
    (found,) = stacked(one | {"feats": [level[None] for level in predictions["feats"]]}, [wanted])
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-7)


def test_losses_whose_sums_are_not_known_do_not_fit() -> None:
    config = ModelConfig(depths=(1, 1, 1, 1), widths=(8,) * 5, neck_width=8)
    assert StackedLoss.fits(DetectionLoss(build_detector(config, CLASSES), TrainConfig()))
    without = build_detector(config.model_copy(update={"reg_max": 1}), CLASSES)
    assert not StackedLoss.fits(DetectionLoss(without, TrainConfig()))
