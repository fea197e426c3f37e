"""The forward signal: against NumPy, and on images that have nothing to tell apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from detector.config.schema import ModelConfig
from detector.gradients import signal
from detector.gradients.recorder import GradientRecorder
from detector.gradients.signal import SignalMeter, input_dependence, join, moments, summary_of
from detector.models.detector import build_detector

LEVELS = "p3", "p4", "p5"


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (torch.tensor([[1.0], [-1.0]]), 1.0),  # mean 0: all of it varies
        (torch.full((4, 3, 2, 2), 7.0), 0.0),  # the same whatever the input
        (torch.tensor([[1.0], [3.0]]), 1 / math.sqrt(5)),  # deviation 1, RMS √5
        (torch.tensor([[5.0, -5.0], [5.0, -5.0]]), 0.0),  # a pattern in space that all images share
        (torch.tensor([[5.0, -5.0], [-5.0, 5.0]]), 1.0),  # and one that belongs to the image
    ],
)
def test_input_dependence(x: Tensor, expected: float) -> None:
    assert float(input_dependence(x)) == pytest.approx(expected)


@pytest.mark.parametrize("sizes", [(5,), (2, 3), (1, 1, 1, 2), (0, 5), (4, 0, 1)])
def test_a_batch_in_parts_is_the_whole_batch(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Against NumPy over all; the offset makes naive sums of squares lose their digits."""
    monkeypatch.setattr(signal, "CHUNK", 30)  # two images of these at a time
    x = np.random.default_rng(0).normal(1e6, 1e-3, (5, 3, 2, 2))
    parts = torch.from_numpy(x).split(sizes)
    count, rms, dependence = summary_of(join(torch.stack([moments(part) for part in parts])))
    assert int(count) == 5
    assert float(rms) == pytest.approx(math.sqrt((x**2).mean()), rel=1e-12)
    assert float(dependence) == pytest.approx(math.sqrt(x.var(0).mean() / (x**2).mean()), rel=1e-5)


def test_the_order_of_the_memory_does_not_matter() -> None:
    x = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(moments(x), moments(x.to(memory_format=torch.channels_last)))
    double = x.double()
    assert torch.equal(moments(double), moments(x))
    assert torch.equal(double, x.double())  # what is measured stays as it is


def test_shards_and_micro_batches_are_put_together() -> None:
    x = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0))
    other = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(1))
    meter = SignalMeter({"p3": "layer"}, lambda mine: torch.stack([mine, moments(other)]))
    meter.watch("layer", x)
    meter.watch("another", x + 1)
    found = meter.report({key: float(value) for key, value in meter.measure().items()})
    both = torch.cat([x, other]).double()
    assert found["signal/rms_p3"] == pytest.approx(float(both.square().mean().sqrt()))
    assert found["signal/input_dependence_p3"] == pytest.approx(float(input_dependence(both)))
    meter.clear()
    assert meter.measure() == {}


def record(images: Tensor, micro_batches: int = 1, **model: str) -> dict[str, float]:
    """One recorded step of a small detector in training mode."""
    torch.manual_seed(0)
    detector = build_detector(ModelConfig.model_validate({"depths": (1, 2, 1, 1), **model}), 3).train()
    recorder = GradientRecorder(detector.backbone_layers(), levels=detector.level_ends())
    with recorder:
        for part in images.chunk(micro_batches):
            detector(part)["scores"].square().sum().backward()
    return recorder.measure()


STRIPPED: list[dict[str, str]] = [
    {}, {"shortcut": "none"}, {"act": "sigmoid"}, {"act": "sigmoid", "norm": "none", "shortcut": "none"},
]  # fmt: skip


@pytest.mark.parametrize("model", STRIPPED, ids=str)
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_equal_images_have_nothing_that_depends_on_them(micro_batches: int, model: dict[str, str]) -> None:
    """Exactly nothing, though the padding gives every layer a pattern in space."""
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for image in (picture, torch.full_like(picture, 114 / 255)):
        row = record(image.repeat(4, 1, 1, 1), micro_batches, **model)
        assert row["signal/input_dependence"] == 0.0
        assert [row[f"signal/input_dependence_{level}"] for level in LEVELS] == [0.0] * 3
        assert all(row[f"signal/rms_{level}"] > 0 for level in LEVELS)


def test_different_images_are_told_apart_and_least_through_plain_sigmoids() -> None:
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    whole = record(images)
    assert whole["signal/input_dependence"] == whole["signal/input_dependence_p5"] > 0.3
    assert record(images, **STRIPPED[3])["signal/input_dependence"] < 1e-3


def test_a_single_image_has_a_size_but_nothing_to_differ_from() -> None:
    row = record(torch.rand(1, 3, 64, 64))
    assert row["signal/rms_p3"] > 0
    assert not any(key.startswith("signal/input_dependence") for key in row)
