"""The optimiser's parts, against closed forms."""

import math
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from torch import nn

from detector.config import names
from detector.config.schema import ModelConfig, TrainConfig
from detector.errors import UserError
from detector.models.detector import build_detector
from detector.registry import register
from detector.training.optimizer import MovingAverage, build_optimizer, learning_rate, parameter_groups
from tests.support import ROOT


def test_only_weights_that_multiply_activations_decay() -> None:
    model = build_detector(ModelConfig(depths=(1, 1, 1, 1)), num_classes=2)
    decayed, free = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    kinds = {id(p): type(m) for m in model.modules() for p in m.parameters(recurse=False)}
    assert {kinds[id(p)] for p in decayed["params"]} == {nn.Conv2d}
    biases_of_conv = [p for p in free["params"] if kinds[id(p)] is nn.Conv2d]
    assert all(p.dim() == 1 for p in biases_of_conv)
    count = sum(len(group["params"]) for group in (decayed, free))
    assert count == len(list(model.parameters()))


def test_frozen_weights_are_not_the_optimiser_s() -> None:
    model = build_detector(ModelConfig(freeze="backbone"), num_classes=2)
    optimizer = build_optimizer(model, TrainConfig())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held.isdisjoint(id(p) for p in model.backbone.parameters())
    assert held >= {id(p) for p in model.head.parameters()}


def test_the_backbone_can_learn_more_slowly() -> None:
    """One step of plain SGD moves a weight by lr times its gradient: a tenth of that in the backbone."""
    torch.manual_seed(0)
    model = build_detector(ModelConfig(depths=(1, 1, 1, 1)), num_classes=2)
    config = TrainConfig(lr=0.5, momentum=0.0, weight_decay=0.0, backbone_lr=0.1)
    optimizer = build_optimizer(model, config, model.backbone_modules())
    for group in optimizer.param_groups:
        group["lr"] = 0.5 * group["lr_factor"]  # as the engine does at each step
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        moved = 0.05 if name.startswith("backbone.") else 0.5
        torch.testing.assert_close(before[name] - p.detach(), torch.full_like(p, moved))
    members = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in model.parameters())  # each once


def test_nesterov_by_hand() -> None:
    # Sutskever et al. as torch writes it: v = μv + g; w -= lr (g + μv). Gradient 1 throughout.
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = build_optimizer(layer, TrainConfig(lr=0.1, momentum=0.5, weight_decay=0.0))
    w, v = 0.0, 0.0
    for _ in range(3):
        layer.weight.grad = torch.ones(1, 1)
        optimizer.step()
        v = 0.5 * v + 1
        w -= 0.1 * (1 + 0.5 * v)
    assert float(layer.weight.detach()) == pytest.approx(w)


def test_adamw_uses_the_momentum_as_its_first_beta() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), TrainConfig(optimizer="adamw", momentum=0.8))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["betas"] == (0.8, 0.999)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_fused_step_is_the_plain_one(name: str) -> None:
    """As torch computes it one operation at a time, but for rounding."""
    layers = nn.Linear(40, 30), nn.Linear(40, 30)
    layers[1].load_state_dict(layers[0].state_dict())
    config = TrainConfig(optimizer=name, lr=0.01)
    optimizers = [build_optimizer(layer, config) for layer in layers]
    for group in optimizers[1].param_groups:
        group["fused"] = group["foreach"] = False
    for _ in range(5):
        for layer, optimizer in zip(layers, optimizers, strict=True):
            generator = torch.Generator().manual_seed(1)
            for p in layer.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
    for p, q in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_the_cosine_and_its_warm_up() -> None:
    config = TrainConfig(lr=2.0, warmup_steps=4, final_lr=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(2.0 / 4)  # a quarter of the way up, decay not yet begun
    assert rates[50] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert rates[99] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.99))))
    assert rates[4:] == sorted(rates[4:], reverse=True)


@pytest.mark.parametrize(("schedule", "halfway"), [("linear", 0.6), ("constant", 1.0)])
def test_the_other_schedules(schedule: str, halfway: float) -> None:
    config = TrainConfig(lr=1.0, warmup_steps=0, final_lr=0.2, schedule=schedule)
    assert learning_rate(0, 10, config) == pytest.approx(1.0)
    assert learning_rate(5, 10, config) == pytest.approx(halfway)


def test_the_average_of_a_young_model_is_mostly_the_model() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    average = MovingAverage(layer, 0.9)
    expected = 0.0
    for count in range(200):
        nn.init.constant_(layer.weight, float(count))
        average.update_parameters(layer)
        # torch copies the weights at the first update, and averages from the second on.
        decay = min(0.9, (1 + count) / (10 + count)) if count else 0.0
        expected = decay * expected + (1 - decay) * count
    assert float(average.module.weight.detach()) == pytest.approx(expected, rel=1e-5)


def test_statistics_are_averaged_and_counters_copied() -> None:
    norm = nn.BatchNorm2d(3)
    average = MovingAverage(norm, 0.9)
    for _ in range(3):
        norm(torch.randn(4, 3, 5, 5) + 7)
        average.update_parameters(norm)
    assert int(average.module.num_batches_tracked) == 3
    assert 0 < float(average.module.running_mean.mean()) < 7


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("sgd", lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True, fused=True)),
        ("adamw", lambda groups: torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.999), fused=True)),
    ],
)
def test_the_steps_are_pytorch_s_own(name: str, reference: object) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 4), nn.Linear(3, 4)
    theirs.load_state_dict(ours.state_dict())
    config = TrainConfig(optimizer=name, lr=0.1, weight_decay=0.01)
    mine, other = build_optimizer(ours, config), reference(parameter_groups(theirs, 0.01))
    x = torch.randn(5, 3)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = model(x).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    for _ in range(3):
        step(ours, mine)
        step(theirs, other)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert all(p.requires_grad and p.is_leaf for p in ours.parameters())
    other.load_state_dict(deepcopy(mine.state_dict()))  # one's state is the other's
    mine.load_state_dict(deepcopy(other.state_dict()))
    step(ours, mine)
    step(theirs, other)
    assert torch.equal(ours.weight, theirs.weight)


def test_an_average_follows_one_model_and_holds_nothing_else() -> None:
    layer = nn.Linear(2, 2)
    average = MovingAverage(layer, 0.9)
    assert set(average.state_dict()) == {"n_averaged", "module.weight", "module.bias"}
    with pytest.raises(ValueError, match="the model that it was made from"):
        average.update_parameters(nn.Linear(2, 2))


NO_MOMENTUM = "ASGD", "Adadelta", "Adafactor", "Adagrad", "Rprop"


@pytest.mark.parametrize("name", names.TORCH["optimizer"])
def test_any_optimizer_of_torch_takes_the_steps_that_torch_takes(name: str) -> None:
    momentum = 0.0 if name in NO_MOMENTUM else 0.8
    decay = 0.0 if name == "Rprop" else 0.01
    config = TrainConfig(optimizer=name, lr=0.01, momentum=momentum, weight_decay=decay)
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    theirs = deepcopy(ours)
    kind = getattr(torch.optim, name)
    first = {"RMSprop": {"momentum": 0.8}, "SGD": {"momentum": 0.8}}
    betas = {"betas": (0.8, 0.999)} if momentum and name not in first else {}
    mine = build_optimizer(ours, config)
    other = kind(parameter_groups(theirs, decay), lr=0.01, **first.get(name, betas))
    x = torch.randn(4, 2, 6, 6)
    for _ in range(4):
        for model, optimizer in ((ours, mine), (theirs, other)):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    assert isinstance(mine, kind)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": "Adagrad"}, r"momentum=0\.9: Adagrad takes no momentum; write train\.momentum=0"),
        ({"optimizer": "Rprop", "momentum": 0.0}, r"weight_decay=0\.0005: Rprop takes no weight_decay"),
        ({"optimizer": "lbfgs"}, r"train\.optimizer=lbfgs: LBFGS doesn't support per-parameter options"),
    ],
)
def test_what_an_optimizer_does_not_take_is_an_error(
    settings: dict[str, object], said: str, own_names: None
) -> None:
    register.optimizer("lbfgs")(lambda params, lr, momentum, weight_decay=0.0: torch.optim.LBFGS(params, lr))
    with pytest.raises(UserError, match=said):
        build_optimizer(nn.Linear(2, 2), TrainConfig(**settings))


def test_an_optimizer_of_one_s_own(own_names: None) -> None:
    class Sign(torch.optim.Optimizer):
        def __init__(self, params: object, lr: float, momentum: float = 0.0, **others: object) -> None:
            super().__init__(params, {"lr": lr, "momentum": momentum, **others})

        @torch.no_grad()
        def step(self, closure: object = None) -> None:
            for group in self.param_groups:
                for p in group["params"]:
                    p -= group["lr"] * p.grad.sign()

    register.optimizer("sign")(Sign)
    layer = nn.Linear(2, 2)
    before = layer.weight.detach().clone()
    optimizer = build_optimizer(layer, TrainConfig(optimizer="sign", lr=0.25))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-4, 0.0]
    assert optimizer.param_groups[0]["momentum"] == 0.9
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), before - 0.25)


@pytest.mark.slow
def test_no_optimizer_of_torch_imports_the_compiler_before_the_first_step() -> None:
    code = (
        "import sys, torch; from torch import nn\n"
        "from detector.config.names import TORCH\n"
        "from detector.config.schema import TrainConfig\n"
        "from detector.training.optimizer import build_optimizer\n"
        "for name in TORCH['optimizer']:\n"
        f"    momentum = 0.0 if name in {NO_MOMENTUM} else 0.9\n"
        "    layer = nn.Linear(2, 2)\n"
        "    config = TrainConfig(optimizer=name, momentum=momentum, weight_decay=0.0)\n"
        "    optimizer = build_optimizer(layer, config)\n"
        "    layer(torch.ones(1, 2)).sum().backward()\n"
        "    optimizer.step()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
