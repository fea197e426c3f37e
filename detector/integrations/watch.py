"""The gradients of a network in anybody's training loop."""

from __future__ import annotations

import math
import time
import warnings
import weakref
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from detector.analysis.diagnosis import diagnose
from detector.config.experiment import WATCHED
from detector.errors import UserError
from detector.gradients.recorder import GradientRecorder
from detector.gradients.signal import alone
from detector.integrations.layers import Layers, choose_layers, levels_of
from detector.integrations.pending import Pending, check_there_is_something
from detector.integrations.sinks import loggers_for
from detector.integrations.surroundings import gather, is_compiled, processes, unwrapped
from detector.rows import Key, own_metrics
from detector.training.provenance import provenance

MOST_ROWS = 1000  # that are kept in memory
METRICS = Key.TRAIN_MAP, Key.TRAIN_MAP50, Key.VAL_MAP, Key.VAL_MAP50, Key.LOSS


def watch(
    model: nn.Module,
    *to: object,
    every: int = 10,
    layers: Layers = "layers",
    example: Any = None,
    settings: Mapping[str, Any] | None = None,
    across_ranks: bool = False,
) -> GradientFlow:
    """Watch the gradient of every layer of a network, in a training loop of one's own.

    >>> import torch
    >>> from torch import nn
    >>> from detector import watch
    >>> model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> flow = watch(model, "runs/mine", every=1)
    >>> for _ in range(3):
    ...     loss = model(torch.ones(2, 4)).square().mean()
    ...     loss.backward()
    ...     flow.step(loss)                     # after the last backward(), before clipping
    ...     optimizer.step()
    ...     optimizer.zero_grad()
    >>> summary = flow.finish()
    >>> [row["step"] for row in flow.rows], list(flow.layers)
    ([0, 1, 2], ['00_0', '01_2', '02_4'])

    Nothing of the training changes: weights come out the same, bit for bit. Hooks are on the layers only
    between the forward pass of a recorded step and `step`; a compiled model runs that step uncompiled.

    Args:
        model: any module; `DistributedDataParallel` and `torch.compile` around it are looked through.
        to: where rows go: the directory of a new run, which `detector compare` reads, a W&B run, a
            TensorBoard `SummaryWriter`, or a function such as `rows.append`. The newest are in `flow.rows`.
        every: steps between recorded ones; the first one is recorded.
        layers, example: see `choose_layers`.
        settings: what the run's config.yaml is to say for `detector compare`, such as
            `{"run.name": "retinanet", "data.path": "coco8", "data.image_size": 320, "train.lr": 0.01}`.
        across_ranks: of several processes each with a shard of the batch: measure the whole batch; then all
            of them must call `step`. Otherwise activation gradients are those of this process's shard.

    Raises:
        UserError: nothing of the model is trained, no such layer or sink, or the directory holds a run.
    """
    return GradientFlow(
        model,
        *to,
        every=every,
        layers=layers,
        example=example,
        settings=settings,
        across_ranks=across_ranks,
    )


class GradientFlow:
    """What `watch` returns. One call a step; `finish` at the end, or a `with` block around the loop.

    A row is complete once the optimizer has stepped, so it is handed on by the next call. It has the keys of
    `history.jsonl`: those of `GradientRecorder`, `train/loss` and `train/grad_norm` before clipping.
    """

    def __init__(
        self,
        model: nn.Module,
        *to: object,
        every: int = 10,
        layers: Layers = "layers",
        example: Any = None,
        settings: Mapping[str, Any] | None = None,
        across_ranks: bool = False,
    ) -> None:
        if every < 1:
            raise UserError(
                f"watch: every={every}: is the number of steps from one recorded to the next: 1, 2, …"
            )
        self.model, self.every, self.steps = model, every, 0
        self.layers = choose_layers(model, layers, example)
        self.rows: deque[dict[str, float]] = deque(maxlen=MOST_ROWS)
        self._world, rank = processes()
        self._gather = gather if across_ranks and self._world > 1 else alone
        levels = levels_of(model) if layers in ("auto", "layers") else {}
        # Two: one waits for the optimizer's step while the other records the next.
        self._recorders = [GradientRecorder(self.layers, self._gather, levels=levels) for _ in range(2)]
        for recorder in self._recorders:
            recorder.signal.gather = alone  # other processes' images may have another size
        self._armed: GradientRecorder | None = None
        self._in_case = False  # the step in progress is to be recorded only if the one before was skipped
        self._pending: Pending | None = None
        self._first: dict[str, float] | None = None
        self._skipped, self._started, self._finished = 0, time.perf_counter(), False
        self._latest: dict[str, float] = {}  # of each metric
        self._settings = {"train.seed": torch.initial_seed(), "gradients.every": every} | dict(settings or {})
        self._settings[WATCHED] = type(unwrapped(model)).__name__
        self._ids = frozenset(map(id, self.layers.values()))
        self._until_measured = ExitStack()
        self._logger, self.runs = loggers_for(to if rank == 0 else (), self._settings)
        weakref.finalize(self, self._until_measured.close)
        self._arm()

    @property
    def recording(self) -> bool:
        """Whether the next `step` measures."""
        return self._armed is not None

    def __enter__(self) -> Self:
        """Nothing is to be done before."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish; a run that an error ended is `stopped`."""
        self.finish(status="finished" if error is None else "stopped")

    def step(self, loss: Tensor | float | None = None, *, scaler: Any = None, unscaled: bool = False) -> bool:
        """Measure a step: after its last `backward()`, before clipping, `optimizer.step()` and `zero_grad()`.

        Args:
            loss: of the step, for the row.
            scaler: the `GradScaler` that the loss was scaled by.
            unscaled: whether `scaler.unscale_(optimizer)` was called before.

        Returns:
            Whether this step is recorded.

        Raises:
            UserError: at the first step, if no gradient is there to measure.
        """
        self._complete()
        scaler = scaler if scaler is not None and scaler.is_enabled() else None
        pending = Pending(self.steps)
        recorder, self._armed = self._armed, None
        if recorder is not None:
            self._until_measured.close()
            if self._in_case and self._first is not None:
                recorder.cancel()
            else:
                self._measure(recorder, pending, loss, scaler, unscaled)
        self._pending = pending
        self.steps += 1
        due = self.steps % self.every == 0
        # A scaler may skip the first steps, as the row will tell: then the next one is the first.
        self._in_case = not due and self._first is None and scaler is not None
        if due or self._in_case:
            self._arm()
        return pending.recorder is not None

    def log(self, numbers: Mapping[str, Any]) -> None:
        """Add numbers to the row of the newest step, such as `{"val/mAP50-95": 0.3, "epoch": 2}`."""
        if self._pending is None:
            self._pending = Pending(max(0, self.steps - 1))
        for key, value in numbers.items():
            value = value.item() if isinstance(value, Tensor) else value
            self._pending.numbers[str(key)] = value if type(value) is int else float(value)

    def soon(self) -> None:
        """Record the next step, whatever `every` says; nothing where the step in progress has begun."""
        self._in_case = False
        if self._armed is None:
            self._arm()

    def cancel(self) -> None:
        """Forget what the step in progress has done so far: its batches are dropped, without a `step`."""
        if self._armed is not None:
            self._armed.cancel()
            self._until_measured.close()
            self._arm()

    def finish(
        self, numbers: Mapping[str, Any] | None = None, *, status: Literal["finished", "stopped"] = "finished"
    ) -> dict[str, Any]:
        """Hand on the last row, and write `summary.json` with V and the verdict; once.

        Args:
            numbers: are added to the last row and to the summary, such as the final mAP.
            status: whether training reached its end.

        Returns:
            The summary: see `diagnose` for what is said of the gradients.
        """
        if numbers:
            self.log(numbers)
        self._complete()
        self._disarm()
        summary = self._summary(status)
        if not self._finished:
            self._finished = True
            self._logger.finish(summary, None)
            self._logger.close()
        return summary

    # --- hooks -----------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Record the next step, from its first forward pass on: no copy of the model has the hooks."""
        measured = self._pending.recorder if self._pending else None
        self._armed = next(recorder for recorder in self._recorders if recorder is not measured)
        if is_compiled(self.model):  # whose graphs know no hooks that come and go
            # It warns of global hooks, such as ours below, which only looks for watched layers.
            warnings.filterwarnings("ignore", message=".*when there are global hooks on modules")
            self._until_measured.enter_context(torch.compiler.set_stance("force_eager"))
        this = weakref.ref(self)

        def before_forward(module: nn.Module, inputs: Any) -> None:
            flow = this()
            if flow is None:
                handle.remove()
            elif id(module) in flow._ids and torch.is_grad_enabled() and flow._armed is not None:
                handle.remove()
                flow._armed.begin()

        handle = register_module_forward_pre_hook(before_forward)
        self._until_measured.callback(handle.remove)

    def _disarm(self) -> None:
        if self._armed is not None:
            self._armed.cancel()
            self._armed = None
        self._until_measured.close()

    # --- rows ------------------------------------------------------------------------------------

    @torch.no_grad()
    def _measure(
        self,
        recorder: GradientRecorder,
        pending: Pending,
        loss: Tensor | float | None,
        scaler: Any,
        unscaled: bool,
    ) -> None:
        scale = float(scaler.get_scale()) if scaler is not None else 1.0
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if self._first is None:
            check_there_is_something(recorder, self.layers, bool(gradients))
        joined = self._gather is not alone
        recorder.gradients(scale * self._world if joined else scale)  # the gradients were averaged
        recorder.take_hooks_off()
        pending.recorder, pending.scaled_by = recorder, 1.0 if unscaled else scale
        pending.may_be_skipped = scaler is not None
        if isinstance(loss, Tensor):
            pending.tensors[Key.LOSS] = self._gather(loss.detach().mean()).mean()
        elif loss is not None:
            pending.numbers[Key.LOSS] = float(loss)
        if gradients:
            pending.tensors[Key.GRAD_NORM] = nn.utils.get_total_norm(gradients) / pending.scaled_by

    def _complete(self) -> None:
        """Hand on the row of the step before; the optimizer has stepped since."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        record = pending.record()
        if pending.may_be_skipped and not math.isfinite(record.get(Key.GRAD_NORM, 0.0)):
            self._skipped += 1  # by the scaler: no step was taken
            self.steps -= 1
            record = {}
        numbers = record | pending.numbers
        if not numbers:
            return
        row = {Key.STEP: pending.step, **numbers}
        self._latest |= {
            key: value for key, value in row.items() if key in (*METRICS, Key.EPOCH) or "val/" in key
        }
        if Key.VANISHING_INDEX in row:
            self._first = self._first or row
        self.rows.append(row)
        self._logger.log(row)

    def _summary(self, status: str) -> dict[str, Any]:
        rows = list(self.rows)
        if self._first is not None and self._first not in rows:
            rows.insert(0, self._first)
        others = {
            key: self._latest[key]
            for key in self._latest
            if key.removeprefix("val/") in own_metrics(self._latest)
        }
        known = self._settings
        return {
            "ablation": known.get("run.name") or (self.runs[0].path.name if self.runs else "watched"),
            "seed": known["train.seed"],
            "dataset": known.get("data.path"),
            "status": status,
            "steps": self.steps,
            "epochs": self._latest[Key.EPOCH] + 1 if Key.EPOCH in self._latest else None,
            "seconds": time.perf_counter() - self._started,
            **{key: self._latest.get(key) for key in METRICS},
            **others,
            **diagnose(rows, self.steps),
            "steps_skipped": self._skipped,
            "processes": self._world,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "data_fingerprint": None,
            **provenance(str(next(self.model.parameters()).device)),
        }
