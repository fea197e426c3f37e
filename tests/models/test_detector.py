"""The assembled detector: its size, its shapes, its names, and what ablating leaves alone."""

import pytest
import torch
from torch import nn

from detector.config.schema import ModelConfig
from detector.models.blocks import Residual
from detector.models.detector import build_detector


def test_d40_is_the_documented_size() -> None:
    model = build_detector(ModelConfig(), num_classes=80)
    convs = [m for m in model.backbone.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 41
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(1.65e6, rel=0.01)


@pytest.mark.parametrize("size", [64, 96, 256])
def test_shapes(size: int) -> None:
    model = build_detector(ModelConfig(depths=(1, 1, 1, 1)), num_classes=7)
    out = model(torch.rand(2, 3, size, size))
    anchors = sum((size // stride) ** 2 for stride in (8, 16, 32))
    assert out["boxes"].shape == (2, 64, anchors)
    assert out["scores"].shape == (2, 7, anchors)
    assert [f.shape[2:] for f in out["feats"]] == [(size // s, size // s) for s in (8, 16, 32)]


def test_rectangular_images() -> None:
    model = build_detector(ModelConfig(depths=(1, 1, 1, 1)), num_classes=2)
    assert model(torch.rand(1, 3, 64, 128))["scores"].shape == (1, 2, 8 * 16 + 4 * 8 + 2 * 4)


def test_the_trunk_s_names_are_in_network_order_and_survive_every_ablation() -> None:
    base = build_detector(ModelConfig(), num_classes=80)
    names = list(base.backbone_layers())
    assert names == sorted(names)
    assert names[:6] == ["00_stem", "01_p2.down", "02_p2.0", "03_p2.1", "04_p3.down", "05_p3.0"]
    assert names[-1] == "22_p5.1"
    assert base.level_ends() == {"p3": "14_p3.9", "p4": "19_p4.3", "p5": "22_p5.1"}
    for change in ({"norm": "none"}, {"shortcut": "none"}, {"shortcut": "gated"}, {"act": "sigmoid"}):
        ablated = build_detector(ModelConfig(**change), num_classes=80)
        assert list(ablated.backbone_layers()) == names


def test_names_follow_the_order_in_which_the_layers_run() -> None:
    model = build_detector(ModelConfig(depths=(1, 2, 1, 1)), num_classes=2).eval()
    seen: list[str] = []
    for name, module in model.backbone_layers().items():
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
    model(torch.rand(1, 3, 64, 64))
    assert seen == list(model.backbone_layers())


def test_without_the_shortcut_the_trunk_is_a_plain_chain() -> None:
    # Silencing any one unit of a plain chain silences everything after it; a shortcut carries on.
    def output_varies(shortcut: str) -> bool:
        torch.manual_seed(0)
        model = build_detector(ModelConfig(shortcut=shortcut), num_classes=2).eval()
        nn.init.zeros_(model.backbone.p3_4.conv2.conv.weight)
        with torch.no_grad():
            one, two = (model.backbone(torch.rand(1, 3, 64, 64))[-1] for _ in range(2))
        return not torch.equal(one, two)

    assert output_varies("residual")
    assert not output_varies("none")


def test_components_are_injected_everywhere() -> None:
    model = build_detector(ModelConfig(act="tanh", norm="none"), num_classes=2)
    kinds = {type(m) for m in model.modules()}
    assert nn.SiLU not in kinds
    assert nn.BatchNorm2d not in kinds
    assert sum(isinstance(m, nn.Tanh) for m in model.modules()) == 41 + 9 + 12  # trunk, neck, head


def kinds_of(module: nn.Module) -> set[type[nn.Module]]:
    return {type(part) for part in module.modules()} & {nn.SiLU, nn.Tanh, nn.BatchNorm2d}


def test_the_scope_says_which_part_is_stripped() -> None:
    intact, stripped = {nn.SiLU, nn.BatchNorm2d}, {nn.Tanh}
    for scope, trunk, rest in (
        ("all", stripped, stripped),
        ("trunk", stripped, intact),
        ("neck_and_head", intact, stripped),
    ):
        config = ModelConfig(act="tanh", norm="none", shortcut="none", scope=scope)
        model = build_detector(config, num_classes=2)
        assert kinds_of(model.backbone) == trunk
        assert kinds_of(model.neck) == kinds_of(model.head) == rest
        assert isinstance(model.backbone.p3_0.shortcut, Residual) == (scope == "neck_and_head")


def test_a_frozen_backbone_keeps_its_weights_and_the_rest_trains() -> None:
    model = build_detector(ModelConfig(freeze="backbone"), num_classes=2)
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert all(p.requires_grad for p in model.head.parameters())
