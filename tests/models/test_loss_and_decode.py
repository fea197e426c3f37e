"""The loss adapter and the decoding, against ultralytics' and torchvision's own."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision.ops import nms

from detector.config.schema import ModelConfig, TrainConfig
from detector.models.decode import anchor_points, best_class, decode, postprocess
from detector.models.detector import Detector, Predictions, build_detector
from detector.models.loss import DetectionLoss
from detector.runtime.ultralytics_import import import_ultralytics

TARGETS = {
    "batch_idx": torch.tensor([0.0, 0.0, 1.0]),
    "cls": torch.tensor([2.0, 0.0, 1.0]),
    "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.6], [0.2, 0.3, 0.2, 0.2], [0.7, 0.6, 0.5, 0.3]]),
}


def small() -> Detector:
    torch.manual_seed(0)
    return build_detector(ModelConfig(depths=(1, 1, 1, 1)), num_classes=3)


def test_the_loss_and_its_gradient_are_ultralytics_own() -> None:
    """Their loss_fn on their kind of wrapper gives bit-identical numbers."""

    class Wrapper(nn.Module):
        def __init__(self, detect: nn.Module) -> None:
            super().__init__()
            self.model = nn.ModuleList([detect])
            self.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)

    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    ours, theirs = small(), small()
    loss = DetectionLoss(ours, TrainConfig())(ours(x), TARGETS)
    loss.total.backward()

    theirs.stride, theirs.nc = torch.tensor([8.0, 16.0, 32.0]), 3
    loss_fn = import_ultralytics("utils.loss").v8DetectionLoss(Wrapper(theirs))
    expected, items = loss_fn(theirs(x), TARGETS)
    expected.sum().backward()

    assert torch.equal(loss.total, expected.sum())
    assert torch.equal(loss.parts, torch.stack(list(items.values())))
    assert float(loss.total.detach()) == pytest.approx(2 * float(loss.parts.sum()), rel=1e-6)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name


def test_images_without_objects_have_a_loss_and_a_gradient() -> None:
    model = small()
    empty = {"batch_idx": torch.zeros(0), "cls": torch.zeros(0), "bboxes": torch.zeros(0, 4)}
    loss = DetectionLoss(model, TrainConfig())(model(torch.rand(2, 3, 64, 64)), empty)
    loss.total.backward()
    assert float(loss.parts[0]) == float(loss.parts[2]) == 0.0
    assert float(loss.parts[1]) > 0


def test_anchor_points_are_ultralytics_own() -> None:
    feats = [torch.zeros(1, 1, 8, 12), torch.zeros(1, 1, 4, 6), torch.zeros(1, 1, 2, 3)]
    centres, strides = import_ultralytics("utils.tal").make_anchors(
        feats, torch.tensor([8.0, 16.0, 32.0]), 0.5
    )
    ours, sizes = anchor_points([(8, 12), (4, 6), (2, 3)], (8, 16, 32))
    assert torch.equal(ours, centres * strides)
    assert torch.equal(sizes, strides)


def test_a_box_decodes_to_the_distances_that_its_distributions_say() -> None:
    # One cell of stride 8 at (4, 4); every side's mass on one bin: left 1, top 0, right 3, bottom 2 strides.
    logits = torch.full((1, 4, 16), -1e4)
    for side, bin_ in enumerate((1, 0, 3, 2)):
        logits[0, side, bin_] = 1e4
    preds: Predictions = {
        "boxes": logits.reshape(1, 64, 1),
        "scores": torch.zeros(1, 2, 1),
        "feats": [torch.zeros(1, 1, 1, 1)],
    }
    boxes, scores = decode(preds, (8,))
    assert boxes.tolist() == [[[4 - 8, 4 - 0, 4 + 24, 4 + 16]]]
    assert scores.tolist() == [[[0.5, 0.5]]]


def test_a_distribution_halfway_between_two_bins() -> None:
    logits = torch.full((1, 4, 16), -1e4)
    logits[0, :, 2:4] = 1e4
    preds: Predictions = {
        "boxes": logits.reshape(1, 64, 1),
        "scores": torch.zeros(1, 1, 1),
        "feats": [torch.zeros(1, 1, 1, 1)],
    }
    assert decode(preds, (8,))[0].tolist() == [[[4 - 20, 4 - 20, 4 + 20, 4 + 20]]]


def test_selection_is_torchvision_s_nms_class_by_class() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(200, 2, generator=generator) * 100
    boxes = torch.cat((corner, corner + 10 + torch.rand(200, 2, generator=generator) * 40), 1)
    scores = torch.rand(200, 3, generator=generator)
    found = postprocess(boxes, scores, confidence=0.3, iou=0.5, limit=1000)
    expected = set()
    for label in range(3):
        index = (scores[:, label] > 0.3).nonzero()[:, 0]
        for i in index[nms(boxes[index], scores[index, label], 0.5)].tolist():
            expected.add((i, label))
    got = {
        ((boxes == box).all(1).nonzero()[0, 0].item(), int(label))
        for box, label in zip(found.boxes, found.classes, strict=True)
    }
    assert got == expected
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert len(postprocess(boxes, scores, limit=7).boxes) == 7


def test_nothing_found_and_nothing_finite_are_empty_not_errors() -> None:
    boxes = torch.zeros(5, 4)
    assert len(postprocess(boxes, torch.zeros(5, 3)).boxes) == 0
    assert len(postprocess(boxes, torch.full((5, 3), math.nan)).boxes) == 0


def test_only_the_best_class_of_a_box_is_left() -> None:
    scores = torch.tensor([[[0.2, 0.9, 0.3], [0.4, 0.4, 0.1], [0.0, 0.0, 0.0]]])
    expected = torch.tensor([[[0.0, 0.9, 0.0], [0.4, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    torch.testing.assert_close(best_class(scores), expected, rtol=0, atol=0)
