"""`detector replay`: the step at which a run's numbers stopped being finite, once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from detector.errors import UserError
from detector.rows import Key
from detector.rundir import RunDir

if TYPE_CHECKING:
    from detector.config.schema import Config
    from detector.data.batch import Batch
    from detector.gradients.nonfinite import NonFiniteOrigin
    from detector.models.loss import LossFunction
    from detector.runtime.checkpoint_check import FailureState
    from detector.training.state import TrainState

EXIT_FINITE, EXIT_REPRODUCED = 0, 3


class Layer(NamedTuple):
    """A layer in the replayed step; None where there is nothing to measure."""

    output: float | None  # its largest magnitude
    grad: float | None  # ‖dL/d(output)‖
    weights: float | None  # ‖dL/dw‖


class Replayed(NamedTuple):
    """A step that was repeated."""

    measured: Mapping[str, float]  # the loss, its parts and the gradient's norm
    layers: Mapping[str, Layer]
    origin: NonFiniteOrigin | None  # the first operation that went wrong this time

    @property
    def exit_code(self) -> int:
        """3 if it happened again, else 0."""
        return EXIT_FINITE if self.origin is None else EXIT_REPRODUCED


def replay(run_dir: Path, /, *overrides: str, plugin: tuple[Path, ...] = ()) -> Replayed:
    """Repeat the step at which a run's numbers stopped being finite.

    Shows what is saved in RUN_DIR/failure: loss, gradients by layer, images, and the first operation that
    goes wrong. Writes nothing. Exit code 3: it happens again; 0: it does not.

    Args:
        run_dir: the run's directory.
        overrides: section.key=value to try it with, such as train.precision=fp32.
        plugin: the Python file of the run's own parts, if it has any; may be repeated.

    Raises:
        UserError: nothing was saved, or the data are not here or not the same.
    """
    from detector.config.loading import load_config
    from detector.registry import load_plugins
    from detector.runtime.distributed import SingleProcess
    from detector.training.nonfinite_guard import NonFiniteGuard

    load_plugins(plugin)
    run = RunDir(run_dir)
    saved = run.read_failure()
    config = load_config(run.config_file, overrides).config
    state, loss_fn, batches = rebuild_step(saved, config)
    known = saved["failure"]
    print(
        f"step {known['step']} (epoch {known['epoch']}) of {run}, on {state.device_summary}",
        end="",
    )
    print("" if known["where"] == state.device_summary else f"; it happened on {known['where']}")

    guard = NonFiniteGuard(state, loss_fn, config.train, SingleProcess())
    measured, layers = measure(state, loss_fn, batches)
    origin = guard.diagnose_step({}, batches).origin
    print_step(known, measured, layers, origin)
    return Replayed(measured, layers, origin)


def rebuild_step(saved: FailureState, config: Config) -> tuple[TrainState, LossFunction, Sequence[Batch]]:
    """The model, its loss and the step's micro-batches, as they were before the step.

    Raises:
        UserError: the data are not here or not the same, or the device is not there.
    """
    import torch

    from detector.data.loader import Loader
    from detector.data.sources import load_configured
    from detector.models.base import freeze
    from detector.models.build import rebuild
    from detector.models.loss import DetectionLoss
    from detector.runtime.device import choose_device
    from detector.runtime.random_state import restore_random_state, seed_everything
    from detector.training.schedule import Schedule
    from detector.training.state import TrainState

    dataset = load_configured(config.data, config.train.seed)
    if saved["extra"]["data_fingerprint"] != dataset.fingerprint:
        raise UserError(f"{config.data.path}: the data changed since this step was saved")
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    few = config.data.model_copy(update={"cache": False, "workers": 0})  # only this step's images are read
    loader = Loader(dataset.splits["train"], few)
    schedule = Schedule.from_config(config, loader.batches_per_epoch(config.train.batch))
    step = int(saved["failure"]["step"])

    seed_everything(config.train.seed)
    model = rebuild(saved["extra"]["architecture"], len(dataset.names), saved["model"])
    freeze(model, config.model.freeze)
    state = TrainState.create(model, config.train, choose_device(config.train.device))
    loss_fn = DetectionLoss(model, config.train, schedule.epochs)
    batches = list(
        loader.train_batches(
            batch=config.train.batch,
            seed=config.train.seed,
            start=step * schedule.accumulate,
            stop=(step + 1) * schedule.accumulate,
            epochs=schedule.epochs,
        )
    )
    if [tuple(batch.indices) for batch in batches] != [tuple(indices) for indices in saved["indices"]]:
        raise UserError(
            "with these settings the step has other images; leave seed, batch and data as they were"
        )
    model.load_state_dict(saved["model"])
    if saved["scaler"] and state.scaler.is_enabled():
        state.scaler.load_state_dict(saved["scaler"])
    state.step = step
    state.train_mode()
    loss_fn.begin_epoch(schedule.epoch(step))
    restore_random_state(saved["rng"], state.device)
    return state, loss_fn, batches


def measure(
    state: TrainState, loss_fn: LossFunction, batches: Sequence[Batch]
) -> tuple[dict[str, float], dict[str, Layer]]:
    """The step's forward and backward passes.

    Returns:
        Loss, its parts and the gradient's norm under their names in the history; and what is known of each
        layer of the backbone, and of the rest.
    """
    import torch

    from detector.gradients.layers import tensors
    from detector.gradients.norms import joint_norm
    from detector.gradients.recorder import GradientRecorder
    from detector.models.loss import named
    from detector.training.clipping import clip_gradients
    from detector.training.engine import backward

    points = state.model.backbone_layers()
    outputs: dict[str, float] = {}

    def watch(name: str) -> Any:
        def hook(module: object, inputs: object, output: object) -> None:
            largest = max(float(tensor.detach().abs().max()) for tensor in tensors(output))
            outputs[name] = largest if largest != largest else max(largest, outputs.get(name, 0.0))

        return hook

    recorder = GradientRecorder(points)
    state.optimizer.zero_grad(set_to_none=True)
    recorder.begin()
    handles = [module.register_forward_hook(watch(name)) for name, module in points.items()]
    parts = torch.stack([backward(state, loss_fn, batch).parts for batch in batches]).mean(0)
    for handle in handles:
        handle.remove()
    state.scaler.unscale_(state.optimizer)
    recorder.gradients(state.scaler.get_scale())
    norm = clip_gradients(state.parameters, None)
    row = recorder.end({**named(parts), Key.GRAD_NORM: norm})
    layers = {
        name: Layer(outputs.get(name), row.get(Key.ACTIVATION_GRAD + name), row.get(Key.WEIGHT_GRAD + name))
        for name in points
    }
    inside = {id(p) for module in points.values() for p in module.parameters()}
    rest = [p.grad for p in state.model.parameters() if id(p) not in inside and p.grad is not None]
    layers["neck and head"] = Layer(None, None, float(joint_norm(rest)) if rest else None)
    return {key: value for key, value in row.items() if key.startswith("train/")}, layers


def print_step(
    known: Mapping[str, Any],
    measured: Mapping[str, float],
    layers: Mapping[str, Layer],
    origin: NonFiniteOrigin | None,
) -> None:
    """Say what happened then, and what happens now."""
    from detector.gradients.nonfinite import NonFiniteOrigin

    then = NonFiniteOrigin(**known["culprit"]) if known["culprit"] else None
    print(f"then       {then or 'no layer was found'}")
    same = origin is not None and then is not None and str(origin) == str(then)
    print(f"now        {'the same' if same else origin or 'everything is finite'}")
    print("           " + "".join(f"{key.removeprefix('train/'):>12}" for key in measured))
    print("then       " + "".join(f"{float(known[key]):12.5g}" for key in measured))
    print("now        " + "".join(f"{value:12.5g}" for value in measured.values()))
    shown = origin or then
    for number, images in enumerate(known["images"]):
        bad = (
            " <- here"
            if shown is not None and shown.micro_batch == number and len(known["images"]) > 1
            else ""
        )
        names = ", ".join(Path(name).name for name in images)
        print(f"images     {names}{bad}")
    width = max(map(len, layers))
    print(f"\n{'layer':{width}}  largest output  ‖dL/d(output)‖     ‖dL/dw‖")
    for name, layer in layers.items():
        output, grad, weights = (_short(value) for value in layer)
        print(f"{name:{width}}  {output:>14}  {grad:>14}  {weights:>9}")


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"
