"""`watch` in loops of all kinds, against autograd by hand, and against the same loop without it."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detector import watch
from detector.errors import UserError
from detector.gradients.indices import vanishing_index
from detector.rundir import RunDir
from detector.tools.compare.command import compare

Step = Callable[[nn.Module, torch.optim.Optimizer, Any, int], None]


def network() -> nn.Sequential:
    """With what could give a difference away: batch norm's statistics, dropout's random numbers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Linear(6, 6), nn.Dropout(0.3),
        nn.Tanh(), nn.Linear(6, 2),
    )  # fmt: skip


LAYERS = ["00_0", "01_3", "02_6"]


def images(step: int, count: int = 8) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(100 + step))


def train(steps: int = 4, *to: object, watched: bool = True, **options: Any) -> tuple[nn.Module, Any]:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    flow = watch(model, *to, **options) if watched else None
    for step in range(steps):
        loss = model(images(step)).square().mean()
        loss.backward()
        if flow:
            flow.step(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        optimizer.zero_grad()
    if flow:
        flow.finish()
    return model, flow


def by_hand(
    model: nn.Module, loss_of: Callable[[], Tensor], layers: dict[str, nn.Module]
) -> dict[str, float]:
    """‖dL/d(output)‖ and ‖dL/dw‖ of each layer by `torch.autograd.grad`."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in layers}
    handles = [
        m.register_forward_hook(lambda _m, _i, out, name=name: outputs[name].append(out))
        for name, m in layers.items()
    ]
    loss = loss_of()
    for handle in handles:
        handle.remove()
    found = {}
    for name, layer in layers.items():
        grads = torch.autograd.grad(loss, outputs[name], retain_graph=True)
        found[f"activation_grad/{name}"] = math.sqrt(sum(float(g.double().square().sum()) for g in grads))
        weights = [p for p in layer.parameters() if p.dim() > 1]
        grads = torch.autograd.grad(loss, weights, retain_graph=True)
        found[f"weight_grad/{name}"] = math.sqrt(sum(float(g.double().square().sum()) for g in grads))
    return found


def test_a_row_is_what_autograd_says_by_hand() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flow = watch(model, every=1)
    assert list(flow.layers) == ["00_0", "01_2", "02_4"]
    expected, before = [], []
    for step in range(2):
        expected.append(by_hand(model, lambda: model(images(step)).square().mean(), flow.layers))  # noqa: B023
        flow.cancel()  # that was no training step
        before.append([layer.weight.detach().clone() for layer in flow.layers.values()])
        loss = model(images(step)).square().mean()
        loss.backward()
        total = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
        flow.step(loss)
        optimizer.step()
        optimizer.zero_grad()
    flow.finish()
    for at, row in enumerate(flow.rows):
        assert row["step"] == at
        for key, value in expected[at].items():
            assert row[key] == pytest.approx(value, rel=1e-6)
        norms = [row[f"activation_grad/{name}"] for name in flow.layers]
        assert row["gradient/vanishing_index"] == pytest.approx(math.log10(norms[0] / norms[-1]))
        assert row["gradient/vanishing_index"] == vanishing_index(norms)
    for (name, layer), old, new in zip(flow.layers.items(), before[0], before[1], strict=True):
        assert flow.rows[0][f"update_ratio/{name}"] == pytest.approx(
            float((new - old).norm() / old.norm()), rel=1e-5
        )
        assert layer is flow.layers[name]
    assert flow.rows[1]["train/grad_norm"] == pytest.approx(total, rel=1e-6)
    assert flow.rows[1]["train/loss"] == pytest.approx(float(loss.detach()))


@pytest.mark.parametrize("every", [1, 2, 3])
def test_the_weights_are_the_same_bit_for_bit_and_the_rows_at_their_steps(every: int) -> None:
    plain, _ = train(7, watched=False)
    model, flow = train(7, every=every)
    assert all(
        torch.equal(a, b)
        for a, b in zip(plain.state_dict().values(), model.state_dict().values(), strict=True)
    )
    assert [row["step"] for row in flow.rows] == [step for step in range(7) if step % every == 0]
    assert all(row["train/grad_norm"] > 0.01 for row in flow.rows)  # before clipping


def test_the_same_numbers_whatever_the_interval() -> None:
    often, seldom = train(7, every=1)[1].rows, train(7, every=3)[1].rows
    assert list(seldom) == [often[0], often[3], often[6]]


def test_accumulated_batches_are_one_batch() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    whole = watch(model)
    model(images(0)).square().mean().backward()
    whole.step()
    one = whole.finish() and whole.rows[0]
    model.zero_grad()
    parts = watch(model)
    for half in images(0).chunk(2):
        (model(half).square().mean() / 2).backward()
    parts.step()
    parts.finish()
    assert parts.rows[0] == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("unscaled", [False, True])
def test_a_scaled_loss_is_unscaled(unscaled: bool) -> None:
    def rows(scale: bool) -> list[dict[str, float]]:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scale)
        flow = watch(model, every=1)
        for step in range(3):
            loss = model(images(step)).square().mean()
            scaler.scale(loss).backward()
            if unscaled:
                scaler.unscale_(optimizer)
            flow.step(loss, scaler=scaler, unscaled=unscaled)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        flow.finish()
        return list(flow.rows)

    for scaled, plain in zip(rows(True), rows(False), strict=True):
        assert scaled == pytest.approx(plain, rel=1e-6)


def test_a_step_that_the_scaler_skips_is_no_step_and_the_first_real_one_is_recorded() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-120)
    before = [p.detach().clone() for p in model.parameters()]
    flow = watch(model, every=5)
    skipped = []
    for step in range(3):
        scaler.scale(1000 * model(images(step)).square().sum()).backward()
        flow.step(scaler=scaler)
        scaler.step(optimizer)
        skipped.append(all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)))
        scaler.update()
        optimizer.zero_grad()
    assert skipped == [True, False, False]
    summary = flow.finish()
    assert (summary["steps"], summary["steps_skipped"]) == (2, 1)
    assert [row["step"] for row in flow.rows] == [0]
    assert math.isfinite(summary["gradient/vanishing_index_init"])


def test_without_a_scaler_an_overflow_is_the_finding() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    flow = watch(model)
    (model(images(0)).sum() * math.inf).backward()
    flow.step()
    assert flow.finish()["gradient/verdict"] == "diverged"


def test_a_compiled_model_runs_uncompiled_on_recorded_steps_alone() -> None:
    ran = []

    def backend(graph: Any, inputs: Any) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            ran.append(1)
            return graph.forward(*arguments)

        return run

    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))
    compiled = torch.compile(model, backend=backend)
    compiled(images(0))
    ran.clear()
    flow, counts = watch(compiled, every=2), []
    expected = by_hand(model, lambda: model(images(0)).square().mean(), flow.layers)
    flow.cancel()
    for _ in range(4):
        compiled(images(0)).square().mean().backward()
        counts.append(len(ran))
        flow.step()
        model.zero_grad()
    flow.finish()
    assert counts == [0, 1, 1, 2]
    assert list(flow.layers) == ["00_0", "01_2", "02_4"]
    assert {key: flow.rows[0][key] for key in expected} == pytest.approx(expected, rel=1e-6)
    compiled(images(0))
    assert len(ran) == 3


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shared(torch.tanh(self.shared(x))))


def test_a_module_that_is_used_twice_has_the_joint_norm() -> None:
    model = Twice()
    flow = watch(model)
    expected = by_hand(model, lambda: model(images(0)).square().mean(), flow.layers)
    flow.cancel()
    model(images(0)).square().mean().backward()
    flow.step()
    flow.finish()
    assert {key: flow.rows[0][key] for key in expected} == pytest.approx(expected, rel=1e-6)


class AtTwoScales(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(x).mean() + self.head(x[:, :, ::2, ::2]).square().mean()


def test_a_head_at_two_scales_has_a_gradient_and_no_input_dependence() -> None:
    model = AtTwoScales()
    flow = watch(model)
    model(torch.rand(2, 3, 8, 8)).backward()
    flow.step()
    flow.finish()
    assert flow.rows[0]["activation_grad/01_head"] > 0
    assert "signal/input_dependence" not in flow.rows[0]


def test_in_place_activations_do_not_change_what_is_measured() -> None:
    def first_row(inplace: bool) -> dict[str, float]:
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Linear(4, 6), nn.ReLU(inplace), nn.Linear(6, 6), nn.SiLU(inplace), nn.Linear(6, 2)
        )
        flow = watch(model)
        model(images(0)).square().mean().backward()
        flow.step()
        flow.finish()
        return flow.rows[0]

    assert first_row(True) == first_row(False)


def test_no_hook_stays_on_a_layer_so_that_copies_and_files_of_the_model_are_clean() -> None:
    model = network()
    flow = watch(model, every=1)
    average = copy.deepcopy(model)  # an averaged copy, made before training
    for step in range(2):
        loss = model(images(step)).square().mean()
        average(images(step)).sum()  # with gradients, as some do
        loss.backward()
        flow.step(loss)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        torch.save(copy.deepcopy(model), io.BytesIO())
    flow.finish()
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert flow.rows[0]["activation_grad/02_6"] == train(1)[1].rows[0]["activation_grad/02_6"]


def test_evaluation_between_the_steps_is_not_recorded() -> None:
    expected = list(train(2, every=1)[1].rows)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with watch(model, every=1) as flow:
        for step in range(2):
            with torch.no_grad():
                model.eval()(images(50))
            model.train()
            loss = model(images(step)).square().mean()
            loss.backward()
            flow.step(loss)
            flow.log({"val/mAP50-95": torch.tensor(0.25 * step), "epoch": step})
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
            optimizer.zero_grad()
    metrics = [{key: row.pop(key) for key in ("val/mAP50-95", "epoch")} for row in flow.rows]
    assert metrics == [{"val/mAP50-95": 0.0, "epoch": 0}, {"val/mAP50-95": 0.25, "epoch": 1}]
    assert list(flow.rows) == expected


# --- where rows go --------------------------------------------------------------------------------


def test_a_run_directory_that_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        torch.manual_seed(seed)
        settings = {
            "run.name": "mine",
            "train.seed": seed,
            "data.path": "toy",
            "data.image_size": 64,
            "my.lr": 0.1,
        }
        _, flow = train(6, tmp_path / f"s{seed}", every=2, settings=settings)
        run = RunDir(tmp_path / f"s{seed}")
        assert run.read_history() == list(flow.rows)
        summary = run.read_summary()
        assert (summary["status"], summary["steps"]) == ("finished", 6)
        assert summary["gradient/vanishing_index_init"] == flow.rows[0]["gradient/vanishing_index"]
        assert summary["gradient/vanishing_index"] == flow.rows[-1]["gradient/vanishing_index"]
        assert summary["parameters"] == 6 * 4 + 6 + 12 + 6 * 6 + 6 + 2 * 6 + 2
    compare(tmp_path, html=tmp_path / "page.html")
    table = capsys.readouterr().out
    assert "mine" in table and "2" in table
    assert "lacks" not in table and "another version" not in table
    assert "activation_grad" in (tmp_path / "page.html").read_text()
    with pytest.raises(UserError, match=r"already holds|holds a run already"):
        watch(network(), tmp_path / "s0")


def test_runs_that_differ_in_a_setting_of_their_own_are_two_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for lr in (0.1, 0.2):
        settings = {"run.name": "mine", "train.seed": 0, "my.lr": lr}
        train(2, tmp_path / f"lr{lr}", settings=settings)
    compare(tmp_path)
    assert "my.lr=0.2" in capsys.readouterr().out


def test_a_loop_that_breaks_leaves_a_stopped_run(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), watch(network(), tmp_path / "run"):
        raise ZeroDivisionError
    assert RunDir(tmp_path / "run").read_summary()["status"] == "stopped"


class FakeWandbRun:
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.axes: dict[str, str | None] = {}
        self.summary: dict[str, object] = {}

    def define_metric(self, name: str, step_metric: str | None = None, **_: object) -> None:
        self.axes[name] = step_metric

    def log(self, row: dict[str, float]) -> None:
        self.rows.append(row)


def test_functions_and_a_wandb_run_get_the_rows() -> None:
    rows: list[Any] = []
    run = FakeWandbRun()
    _, flow = train(3, rows.append, run, every=1)
    assert rows == list(flow.rows)
    assert [row["step"] for row in run.rows] == [0, 1, 2]
    assert run.rows[0]["activation_grad/00_0"] == rows[0]["activation_grad/00_0"]
    assert run.axes["activation_grad/00_0"] == "step"
    assert run.summary["gradient/verdict"] in ("healthy", "collapsed")


def test_a_dashboard_that_fails_is_left_out_and_a_function_of_ones_own_is_not(capsys: Any) -> None:
    run = FakeWandbRun()
    run.log = lambda row: 1 / 0  # type: ignore[method-assign]
    _, flow = train(3, run, every=1)
    assert len(flow.rows) == 3
    assert "ToWandb stopped: ZeroDivisionError" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        train(2, lambda row: 1 / 0, every=1)


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        _, flow = train(3, writer, every=1)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    points = events.Scalars("log10_activation_grad/00_0")
    assert [point.step for point in points] == [0, 1, 2]
    norms = [row["activation_grad/00_0"] for row in flow.rows]
    assert [point.value for point in points] == pytest.approx([math.log10(norm) for norm in norms], rel=1e-5)


# --- which layers, and what is wrong ---------------------------------------------------------------


def test_layers_by_pattern_by_name_and_as_they_are() -> None:
    model = nn.Sequential(network(), nn.Linear(2, 2))
    assert list(watch(model, layers="0.*").layers) == ["000_0.0", "003_0.3", "006_0.6"]
    before = copy.deepcopy(model.state_dict())
    convs = watch(model, layers="convs", example=images(0)).layers
    assert list(convs) == ["000_0.0", "001_0.3", "002_0.6", "003_1"]
    assert all(map(torch.equal, before.values(), model.state_dict().values())) and model[0][1].training
    assert list(watch(model, layers=["0.3", "1"]).layers) == ["00_0.3", "01_1"]
    assert watch(model, layers={"mine": model[1]}).layers == {"mine": model[1]}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: watch(nn.ReLU()), "no parameter of ReLU needs a gradient"),
        (lambda: watch(network().requires_grad_(False)), "no parameter of Sequential needs a gradient"),
        (
            lambda: watch(network(), layers="stage*"),
            r"layers=stage\*: no module of this network is called so; they are layers, blocks, convs",
        ),
        (lambda: watch(network(), layers=["0", "stage1"]), "layers=stage1: no module of this network"),
        (lambda: watch(network(), layers="convs"), "layers=convs: which these are .* say by example="),
        (lambda: watch(network(), layers="1"), "layers=1: none of these is trained"),
        (lambda: watch(network(), every=0), "every=0"),
        (lambda: watch(network(), 3), "3 takes no rows"),
    ],
)
def test_bad_input_is_one_line(wrong: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        wrong()
    assert "\n" not in str(raised.value)


def test_a_call_at_the_wrong_place_is_named() -> None:
    model = network()
    flow = watch(model)
    with pytest.raises(UserError, match="no watched layer took part in a forward pass"):
        flow.step()
    flow = watch(model)
    loss = model(images(0)).sum()
    with pytest.raises(UserError, match="no gradient has reached a watched layer"):
        flow.step()
    flow = watch(model)
    loss = model(images(0)).sum()
    loss.backward()
    model.zero_grad()
    with pytest.raises(UserError, match="the weights have no gradients"):
        flow.step()
