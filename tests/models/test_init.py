"""Each initialisation scheme, against the deviation it promises."""

import math

import pytest
import torch
from torch import nn

from detector.config.schema import ModelConfig
from detector.models.blocks import ACTIVATIONS, NORMS, SHORTCUTS, Components, ConvNormAct
from detector.models.detector import build_detector
from detector.models.init import Draw, init_weights
from detector.models.shortcuts import HighwayGate
from detector.registry import register

PLAIN = Components(ACTIVATIONS["relu"], NORMS["none"], SHORTCUTS["none"])


@pytest.mark.parametrize(
    ("scheme", "std"),
    [
        ("he", math.sqrt(2 / (64 * 9))),
        ("lecun", math.sqrt(1 / (64 * 9))),
        ("xavier", math.sqrt(2 / (64 * 9 + 128 * 9))),
        ("naive", 0.01),
        ("default", math.sqrt(1 / (3 * 64 * 9))),
    ],
)
def test_the_weights_have_the_promised_deviation(scheme: str, std: float) -> None:
    torch.manual_seed(0)
    unit = ConvNormAct(64, 128, PLAIN)  # 73,728 weights: the sample deviation is within 1 % of the true one
    init_weights(unit, scheme)
    assert float(unit.conv.weight.detach().std()) == pytest.approx(std, rel=0.01)
    assert float(unit.conv.weight.detach().mean()) == pytest.approx(0.0, abs=4 * std / math.sqrt(73_728))
    assert unit.conv.bias is not None
    assert bool(unit.conv.bias.any()) == (scheme == "default")


def drawn(scheme: str, c_in: int, c_out: int, kernel: int = 3) -> torch.Tensor:
    torch.manual_seed(0)
    unit = ConvNormAct(c_in, c_out, PLAIN, kernel=kernel)
    init_weights(unit, scheme)
    return unit.conv.weight.detach()


def test_an_orthogonal_convolution_s_rows_are_orthonormal() -> None:
    # Saxe et al. 2014: W·Wᵀ = 1, each filter a row. With more outputs than inputs it is the columns.
    rows = drawn("orthogonal", 16, 24).flatten(1)  # (24, 144)
    assert torch.allclose(rows @ rows.T, torch.eye(24), atol=1e-5)
    tall = drawn("orthogonal", 16, 64, kernel=1).flatten(1)  # (64, 16)
    assert torch.allclose(tall.T @ tall, 64 / 16 * torch.eye(16), atol=1e-4)


def test_a_delta_orthogonal_convolution_is_an_orthogonal_matrix_at_its_centre() -> None:
    weight = drawn("delta_orthogonal", 24, 24)
    centre = weight[..., 1, 1]
    assert torch.allclose(centre.T @ centre, torch.eye(24), atol=1e-5)
    others = weight.clone()
    others[..., 1, 1] = 0
    assert not bool(others.any())
    # Xiao et al. 2018: so the convolution keeps every image's norm, at its border as well.
    images = torch.randn(5, 24, 9, 9)
    out = nn.functional.conv2d(images, weight, padding=1)
    assert torch.allclose(out.flatten(1).norm(dim=1), images.flatten(1).norm(dim=1), rtol=1e-5)
    # and the gradient's, which goes back through the transpose.
    assert torch.allclose(nn.functional.conv_transpose2d(out, weight, padding=1), images, atol=1e-5)


def test_where_the_width_changes_it_is_orthogonal_over_the_whole_kernel() -> None:
    assert torch.equal(drawn("delta_orthogonal", 16, 24), drawn("orthogonal", 16, 24))


def test_a_plain_orthogonal_chain_of_the_identity_is_an_isometry() -> None:
    torch.manual_seed(0)
    model = build_detector(
        ModelConfig(act="identity", norm="none", shortcut="none", init="delta_orthogonal"), num_classes=3
    )
    stage = [m for name, m in model.backbone.named_children() if name.startswith("p3_") and name != "p3_down"]
    x = torch.randn(2, 48, 8, 8)
    out = nn.Sequential(*stage)(x)
    assert torch.allclose(out.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-4)


def test_xavier_is_torch_s_own() -> None:
    torch.manual_seed(0)
    unit = ConvNormAct(16, 24, PLAIN)
    init_weights(unit, "xavier")
    torch.manual_seed(0)
    reference = nn.Conv2d(16, 24, 3)
    torch.manual_seed(0)
    ConvNormAct(16, 24, PLAIN)  # draws torch's default first, as above
    nn.init.xavier_normal_(reference.weight)
    assert torch.allclose(unit.conv.weight, reference.weight)


def test_he_keeps_the_second_moment_through_deep_relu() -> None:
    # He et al. 2015, eq. 10: E[x²] is constant through ReLU layers. Fully connected, to keep it exact.
    torch.manual_seed(0)
    x = torch.randn(2000, 256)
    start = float(x.square().mean())
    for _ in range(20):
        unit = ConvNormAct(256, 256, PLAIN, kernel=1)
        init_weights(unit, "he")
        x = unit(x[..., None, None])[..., 0, 0].detach()
    # One draw of 20 layers fluctuates by a factor of a few; torch's default init would give (1/6)^20.
    assert 0.1 < float(x.square().mean()) / start < 10


def test_naive_uses_the_given_deviation() -> None:
    unit = ConvNormAct(64, 128, PLAIN)
    init_weights(unit, "naive", std=0.1)
    assert float(unit.conv.weight.detach().std()) == pytest.approx(0.1, rel=0.02)


def test_a_gate_starts_by_carrying() -> None:
    gate = HighwayGate(8)
    init_weights(gate, "he")
    x, f = torch.ones(1, 8, 2, 2), torch.zeros(1, 8, 2, 2)
    assert torch.allclose(gate(x, f), torch.full_like(x, 1 - 1 / (1 + math.e)))


def test_the_head_starts_nearly_uniform_and_rare() -> None:
    torch.manual_seed(0)
    model = build_detector(ModelConfig(), num_classes=80)  # in training mode: norms use the batch
    with torch.no_grad():
        out = model(torch.rand(2, 3, 128, 128))
    # The bias expects 5 objects among the anchors of a 640 px image, over 80 classes.
    assert float(out["scores"][..., :256].sigmoid().median()) == pytest.approx(5 / 80 / 80**2, rel=1.0)
    assert float(out["boxes"].std()) < 2


@pytest.mark.slow
def test_seeds_are_honoured() -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return list(build_detector(ModelConfig(), num_classes=3).state_dict().values())

    assert all(torch.equal(a, b) for a, b in zip(weights(1), weights(1), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(weights(1), weights(2), strict=True))


@pytest.mark.usefixtures("own_names")
def test_a_scheme_of_one_s_own_draws_every_convolution_and_nothing_else() -> None:
    register.init("half")(lambda weight: weight.fill_(0.5))
    model = build_detector(ModelConfig(norm="none", shortcut="gated", init="half"), num_classes=3)
    predictors = {id(m) for m in (*(b[-1] for b in model.head.box), *(b[-1] for b in model.head.cls))}
    gates = {id(m.gate) for m in model.modules() if isinstance(m, HighwayGate)}
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and id(module) not in predictors | gates:
            assert bool((module.weight == 0.5).all())
            assert module.bias is None or not bool(module.bias.any())
        elif id(module) in gates:
            assert not bool(module.weight.any())
            assert bool((module.bias == -1).all())


@pytest.mark.usefixtures("own_names")
def test_a_block_of_one_s_own_says_what_is_drawn_in_it() -> None:
    class Mine(nn.Module):
        def __init__(self, channels: int, parts: Components) -> None:
            super().__init__()
            self.drawn, self.left = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)

        def init_weights(self, draw: Draw) -> None:
            draw(self.drawn)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.left(self.drawn(x))

    register.block("mine")(Mine)
    config = ModelConfig(block="mine", init="naive", init_std=1e-6)
    model = build_detector(config, num_classes=3)
    block = model.backbone.p3_0
    assert isinstance(block, Mine)
    assert (
        float(block.drawn.weight.detach().abs().max()) < 1e-4 < float(block.left.weight.detach().abs().max())
    )
    assert not bool(block.drawn.bias.any())
    assert model(torch.rand(1, 3, 64, 64))["scores"].shape == (1, 3, 84)
