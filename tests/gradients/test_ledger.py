"""The ledger multiplies out to the recorder's curve, and each of its factors to autograd's by hand."""

from __future__ import annotations

import json
import math
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from detector.config.schema import ModelConfig
from detector.gradients.entries import (
    RESIDUAL,
    Entry,
    identity_shares,
    read_ledger,
    summarise_ledger,
    write_ledger,
)
from detector.gradients.ledger import Ledger
from detector.gradients.recorder import GradientRecorder
from detector.models.blocks import ACTIVATIONS, NORMS, SHORTCUTS, Block, Components, ConvNormAct
from detector.models.detector import Detector, build_detector
from detector.models.shortcuts import HighwayGate
from detector.rundir import RunDir
from detector.training.callbacks import RecordLedger
from detector.training.schedule import Schedule

SMALL = {"depths": (1, 3, 2, 1), "widths": (8, 8, 16, 16, 24), "neck_width": 8, "reg_max": 4}

OURS = [name for name in SHORTCUTS if name != "chain"]  # which is for networks that concatenate


def loss_of(model: Detector, images: Tensor) -> Tensor:
    """A loss that reaches all three scales, as the detection loss does."""
    out = model(images)
    return out["boxes"].square().mean() + out["scores"].sigmoid().sum()


def model_of(**changes: object) -> Detector:
    torch.manual_seed(0)
    model = build_detector(ModelConfig(**{**SMALL, **changes}), 3)
    for module in model.modules():  # a gate that has learnt something, so that its weights matter
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            nn.init.normal_(module.weight, 0, 0.3)
    return model


def measure(model: Detector, *batches: Tensor) -> tuple[list[Entry], dict[str, float]]:
    points = model.backbone_layers()
    ledger, recorder = Ledger(points), GradientRecorder(points)
    ledger.begin()
    recorder.begin()
    for images in batches:
        loss_of(model, images).backward()
    recorder.gradients()
    return ledger.entries(), recorder.end()


def by_block(entries: list[Entry]) -> dict[str, float]:
    products: dict[str, float] = {}
    for entry in entries:
        products[entry.block] = products.get(entry.block, 1.0) * entry.factor
    return products


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shortcut", "norm", "act"), list(product(OURS, NORMS, ("silu", "sigmoid", "identity")))
)
def test_the_product_is_the_recorded_curve(shortcut: str, norm: str, act: str) -> None:
    torch.manual_seed(1)
    model = model_of(shortcut=shortcut, norm=norm, act=act)
    entries, record = measure(model, torch.rand(2, 3, 64, 64), torch.rand(1, 3, 64, 64))
    names = list(model.backbone_layers())
    curve = [record[f"activation_grad/{name}"] for name in names]
    factors = by_block(entries)
    assert list(factors) == names[1:]
    for position, name in enumerate(names[1:]):
        assert factors[name] == pytest.approx(curve[position] / curve[position + 1], rel=1e-12), name
    assert math.prod(e.factor for e in entries) == pytest.approx(curve[0] / curve[-1], rel=1e-10)


@pytest.mark.parametrize("shortcut", OURS)
def test_each_factor_by_hand(shortcut: str) -> None:
    """A stem and one block, each gradient asked of autograd for that tensor alone."""
    torch.manual_seed(0)
    parts = Components(ACTIVATIONS["silu"], NORMS["batch"], SHORTCUTS[shortcut])
    stem, block = ConvNormAct(3, 8, parts), Block(8, parts)
    if shortcut == "skipinit":  # one that has learnt something: at 0 no gradient comes through the branch
        nn.init.constant_(block.shortcut.scale, 0.3)
    images, target = torch.rand(2, 3, 8, 8), torch.randn(2, 8, 8, 8)
    ledger = Ledger({"00_stem": stem, "01_p2.0": block})
    ledger.begin()
    (block(stem(images)) * target).sum().backward()
    factors = {entry.operation: entry.factor for entry in ledger.entries()}

    x = stem(images).detach().requires_grad_()
    branch = x.detach().clone().requires_grad_()  # a second copy: the branch's gradient stays apart
    seen = [branch]
    for unit in (block.conv1, block.conv2):
        for part in (unit.conv, unit.norm, unit.act):
            seen.append(part(seen[-1]))
    y = block.shortcut(x, seen[-1])
    grads = torch.autograd.grad((y * target).sum(), [*seen, y, x], allow_unused=True)
    norms = [float(g.double().norm()) for g in grads[:-1]]
    expected = {
        place: norms[at] / norms[at + 1]
        for at, place in enumerate(
            ["conv1.conv", "conv1.norm", "conv1.act", "conv2.conv", "conv2.norm", "conv2.act"]
        )
    }
    total = grads[0] if grads[-1] is None else grads[0] + grads[-1]
    if shortcut != "none":
        expected["shortcut"] = norms[-2] / norms[-1] * float(total.double().norm()) / norms[0]
    assert list(factors) == list(expected)
    assert factors == pytest.approx(expected, rel=1e-4)


class PreActivation(nn.Module):
    """A block as in He et al. 2016, arXiv:1603.05027: norm and activation come before their convolution."""

    def __init__(self, channels: int, told: bool = True) -> None:
        super().__init__()
        self.norm, self.act = nn.BatchNorm2d(channels), nn.SiLU()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = HighwayGate(channels)
        if told:
            self.operations = lambda: [("norm", self.norm), ("act", self.act), ("conv", self.conv)]

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x, self.conv(self.act(self.norm(x))))


class Twice(PreActivation):
    """Calls one operation two times."""

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x, self.conv(self.act(self.norm(self.act(x)))))


class Split(nn.Module):
    """Has a way around its branch that is no `shortcut`, and a first operation that uses its input twice."""

    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x.sigmoid() + 0.1 * x

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.conv = self.Square(), nn.Conv2d(channels, channels, 1)

    def operations(self) -> list[tuple[str, nn.Module]]:
        return [("first", self.first), ("conv", self.conv)]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.first(x)) + x.flip(-1)


def own_block(block: nn.Module) -> tuple[list[Entry], dict[str, float]]:
    """Ledger and recorder of a chain with this block in its middle, over two micro-batches."""
    torch.manual_seed(3)
    points = {"00_stem": nn.Conv2d(3, 8, 3), "01_own": block, "02_end": nn.Conv2d(8, 8, 1)}
    ledger, recorder = Ledger(points), GradientRecorder(points)
    ledger.begin()
    recorder.begin()
    for _ in range(2):
        x = torch.randn(2, 3, 8, 8)
        for module in points.values():
            x = module(x)
        (x * torch.randn_like(x)).sum().backward()
    recorder.gradients()
    return ledger.entries(), recorder.end()


@pytest.mark.parametrize(
    ("block", "operations"),
    [
        (PreActivation(8), ["norm", "act", "conv", "shortcut"]),
        (PreActivation(8, told=False), ["block"]),
        (Twice(8), ["block"]),
        (Split(8), ["others", "first", "conv"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_block_of_one_s_own_multiplies_out(block: nn.Module, operations: list[str]) -> None:
    entries, record = own_block(block)
    own = [entry for entry in entries if entry.block == "01_own"]
    assert [entry.operation for entry in own] == operations
    curve = [record[f"activation_grad/{name}"] for name in ("00_stem", "01_own")]
    assert math.prod(entry.factor for entry in own) == pytest.approx(curve[0] / curve[1], rel=1e-6)


@pytest.mark.parametrize("block", [PreActivation(8), Split(8)], ids=lambda block: type(block).__name__)
def test_an_own_block_s_factors_by_hand(block: nn.Module) -> None:
    torch.manual_seed(0)
    stem, target = nn.Conv2d(3, 8, 3), torch.randn(2, 8, 6, 6)
    images = torch.randn(2, 3, 8, 8)
    ledger = Ledger({"00_stem": stem, "01_own": block})
    ledger.begin()
    (block(stem(images)) * target).sum().backward()
    factors = {entry.operation: entry.factor for entry in ledger.entries()}

    x = stem(images).detach().requires_grad_()
    branch = x.detach().clone().requires_grad_()  # a second copy: the branch's gradient stays apart
    parts = dict(block.operations())  # type: ignore[operator]
    seen = [branch]
    for part in parts.values():
        seen.append(part(seen[-1]))
    y = block.shortcut(x, seen[-1]) if isinstance(block, PreActivation) else seen[-1] + x.flip(-1)
    grads = torch.autograd.grad((y * target).sum(), [*seen, y, x])
    norms = [float(g.double().norm()) for g in grads[:-1]]
    for at, place in enumerate(parts):
        assert factors[place] == pytest.approx(norms[at] / norms[at + 1], rel=1e-4), place
    total = float((grads[0] + grads[-1]).double().norm())
    closing = norms[-2] / norms[-1] * total / norms[0]
    assert factors["shortcut" if isinstance(block, PreActivation) else "others"] == pytest.approx(
        closing, rel=1e-4
    )


def test_an_own_block_s_operations_are_called_by_their_class() -> None:
    entries, _ = own_block(Split(8))
    assert [(e.operation, e.layer) for e in entries if e.block == "01_own"] == [
        ("others", "other paths"),
        ("first", "Square"),
        ("conv", "convolution"),
    ]


@pytest.mark.parametrize("act", ["GELU", "Hardswish", "PReLU"])
def test_an_activation_of_torch_is_in_the_ledger_by_its_name(act: str) -> None:
    entries, record = measure(model_of(act=act), torch.rand(2, 3, 64, 64))
    assert {e.layer for e in entries if e.operation.endswith("act")} == {act}
    curve = [record[f"activation_grad/{name}"] for name in ("00_stem", "11_p5.0")]
    assert math.prod(e.factor for e in entries) == pytest.approx(curve[0] / curve[1], rel=1e-9)


def test_the_neck_joins_where_it_taps_the_trunk() -> None:
    entries, _ = measure(model_of(), torch.rand(2, 3, 64, 64))
    joins = [e.block for e in entries if e.operation == "neck"]
    assert joins == ["07_p4.down", "10_p5.down"]  # the ends of P3 and P4 feed the neck, that of P2 does not
    assert all(e.factor > 0 for e in entries)


def test_a_frozen_trunk_has_the_same_ledger() -> None:
    images = torch.rand(2, 3, 64, 64)
    free, frozen = measure(model_of(), images)[0], measure(model_of(freeze="backbone"), images)[0]
    assert [e.factor for e in frozen] == pytest.approx([e.factor for e in free], rel=1e-5)
    model = model_of(freeze="backbone")
    ledger = Ledger(model.backbone_layers())
    ledger.begin()
    loss_of(model, images).backward()
    assert [e.factor for e in ledger.entries()] == pytest.approx([e.factor for e in free], rel=1e-5)


@pytest.mark.parametrize("shortcut", OURS)
def test_the_run_is_bit_for_bit_the_same_with_it(shortcut: str) -> None:
    def gradients(watched: bool) -> list[Tensor]:
        model = model_of(shortcut=shortcut)
        ledger = Ledger(model.backbone_layers())
        torch.manual_seed(1)
        if watched:
            ledger.begin()
        loss_of(model, torch.rand(2, 3, 64, 64)).backward()
        ledger.entries()
        return [p.grad for p in model.parameters() if p.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(gradients(True), gradients(False), strict=True))


def test_no_hook_is_left_behind() -> None:
    model = model_of()
    ledger = Ledger(model.backbone_layers())
    ledger.begin()
    assert ledger.active
    with torch.no_grad():
        model(torch.rand(2, 3, 32, 32))
    assert ledger.entries() == []  # nothing went back
    assert not ledger.active
    assert not any(module._forward_hooks for module in model.modules())


def test_a_dead_branch_is_one_entry_and_the_product_stays_exact() -> None:
    model = model_of(act="relu", norm="none")
    dead = model.backbone.p3_1.conv2.conv
    nn.init.zeros_(dead.weight)
    nn.init.constant_(dead.bias, -1.0)
    entries, record = measure(model, torch.rand(2, 3, 64, 64))
    (entry,) = [e for e in entries if e.block == "05_p3.1"]
    assert (entry.operation, entry.factor) == ("block", 1.0)  # all of it goes through the shortcut
    ends = record["activation_grad/00_stem"] / record["activation_grad/10_p5.down"]
    assert math.prod(e.factor for e in entries if e.block <= "10_p5.down") == pytest.approx(ends, rel=1e-10)


def test_where_nothing_arrives_nothing_is_lost() -> None:
    model = model_of(act="relu", norm="none", shortcut="none")
    for module in model.modules():  # so that what follows the dead layer is alive
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.bias, 0.5)
    dead = model.backbone.p3_1.conv2.conv
    nn.init.zeros_(dead.weight)
    nn.init.constant_(dead.bias, -1.0)
    entries, record = measure(model, torch.rand(2, 3, 64, 64))
    assert record["activation_grad/00_stem"] == 0
    assert math.prod(e.factor for e in entries) == 0
    factors = {e.operation: e.factor for e in entries if e.block == "05_p3.1"}
    assert factors["conv2.act"] == 0
    assert factors["conv1.conv"] == 1


def test_numbers_that_are_not_finite_do_not_stop_it(tmp_path: Path) -> None:
    model = model_of()
    with torch.no_grad():
        model.backbone.p3_1.conv2.conv.weight.fill_(math.inf)
    entries, _ = measure(model, torch.rand(2, 3, 64, 64))
    write_ledger(RunDir(tmp_path), 0, entries)
    assert any(math.isnan(e.factor) for e in read_ledger(RunDir(tmp_path))[0])
    assert summarise_ledger(entries) is None


def test_the_file_keeps_the_chosen_steps_and_replaces_what_is_repeated(tmp_path: Path) -> None:
    model = model_of()
    path = tmp_path / "ledger.json"
    schedule = Schedule(10, 1, 1, 1, None)
    keep = RecordLedger(schedule, Ledger(model.backbone_layers()), partial(write_ledger, RunDir(tmp_path)))
    for step in (0, 5, 9, 9):  # a resumed run repeats a step
        keep.on_step_begin(step)
        loss_of(model, torch.rand(2, 3, 64, 64)).backward()
        keep.on_backward_end(step)
    steps = read_ledger(RunDir(tmp_path))
    assert list(steps) == [0, 9]
    assert len(steps[0]) == len(steps[9])
    assert steps[9][0].block == "01_p2.down"
    assert read_ledger(RunDir(tmp_path / "missing")) == {}
    path.write_text("[{")
    assert read_ledger(RunDir(tmp_path)) == {}


def chain(**decades: float) -> list[Entry]:
    """`b1__conv=-1` is an entry of block 01_b1."""
    entries = []
    for key, value in decades.items():
        block, operation = key.split("__")
        layer = {"conv": "convolution", "norm": "batch norm", "act": "sigmoid"}.get(operation, operation)
        entries.append(Entry(f"0{block[1:]}_{block}", operation, layer, 10**value))
    return entries


def test_the_largest_fall_by_hand() -> None:
    entries = chain(
        b1__conv=0.5, b1__act=-0.2, b2__conv=0.1, b2__act=-2.0, b3__conv=0.1, b3__act=-2.0,
        b4__neck=5.0, b4__act=-1.0, b5__act=-3.0, b6__conv=0.5,
    )  # fmt: skip
    fall = summarise_ledger(entries)
    assert fall is not None
    assert (fall.blocks, fall.decades) == ("b2 to b3", pytest.approx(-3.8))  # what is behind the neck is not
    assert fall.layers == pytest.approx({"sigmoid": -4.0, "convolution": 0.2})
    assert str(fall) == (
        "blocks b2 to b3 lose 3.8 decades: 4.0 in the sigmoid, made up for in part by other operations"
    )
    rise = summarise_ledger(entries, gain=True)
    assert rise is not None
    assert str(rise) == "block b4 gains 4.0 decades: 5.0 in the neck, made up for in part by other operations"


def test_a_residual_block_is_one_cause_with_two_ways_through_it() -> None:
    half, tenth = chain(b1__conv=0.5, b1__act=-0.5, b1__shortcut=0.3), chain(b2__conv=-0.5, b2__shortcut=0.6)
    assert identity_shares([*half, *tenth]) == pytest.approx({"01_b1": 1 / 2, "02_b2": 1 / 1.1})
    rise = summarise_ledger([*half, *tenth, *chain(b3__conv=0.2)], gain=True)
    assert rise is not None
    assert rise.layers == pytest.approx({RESIDUAL: 0.4, "convolution": 0.2})
    assert rise.identity == pytest.approx((1 / 2 + 1 / 1.1) / 2)
    assert identity_shares(chain(b1__conv=0.5)) == {}
    dead = [Entry("01_b1", "conv", "convolution", 0.0), Entry("01_b1", "shortcut", "shortcut", 1.0)]
    assert identity_shares(dead) == {"01_b1": 1.0}


def test_the_shares_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    parts = Components(ACTIVATIONS["silu"], NORMS["batch"], SHORTCUTS["residual"])
    stem, block = ConvNormAct(3, 8, parts), Block(8, parts)
    images, target = torch.rand(2, 3, 8, 8), torch.randn(2, 8, 8, 8)
    ledger = Ledger({"00_stem": stem, "01_p2.0": block})
    ledger.begin()
    (block(stem(images)) * target).sum().backward()
    shares = identity_shares(ledger.entries())
    x = stem(images).detach().requires_grad_()
    (branch,) = torch.autograd.grad((block.conv2(block.conv1(x)) * target).sum(), x)
    by_identity, by_branch = float(target.square().sum()), float(branch.square().sum())
    expected = {"01_p2.0": by_identity / (by_identity + by_branch)}
    assert shares == pytest.approx(expected, rel=1e-4)


def test_a_norm_and_its_convolution_are_one_cause() -> None:
    entries = chain(b1__conv=-20.0, b1__norm=19.9, b1__act=-0.5, b2__conv=-0.2)
    worst = summarise_ledger(entries)
    assert worst is not None
    assert worst.decades == pytest.approx(-0.8)
    assert worst.layers == pytest.approx(
        {"sigmoid": -0.5, "convolution": -0.2, "convolution with its norm": -0.1}
    )


def test_a_trunk_that_only_gains_has_no_worst_stretch() -> None:
    assert summarise_ledger(chain(b1__conv=0.1, b2__conv=0.2)) is None
    assert summarise_ledger([]) is None


def test_what_is_written_is_read(tmp_path: Path) -> None:
    entries = [Entry("00_stem", "conv", "convolution", 0.25), Entry("00_stem", "act", "SiLU activation", 0.0)]
    write_ledger(RunDir(tmp_path), 3, entries)
    assert read_ledger(RunDir(tmp_path)) == {3: entries}
    rows = json.loads((tmp_path / "ledger.json").read_text())
    assert [row["log10"] for row in rows] == [pytest.approx(math.log10(0.25)), None]


@pytest.mark.parametrize(
    "change",
    [
        {"step": "3"},
        {"step": True},
        {"block": 1},
        {"operation": None},
        {"factor": "1"},
        {"factor": True},
    ],
)
def test_a_file_with_one_bad_row_is_no_ledger(change: dict[str, object], tmp_path: Path) -> None:
    good = {"step": 3, "block": "00_stem", "operation": "conv", "layer": "convolution", "factor": 0.5}
    path = tmp_path / "ledger.json"
    path.write_text(json.dumps([good]))
    assert read_ledger(RunDir(tmp_path)) == {3: [Entry("00_stem", "conv", "convolution", 0.5)]}
    path.write_text(json.dumps([good, good | change]))
    assert read_ledger(RunDir(tmp_path)) == {}
    path.write_text(json.dumps([good | {"factor": 2**70}]))  # more digits than an integer may have
    assert read_ledger(RunDir(tmp_path))[3][0].factor == 2.0**70
