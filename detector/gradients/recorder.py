"""Measures the gradient of every layer, at the one moment when it is the true one.

That moment is after accumulation and unscaling and before clipping. Hooks exist only while a step is
recorded; everything stays on the device until one transfer at the end of the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from detector.gradients.layers import layers_of, numbered, tensors, trainable_weights
from detector.gradients.norms import SMALL, Copies, joint_squares, measurable, norm
from detector.gradients.record import INSIDE, Record, record_of
from detector.gradients.signal import Gather, SignalMeter, alone
from detector.rows import Key


class GradientRecorder:
    """Records the gradient of a network's layers, in network order. It works on any `nn.Module`.

    >>> import torch
    >>> from torch import nn
    >>> from detector import GradientRecorder
    >>> model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    >>> recorder = GradientRecorder(model)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with recorder:
    ...     model(torch.ones(2, 4)).sum().backward()
    >>> optimizer.step()
    >>> list(recorder.measure())[:4]
    ['activation_grad/00_0', 'activation_grad/01_2', 'activation_grad/02_4', 'weight_grad/00_0']

    Where the gradient is scaled, or is to be measured before something else happens to it, three calls around
    the usual ones do the same:

        recorder.begin()                          # hooks on
        loss.backward()                           # once, or once a micro-batch
        recorder.gradients(scale)                 # norms, before clipping
        optimizer.step()
        record = recorder.end({Key.LOSS: …})  # hooks off; one transfer to the host

    The record holds, for each point `NN_name` (for its other keys, see `gradients.record`):

    - `activation_grad/NN_name`: ‖dL/d(output of the layer)‖, the Frobenius norm over all micro-batches
    - `weight_grad/NN_name`: ‖dL/dw‖ over the layer's weights (biases and norms left out, as their
      size says nothing: they start at 0 and 1)
    - `update_ratio/NN_name`: ‖w after - w before‖ / ‖w before‖ of the optimiser's step

    A vanished gradient of 1e-30 keeps its norm, though its square is zero in float32: see `norms`.

    Where the batch is sharded, each shard has a recorder of its own; all make these calls and get the record
    of the joined batch. The gradients of the weights must have been summed when `gradients` is called.

    Args:
        points: the layers by their names, in network order; or a model, whose layers are then chosen.
        gather: stacks a tensor of every shard, (…) -> (shards, …).
        layers: of a model: `auto` for its blocks (see `layers_of`), or the names of its submodules.
        levels: the points where the levels of a feature pyramid end, such as `{"p3": "14_p3.9"}`.
        inside: more modules to record, which no index takes into account; see `detector.gradients.points`.
    """

    def __init__(
        self,
        points: Mapping[str, nn.Module] | nn.Module,
        gather: Gather = alone,
        *,
        layers: Literal["auto"] | Sequence[str] = "auto",
        levels: Mapping[str, str] | None = None,
        inside: Mapping[str, nn.Module] | None = None,
    ) -> None:
        if isinstance(points, nn.Module):
            points = layers_of(points) if layers == "auto" else numbered(points, layers)
        if not points:
            raise ValueError("at least one layer must be recorded")
        self.points, self.gather = dict(points), gather
        self._inside = {INSIDE + name: module for name, module in (inside or {}).items()}
        self.signal = SignalMeter({"": list(self.points)[-1], **(levels or {})}, gather)
        self._handles: list[RemovableHandle] = []
        self._gradients: dict[str, list[Tensor]] = {}
        self._measured: dict[str, Tensor] = {}
        self._copies: Copies | None = None

    @property
    def active(self) -> bool:
        """Whether the current step is being recorded."""
        return bool(self._handles)

    @property
    def reached(self) -> list[str]:
        """The layers at which a gradient has arrived in the step so far."""
        return [name for name in self.points if name in self._gradients]

    def __enter__(self) -> Self:
        """As `begin`: the forward and the backward pass belong inside."""
        self.begin()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """As `gradients`; after an error the step is forgotten."""
        if error is not None:
            self.cancel()
            return
        self.gradients()
        self.take_hooks_off()

    def measure(self) -> Record:
        """The record of the last `with` block; after the optimizer's step, with the update ratios."""
        return self.end()

    def begin(self) -> None:
        """Put the hooks on."""
        self.cancel()
        for name, module in (self.points | self._inside).items():
            self._handles.append(module.register_forward_hook(self._watch(name)))

    def gradients(self, scale: float | Tensor = 1.0) -> None:
        """Measure the gradients as they stand, and keep a copy of the weights; nothing when not recording.

        Args:
            scale: what the loss was multiplied by (a gradient scaler's factor). Activation gradients are
                divided by it; weight gradients must be unscaled already.
        """
        if not self.active:
            return
        watched = self.points | self._inside
        if reached := [name for name in watched if name in self._gradients]:
            squares = joint_squares(self._gradients[name] for name in reached)
            norms = self.gather(squares).sum(0).sqrt() / scale
            self._measured |= {
                Key.ACTIVATION_GRAD + name: norm for name, norm in zip(reached, norms, strict=True)
            }
        layers = {
            name: weights
            for name, module in watched.items()
            if (weights := [p for p in trainable_weights(module) if p.grad is not None])
        }
        if layers:
            grads = ([p.grad for p in weights if p.grad is not None] for weights in layers.values())
            keys = (Key.WEIGHT_GRAD + name for name in layers)
            self._measured |= dict(zip(keys, joint_squares(grads).sqrt(), strict=True))
        if layers := {name: weights for name, weights in layers.items() if name in self.points}:
            if self._copies is None or not self._copies.of(layers):
                self._copies = Copies(layers)
            self._measured |= {f"weight/{name}": norm for name, norm in self._copies.take().items()}

    @torch.no_grad()
    def end(self, extra: Mapping[str, Tensor] | None = None) -> Record:
        """Take the hooks off and bring everything to the host at once.

        Args:
            extra: scalars of the step (a loss, a global norm) that share the one transfer.

        Returns:
            The record, keys in network order; `extra` first.
        """
        measured = {**(extra or {}), **self._measured}
        if self._copies is not None and any(key.startswith("weight/") for key in self._measured):
            measured |= {f"update/{name}": norm for name, norm in self._copies.subtract().items()}
        measured |= self.signal.measure()
        self.cancel()
        if not measured:
            return {}
        values = torch.stack([measurable(value).double() for value in measured.values()]).tolist()
        found = dict(zip(measured, values, strict=True))
        own = {key: found[key] for key in extra or {}}
        return own | record_of(found, self.points, self._inside) | self.signal.report(found)

    def cancel(self) -> None:
        """Take the hooks off and forget the step."""
        self.take_hooks_off()
        self._gradients, self._measured = {}, {}
        self.signal.clear()

    def take_hooks_off(self) -> None:
        """After `gradients`, where other passes come before `end`: evaluations, copies of the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _watch(self, name: str) -> Any:
        def forward_hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not torch.is_grad_enabled():
                return
            for tensor in tensors(output):
                if not tensor.requires_grad:
                    if name in self._inside:
                        continue
                    # A frozen layer builds no graph; the gradient that reaches it is asked for all the same.
                    tensor.requires_grad_()
                tensor.register_hook(self._collect(name))
                self.signal.watch(name, tensor)

        return forward_hook

    def _collect(self, name: str) -> Any:
        def backward_hook(grad: Tensor) -> None:
            # A small one is copied, to be measured with the others by one call; of a large one, its norm.
            # Its own memory may become a weight's gradient, to which the next micro-batch adds.
            small = grad.device.type == "cpu" and grad.numel() <= SMALL
            kept = grad.detach().clone() if small else norm(grad)
            self._gradients.setdefault(name, []).append(kept)

        return backward_hook
