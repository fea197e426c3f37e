"""torchvision's detectors: recorded through `watch`, and with another gradient imposed on their backbones."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection

from detector import watch
from detector.gradients.impose import ImposedProfile
from detector.gradients.profile import read_profile

pytestmark = pytest.mark.slow

DETECTORS = {  # the layers of the backbone, and the first and the last of them
    "retinanet_resnet50_fpn": (17, "00_backbone.body.conv1", "16_backbone.body.layer4.2"),
    "fcos_resnet50_fpn": (17, "00_backbone.body.conv1", "16_backbone.body.layer4.2"),
    "ssdlite320_mobilenet_v3_large": (20, "00_backbone.features.0.0.0", "19_backbone.features.1.3.0"),
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    size = {} if name.startswith("ssd") else {"min_size": 64, "max_size": 64}
    return getattr(detection, name)(weights=None, weights_backbone=None, num_classes=3, **size)


def batch() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    images = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    target = {"boxes": torch.tensor([[8.0, 8.0, 48.0, 40.0]]), "labels": torch.tensor([1])}
    return images, [target, target]


def loss_of(model: nn.Module) -> Tensor:
    torch.manual_seed(1)  # SSDLite has dropout
    return sum(model(*batch()).values())  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", DETECTORS)
def test_the_backbone_is_recorded_as_autograd_says(name: str) -> None:
    model = build(name)
    flow = watch(model)
    count, first, last = DETECTORS[name]
    assert (len(flow.layers), *list(flow.layers)[:: count - 1]) == (count, first, last)
    loss_of(model).backward()
    flow.step()
    flow.finish()
    outputs: dict[str, Any] = {}
    for at in (first, last):
        flow.layers[at].register_forward_hook(lambda _m, _i, out, at=at: outputs.setdefault(at, out))
    loss = loss_of(model)  # the same once more: in training, batch norm does not read its running statistics
    grads = torch.autograd.grad(loss, [outputs[first], outputs[last]])
    for at, grad in zip((first, last), grads, strict=True):
        assert flow.rows[0][f"activation_grad/{at}"] == pytest.approx(float(grad.double().norm()), rel=1e-4)
    assert math.isfinite(flow.rows[0]["gradient/vanishing_index"])
    assert 0 < flow.rows[0]["signal/input_dependence"] < 1


@pytest.mark.parametrize("name", DETECTORS)
def test_a_flat_gradient_is_imposed_on_the_backbone_and_the_forward_pass_stays(name: str) -> None:
    def run(impose: bool) -> tuple[dict[str, float], float, dict[str, Tensor]]:
        model = build(name)
        flow = watch(model)
        imposed = (
            ImposedProfile(flow.layers, read_profile("flat", list(flow.layers), steps=1, seed=0))
            if impose
            else None
        )
        if imposed:
            imposed.begin(0)
        loss = loss_of(model)
        loss.backward()
        flow.step(loss)
        flow.finish()
        raw = {name: float(norm) for name, norm in imposed.raw().items()} if imposed else {}
        if imposed:
            imposed.remove()
        assert not raw or list(raw) == list(flow.layers)
        row = flow.rows[0]
        head = {key: p.grad for key, p in model.named_parameters() if "backbone" not in key}
        return row, float(loss.detach()), head

    plain, loss, head = run(False)
    flat, same_loss, same_head = run(True)
    norms = [value for key, value in flat.items() if key.startswith("activation_grad/")]
    assert loss == same_loss
    assert all(torch.equal(head[key], same_head[key]) for key in head)
    assert norms == pytest.approx([norms[-1]] * len(norms), rel=1e-4)
    assert flat["gradient/vanishing_index"] == pytest.approx(0, abs=1e-4)
    assert abs(plain["gradient/vanishing_index"]) > 0.02  # there was something to flatten
    last = DETECTORS[name][2]
    assert flat[f"activation_grad/{last}"] == pytest.approx(plain[f"activation_grad/{last}"], rel=1e-6)
