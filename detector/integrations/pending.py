"""The row of a step that is measured and not yet complete."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from detector.errors import UserError
from detector.gradients.layers import trainable_weights
from detector.gradients.record import Record
from detector.gradients.recorder import GradientRecorder
from detector.rows import Key


class Pending:
    """The row of a step whose optimizer has yet to step."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.recorder: GradientRecorder | None = None
        self.numbers: dict[str, float] = {}
        self.tensors: dict[str, Tensor] = {}
        self.scaled_by = 1.0  # the weights' gradients
        self.may_be_skipped = False

    def record(self) -> Record:
        """What was measured, as numbers; empty if nothing was."""
        if self.recorder is None:
            return {}
        record = self.recorder.end(self.tensors)
        return {k: v / self.scaled_by if k.startswith(Key.WEIGHT_GRAD) else v for k, v in record.items()}


def check_there_is_something(
    recorder: GradientRecorder, layers: Mapping[str, nn.Module], has_gradients: bool
) -> None:
    """Raise UserError where a step has nothing to measure: `step` is called at the wrong place."""
    if not recorder.active:
        raise UserError(
            "watch: no watched layer took part in a forward pass of this process; call step() once a step, "
            "after loss.backward(), and watch the module that is trained (not under DataParallel)"
        )
    if not recorder.reached:
        raise UserError("watch: no gradient has reached a watched layer: call step() after loss.backward()")
    if not has_gradients and any(map(trainable_weights, layers.values())):
        raise UserError("watch: the weights have no gradients: call step() before optimizer.zero_grad()")
