"""Several networks as one: each gets what it gets alone, in float64 to the last digits."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detector.config.schema import ModelConfig
from detector.errors import UserError
from detector.gradients.impose import ImposedProfile
from detector.gradients.ledger import Ledger
from detector.gradients.profile import Profile
from detector.gradients.recorder import GradientRecorder
from detector.models.detector import Detector, build_detector
from detector.models.stacked import StackedNetworks, can_be_stacked, template_of

SMALL: dict[str, Any] = {"depths": (1, 2, 1, 1), "widths": (8,) * 5, "neck_width": 8, "reg_max": 4}
VARIANTS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "no_residual": {"shortcut": "none"},
    "no_batchnorm": {"norm": "none"},
    "plain_sigmoid": {"norm": "none", "shortcut": "none", "act": "sigmoid"},
    "tanh": {"act": "tanh"},
    "gated": {"shortcut": "gated"},
    "group": {"norm": "group", "shortcut": "skipinit"},
    "standardised": {"norm": "weight"},
    "fixup": {"block": "fixup", "norm": "none", "shortcut": "none"},
    "tailored": {"act": "tailored_relu", "norm": "none"},
    "delta_orthogonal": {"init": "delta_orthogonal"},
    "frozen": {"freeze": "backbone"},
}
SEEDS = 3


def networks(**changes: Any) -> list[Detector]:
    made = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        made.append(build_detector(ModelConfig(**SMALL | changes), 2).double().train())
    return made


def images(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.rand(2, 3, 64, 64, generator=generator, dtype=torch.float64) for _ in range(SEEDS)]


def loss(predictions: dict[str, Tensor]) -> Tensor:
    return (predictions["boxes"].square().mean() + predictions["scores"].sin().mean()) * 10


def each(output: dict[str, Any]) -> list[dict[str, Tensor]]:
    """The part of each network."""
    return [{name: output[name][at] for name in ("boxes", "scores")} for at in range(SEEDS)]


def total(predictions: Sequence[dict[str, Tensor]]) -> Tensor:
    return torch.stack([loss(own) for own in predictions]).sum()


def pass_alone(models: Sequence[nn.Module], step: int) -> list[dict[str, Tensor]]:
    found = [model(x) for model, x in zip(models, images(step), strict=True)]
    for predictions in found:
        loss(predictions).backward()
    return found


def assert_close(found: Tensor | None, expected: Tensor | None) -> None:
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        size = expected.double().norm().clamp_min(1e-30)
        assert ((found.double() - expected.double()).norm() / size) < 1e-9


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_gradients_and_statistics_are_those_of_each_network_alone(variant: str) -> None:
    alone, together = networks(**VARIANTS[variant]), networks(**VARIANTS[variant])
    stacked = StackedNetworks(together, template_of(together[0]))
    expected = [pass_alone(alone, step) for step in (0, 1)]
    for step in (0, 1):  # two micro-batches: gradients add up
        found = each(stacked.forward(images(step)))
        total(found).backward()
        for own, other in zip(found, expected[step], strict=True):
            assert_close(own["boxes"], other["boxes"])
            assert_close(own["scores"], other["scores"])
    stacked.collect()
    for own, other in zip(together, alone, strict=True):
        for name, p in own.named_parameters():
            assert_close(p.grad, other.get_parameter(name).grad)
        for name, buffer in own.named_buffers():
            assert_close(buffer, other.get_buffer(name))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_in_float32_are_near_those_of_float64(batch: int, layout: torch.memory_format) -> None:
    alone = networks()
    together = [model.to(torch.float32, memory_format=layout) for model in networks()]
    given = [x[:batch] for x in images(0)]
    for model, x in zip(alone, given, strict=True):
        loss(model(x)).backward()
    stacked = StackedNetworks(together, template_of(together[0]))
    total(each(stacked.forward([x.float().to(memory_format=layout) for x in given]))).backward()
    stacked.collect()
    for model, other in zip(together, alone, strict=True):
        for name, p in model.named_parameters():
            expected = other.get_parameter(name).grad
            assert p.grad is not None and expected is not None and p.grad.stride() == p.stride()
            assert (p.grad - expected).norm() <= 1e-2 * expected.norm(), name


def record(models: list[Detector], passes: Callable[[list[Detector]], None]) -> list[dict[str, float]]:
    """What the recorder and the ledger, both at once, see of each network while one passes through all."""
    watchers = []
    for model in models:
        layers = model.backbone_layers()
        inside = {"000_neck": model.neck.lateral[0], "001_conv": model.backbone.p3_1.conv2.conv}  # type: ignore[union-attr]
        recorder = GradientRecorder(layers, levels=model.level_ends(), inside=inside)
        ledger = Ledger(layers)
        recorder.begin()
        ledger.begin()
        watchers.append((recorder, ledger))
    passes(models)
    records = []
    for recorder, ledger in watchers:
        recorder.gradients()
        factors = {f"{entry.block} {entry.operation}": entry.factor for entry in ledger.entries()}
        records.append(recorder.end() | factors)
    return records


def pass_stacked(models: list[Detector]) -> None:
    stacked = StackedNetworks(models, template_of(models[0]))
    total(each(stacked.forward(images(0)))).backward()
    stacked.collect()


@pytest.mark.parametrize("variant", ["baseline", "gated", "plain_sigmoid", "frozen"])
def test_recorder_and_ledger_measure_what_they_measure_alone(variant: str) -> None:
    expected = record(networks(**VARIANTS[variant]), lambda models: pass_alone(models, 0) and None)
    found = record(networks(**VARIANTS[variant]), pass_stacked)
    assert len(expected[0]) > 40
    for own, other in zip(found, expected, strict=True):
        # What the optimiser did is nothing here; a collapsed network's I is made of rounding errors alone.
        assert own == pytest.approx(other, rel=1e-8, abs=1e-12)
    assert found[0] != pytest.approx(found[1], rel=1e-3)


def test_a_hook_may_change_the_gradient() -> None:
    def stem_gradients(pass_all: Callable[[list[Detector]], object], impose: bool) -> list[Tensor]:
        models = networks()
        for at, model in enumerate(models):
            if impose:
                layers = model.backbone_layers()
                ratios = dict.fromkeys(layers, 2.0**at)
                ImposedProfile(layers, Profile("a test", (0,), (ratios,))).begin(0)
        pass_all(models)
        return [model.get_parameter("backbone.stem.conv.weight").grad for model in models]  # type: ignore[misc]

    def alone(models: list[Detector]) -> object:
        return pass_alone(models, 0)

    found = stem_gradients(pass_stacked, impose=True)
    for own, other in zip(found, stem_gradients(alone, impose=True), strict=True):
        assert_close(own, other)
    free = stem_gradients(pass_stacked, impose=False)
    assert not any(torch.allclose(own, other, rtol=0.01) for own, other in zip(found, free, strict=True))


def test_a_norm_whose_statistics_are_frozen_stays_so() -> None:
    alone, together = networks(), networks()
    template = template_of(together[0])
    for model in (*alone, *together):
        model.get_submodule("backbone.p3_0.conv1.norm").eval()
    stacked = StackedNetworks(together, template)
    total(each(stacked.forward(images(0)))).backward()
    stacked.collect()
    pass_alone(alone, 0)
    for own, other in zip(together, alone, strict=True):
        assert not own.get_buffer("backbone.p3_0.conv1.norm.running_mean").any()
        for name, p in own.named_parameters():
            assert_close(p.grad, other.get_parameter(name).grad)


def test_gradients_lie_in_memory_as_the_weights_do() -> None:
    models = [model.to(memory_format=torch.channels_last) for model in networks()]  # type: ignore[call-overload]
    pass_stacked(models)
    assert not models[0].backbone.stem.conv.weight.is_contiguous()  # type: ignore[union-attr]
    for model in models:
        for p in model.parameters():
            # A fused optimiser reads both as they lie.
            assert p.grad is not None and p.grad.stride() == p.stride()


def test_a_network_whose_loss_is_not_a_number_harms_no_other() -> None:
    alone, together = networks(), networks()
    pass_alone(alone, 0)
    stacked = StackedNetworks(together, template_of(together[0]))
    first, second, third = each(stacked.forward(images(0)))
    (loss(first) + loss(second) * torch.nan + loss(third)).backward()
    stacked.collect()
    for place in (0, 2):
        for name, p in together[place].named_parameters():
            assert_close(p.grad, alone[place].get_parameter(name).grad)
    assert together[1].backbone.stem.conv.weight.grad.isnan().all()  # type: ignore[union-attr]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("part", [nn.Dropout(), Branching()])
def test_what_cannot_be_stacked_is_refused_in_one_line(part: nn.Module) -> None:
    models = [nn.Sequential(nn.Conv2d(3, 4, 1), part) for _ in range(2)]
    stacked = StackedNetworks(models, template_of(models[0]))
    with pytest.raises(UserError, match="cannot be stacked: leave out --stack") as error:
        stacked.forward([torch.rand(1, 3, 8, 8)] * 2)
    assert "\n" not in str(error.value)


class Failing(nn.Module):
    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError(self.words)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: an illegal memory access was encountered",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory",
    ],
)
def test_a_failing_device_is_not_taken_for_the_network_s_fault(words: str) -> None:
    models = [nn.Sequential(nn.Conv2d(3, 4, 1), Failing(words)) for _ in range(2)]
    stacked = StackedNetworks(models, template_of(models[0]))
    with pytest.raises(RuntimeError, match=re.escape(words)):
        stacked.forward([torch.rand(1, 3, 8, 8)] * 2)


def test_only_forward_hooks_of_parts_are_called() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    model[0].register_forward_hook(lambda *_: None)
    assert can_be_stacked(model)
    of_all = model.register_forward_hook(lambda *_: None)  # would see no output yet
    assert not can_be_stacked(model)
    of_all.remove()
    model[0].register_full_backward_hook(lambda *_: None)
    assert not can_be_stacked(model)


def test_a_template_has_no_hooks_and_leaves_the_networks_own() -> None:
    model, seen = nn.Sequential(nn.Conv2d(3, 4, 1)), []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    template = template_of(model)
    assert not template[0]._forward_hooks and next(template.parameters()).is_meta  # type: ignore[index]
    model(torch.rand(1, 3, 8, 8))
    assert seen == [1]
