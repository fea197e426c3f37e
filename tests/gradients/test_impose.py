"""Imposing a curve, against closed forms: sizes become the profile's, directions and outputs stay."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from detector.config.schema import Config, ModelConfig
from detector.errors import UserError
from detector.gradients.impose import ImposedProfile, equalise
from detector.gradients.profile import Profile, read_profile
from detector.gradients.recorder import GradientRecorder
from detector.models.detector import build_detector
from detector.rows import Key, by_layer
from detector.rundir import RunDir
from detector.runtime.json_numbers import to_json


def constant(points: Mapping[str, nn.Module], ratios: list[float]) -> Profile:
    return Profile("test", (0,), (dict(zip(points, ratios, strict=True)),))


def detector(shortcut: str = "residual") -> nn.Module:
    torch.manual_seed(0)
    return build_detector(
        ModelConfig(depths=(1, 2, 1, 1), widths=(8,) * 5, neck_width=8, shortcut=shortcut), num_classes=2
    )


def backward(model: nn.Module, seed: int = 1) -> Tensor:
    """The gradients of a loss of all outputs; returns the outputs."""
    torch.manual_seed(seed)
    out = model(torch.rand(2, 3, 64, 64))
    both = torch.cat([out["boxes"].flatten(), out["scores"].flatten()])
    (both * torch.randn_like(both)).sum().backward()
    return both.detach()


class Arrivals:
    """The gradient at every layer's output, before or after whatever else hooks it."""

    def __init__(self, points: Mapping[str, nn.Module]) -> None:
        self.found: dict[str, Tensor] = {}
        for name, module in points.items():
            module.register_forward_hook(self.watch(name))

    def watch(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            output.register_hook(lambda grad: self.found.__setitem__(name, grad.clone()))

        return hook


def test_the_norms_become_the_profile_s_and_the_directions_stay() -> None:
    model = detector()
    points = model.backbone_layers()  # type: ignore[operator]
    ratios = [10.0 ** -(9 - i) for i in range(len(points) - 1)] + [1.0]
    before = Arrivals(points)
    imposed = ImposedProfile(points, constant(points, ratios))
    after, recorder = Arrivals(points), GradientRecorder(points)
    imposed.begin(0)
    recorder.begin()
    out = backward(model)
    recorder.gradients()
    raw, row = imposed.raw(), by_layer(recorder.end(), Key.ACTIVATION_GRAD)
    last = row[list(points)[-1]]
    for name, ratio in zip(points, ratios, strict=True):
        assert row[name] / last == pytest.approx(ratio, rel=1e-5)
        assert float(raw[name]) == pytest.approx(float(before.found[name].norm()), rel=1e-5)
        one, other = before.found[name].flatten().double(), after.found[name].flatten().double()
        assert float(nn.functional.cosine_similarity(one, other, dim=0)) == pytest.approx(1, abs=1e-6)
    assert torch.equal(out, backward(detector()))  # the forward pass is another matter
    imposed.remove()


def test_the_last_layer_and_what_comes_after_it_are_untouched() -> None:
    model, plain = detector(), detector()
    points = model.backbone_layers()  # type: ignore[operator]
    imposed = ImposedProfile(points, constant(points, [1e-6] * (len(points) - 1) + [1.0]))
    imposed.begin(0)
    for net in (model, plain):
        backward(net)
    for name, p in model.named_parameters():
        same = torch.equal(p.grad, plain.get_parameter(name).grad)  # type: ignore[arg-type]
        assert same == (not name.startswith("backbone.") or name.startswith("backbone.p5_0."))


def test_a_network_s_own_profile_changes_nothing() -> None:
    model, plain = detector("none"), detector("none")
    points = plain.backbone_layers()  # type: ignore[operator]
    recorder = GradientRecorder(points)
    recorder.begin()
    backward(plain)
    recorder.gradients()
    norms = list(by_layer(recorder.end(), Key.ACTIVATION_GRAD).values())
    mine = model.backbone_layers()  # type: ignore[operator]
    imposed = ImposedProfile(mine, constant(mine, [norm / norms[-1] for norm in norms]))
    imposed.begin(0)
    backward(model)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6 * float(q.grad.abs().max()))


class Scale(nn.Module):
    """y = w·x: a chain of these has gradients that can be written down."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[weight]]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def chain(*weights: float) -> tuple[nn.Sequential, dict[str, nn.Module]]:
    model = nn.Sequential(*(Scale(w) for w in weights))
    return model, {f"{i:02d}_scale": module for i, module in enumerate(model)}


X = torch.tensor([[3.0], [4.0]])


def test_the_closed_form_of_a_chain_over_two_micro_batches() -> None:
    # L = Σ c·b·a·x: at c's output the gradient is (1, 1), and imposed (r, r) at a's and at b's.
    model, points = chain(2.0, 0.5, 10.0)
    imposed = ImposedProfile(points, constant(points, [1e-3, 0.1, 1.0]))
    imposed.begin(0)
    for _ in range(2):
        model(X).sum().backward()
    raw = imposed.raw()
    # At b what arrives is c·(1, 1), at a it is b times what was imposed on b: 0.5 · 0.1.
    assert [float(norm) for norm in raw.values()] == pytest.approx(
        [0.5 * 0.1 * 2, 10 * 2, 1 * 2]  # √2 for two samples, √2 for two micro-batches
    )
    # dL/da = Σ r·x, dL/db = Σ r·a·x, dL/dc = Σ b·a·x, twice.
    grads = [float(module.weight.grad) for module in points.values()]  # type: ignore[union-attr,arg-type]
    assert grads == pytest.approx([2 * 1e-3 * 7, 2 * 0.1 * 2 * 7, 2 * 7])


def test_all_shards_are_rescaled_by_the_joined_batch_s_factor() -> None:
    model, points = chain(2.0, 0.5, 10.0)
    other = torch.tensor(100.0, dtype=torch.float64)  # ‖g‖² of the other shard, wherever it is asked
    imposed = ImposedProfile(points, constant(points, [1.0, 0.1, 1.0]), lambda own: torch.stack([own, other]))
    imposed.begin(0)
    model(X).sum().backward()
    # At the last layer ‖g‖² is 2 + 100; at b 200 + 100 arrive, of which this shard has (10, 10).
    factor = 0.1 * math.sqrt(102 / 300)
    assert float(points["01_scale"].weight.grad) == pytest.approx(factor * 10 * 2 * 7)  # type: ignore[arg-type]


def test_a_zero_gradient_stays_zero_and_a_nan_stays_what_it_is() -> None:
    model, points = chain(2.0, 0.0, 10.0)
    imposed = ImposedProfile(points, constant(points, [1.0, 1.0, 1.0]))
    imposed.begin(0)
    model(X).sum().backward()
    assert points["00_scale"].weight.grad == 0  # type: ignore[comparison-overlap]
    assert float(imposed.raw()["00_scale"]) == 0
    model, points = chain(2.0, 1.0, 1.0)
    imposed = ImposedProfile(points, constant(points, [1.0, 1.0, 1.0]))
    imposed.begin(0)
    (model(X).sum() * math.nan).backward()
    assert all(math.isnan(float(norm)) for norm in imposed.raw().values())


def test_what_no_number_can_hold_is_refused_and_not_written() -> None:
    model, points = chain(2.0, 0.5, 10.0)
    imposed = ImposedProfile(points, constant(points, [1e39, 1.0, 1.0]))
    imposed.begin(0)
    model(X).sum().backward()
    assert all(torch.isfinite(module.weight.grad).all() for module in points.values())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="at 00_scale it asks for a gradient of 1e"):
        imposed.raw()


def test_a_factor_that_float32_cannot_hold_still_works() -> None:
    model, points = chain(1.0, 1e-30, 1e-12)
    imposed = ImposedProfile(points, constant(points, [1.0, 1.0, 1.0]))
    imposed.begin(0)
    model(X).sum().backward()
    assert float(points["00_scale"].weight.grad) == pytest.approx(7, rel=1e-4)  # type: ignore[arg-type]
    assert float(imposed.raw()["00_scale"]) == pytest.approx(math.sqrt(2) * 1e-30, rel=1e-4)


def test_equalise_gives_each_layer_the_rest_s_relative_size() -> None:
    model = detector("none")
    points = model.backbone_layers()  # type: ignore[operator]
    backward(model)

    def weights(module: nn.Module) -> list[nn.Parameter]:
        return [p for p in module.parameters() if p.dim() > 1]

    def relative(ps: list[nn.Parameter]) -> float:
        g = math.sqrt(sum(float(p.grad.double().square().sum()) for p in ps))  # type: ignore[union-attr]
        return g / math.sqrt(sum(float(p.detach().double().square().sum()) for p in ps))

    own = {id(p) for p in model.backbone.parameters()}  # type: ignore[union-attr]
    rest = relative([p for p in weights(model) if id(p) not in own])
    before = {name: [p.grad.clone() for p in module.parameters()] for name, module in points.items()}  # type: ignore[union-attr]
    norms = {name: math.sqrt(sum(float(p.grad.double().square().sum()) for p in weights(m)))  # type: ignore[union-attr]
             for name, m in points.items()}  # fmt: skip
    assert relative(weights(points["00_stem"])) != pytest.approx(rest, rel=0.1)
    raw = equalise(model, points)
    for name, module in points.items():
        assert relative(weights(module)) == pytest.approx(rest, rel=1e-5)
        assert float(raw[name]) == pytest.approx(norms[name], rel=1e-5)
        for p, was in zip(module.parameters(), before[name], strict=True):
            assert p.grad is not None
            cosine = nn.functional.cosine_similarity(p.grad.flatten().double(), was.flatten().double(), dim=0)
            assert float(cosine) == pytest.approx(1, abs=1e-6) or float(was.norm()) < 1e-6


def test_equalise_needs_something_to_measure_by() -> None:
    model, points = chain(2.0, 0.5)
    model(X).sum().backward()
    with pytest.raises(UserError, match="besides its trunk"):
        equalise(model, points)


# --- reading profiles ----------------------------------------------------------------------------

LAYERS = ["00_stem", "01_p2.down", "02_p2.0"]


def run_with(path: Path, rows: list[dict[str, float]], status: str = "finished") -> Path:
    run = RunDir.create(path, Config())
    run.history_file.write_text("".join(to_json({"epoch": 0} | row) + "\n" for row in rows))
    run.write_summary({"status": status})
    return path


def row(step: int, *norms: float, layers: list[str] = LAYERS) -> dict[str, float]:
    return {"step": step} | {Key.ACTIVATION_GRAD + n: v for n, v in zip(layers, norms, strict=True)}


def test_a_run_s_profile_is_its_newest_row_relative_to_the_last_layer(tmp_path: Path) -> None:
    run_with(tmp_path / "run-s3", [row(0, 1, 2, 4), row(5, 8, 2, 2), row(9, 1, 1, 1)])
    profile = read_profile(str(tmp_path / "run-s{seed}"), LAYERS, steps=10, seed=3)
    assert list(profile.at(0).values()) == list(profile.at(4).values()) == [0.25, 0.5, 1]
    assert list(profile.at(5).values()) == list(profile.at(8).values()) == [4, 1, 1]
    assert list(profile.at(9).values()) == [1, 1, 1]


def test_a_file_s_profile_and_the_flat_one_hold_at_every_step(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"02_p2.0": 2, "00_stem": 1e-9, "01_p2.down": 0.0}))
    profile = read_profile(str(path), LAYERS, steps=10, seed=0)
    assert profile.at(0) == profile.at(9) == {"00_stem": 5e-10, "01_p2.down": 0.0, "02_p2.0": 1.0}
    assert set(read_profile("flat", LAYERS, 10, 0).at(7).values()) == {1.0}


OTHER = ["00_stem", "01_p2.down", "02_p3.0"]


@pytest.mark.parametrize(
    ("rows", "status", "says"),
    [
        ([row(0, 1, 2, 4), row(9, 1, 1, 1)], "diverged", "that run diverged"),
        ([row(0, 1, 2, 4), row(5, 1, 1, 1)], "finished", "ends with step 5, but this run has 10 steps"),
        ([row(0, 1, math.nan, 4), row(9, 1, 1, 1)], "finished", "at step 0: 01_p2.down is nan"),
        ([row(0, 1, 1, 4), row(9, 1, 1, 0)], "finished", "at step 9: 02_p2.0, the last layer, is 0"),
        ([row(9, 1, 2, 3, layers=OTHER)], "finished", "no 02_p2.0: it is another network's"),
        ([row(9, 1, 2, 3, 4, layers=[*LAYERS, "03_p2.1"])], "finished", "4 layers, and this network 3"),
        ([{"step": 9}], "finished", "recorded no activation gradients"),
    ],
)
def test_a_run_that_does_not_fit(
    tmp_path: Path, rows: list[dict[str, float]], status: str, says: str
) -> None:
    run_with(tmp_path / "run", rows, status)
    with pytest.raises(UserError) as caught:
        read_profile(str(tmp_path / "run"), LAYERS, steps=10, seed=0)
    assert says in str(caught.value)
    assert str(caught.value).startswith("gradients.impose=")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1, 2", "not valid JSON"),
        ("[1, 2]", "must be an object"),
        ('{"00_stem": "1", "01_p2.down": 1, "02_p2.0": 1}', "must be an object"),
        ('{"00_stem": 1, "01_p2.down": 1}', "2 layers, and this network 3"),
        ('{"00_stem": -1, "01_p2.down": 1, "02_p2.0": 1}', "00_stem is -1.0"),
        (None, "no such file or run"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "profile.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_profile(str(path), LAYERS, steps=10, seed=0)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
