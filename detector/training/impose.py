"""`gradients.impose` and `gradients.equalise`: an experiment on the gradient's size, as a callback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from detector.config.schema import Config
from detector.errors import UserError
from detector.gradients.impose import ImposedProfile, equalise
from detector.gradients.layers import trainable_weights
from detector.gradients.profile import read_profile
from detector.gradients.signal import Gather, alone
from detector.rows import Key
from detector.training.callbacks import Callback, Row
from detector.training.schedule import Schedule
from detector.training.state import TrainState


class ImposeProfile(Callback):
    """Imposes a profile on every step. It stands before the recorder, which so records the imposed curve."""

    def __init__(self, state: TrainState, imposed: ImposedProfile) -> None:
        self.state, self.imposed = state, imposed
        self._raw: Mapping[str, Tensor] = {}

    def on_step_begin(self, step: int) -> None:
        """Take this step's profile."""
        self.imposed.begin(step)

    def on_backward_end(self, step: int) -> None:
        """Refuse what could not be written, and keep the curve as it arrived."""
        scale = self.state.scaler.get_scale()
        self._raw = {name: norm / scale for name, norm in self.imposed.raw().items()}

    def on_record(self, row: Row) -> None:
        """Log the curve before it was rescaled, beside the imposed one."""
        row |= {Key.RAW_ACTIVATION_GRAD + name: norm for name, norm in self._raw.items()}

    def on_train_end(self) -> None:
        """Take the hooks off."""
        self.imposed.remove()


class EqualiseWeights(Callback):
    """Gives the weight gradients of all the trunk's layers the same relative size, on every step."""

    def __init__(self, model: nn.Module, points: Mapping[str, nn.Module]) -> None:
        self.model, self.points = model, points
        self._raw: Mapping[str, Tensor] = {}

    def on_backward_end(self, step: int) -> None:
        """Rescale them, before they are recorded and clipped."""
        self._raw = equalise(self.model, self.points)

    def on_record(self, row: Row) -> None:
        """Log the norms before."""
        row |= {Key.RAW_WEIGHT_GRAD + name: norm for name, norm in self._raw.items()}


def interventions(
    state: TrainState, schedule: Schedule, config: Config, gather: Gather = alone
) -> Sequence[Callback]:
    """What the configuration does to the gradient: usually nothing.

    Raises:
        UserError: the profile does not fit the network or the run, or there is no trunk that learns.
    """
    points, wanted = state.model.backbone_layers(), config.gradients
    if wanted.impose is None and not wanted.equalise:
        return ()
    key = "gradients.equalise" if wanted.impose is None else f"gradients.impose={wanted.impose}"
    if len(points) < 2:
        raise UserError(f"{key}: this network names no layers of a trunk to work on")
    if not any(trainable_weights(module) for module in points.values()):
        raise UserError(f"{key}: the trunk is frozen, so that its gradient changes nothing")
    found: list[Callback] = []
    if wanted.impose is not None:
        profile = read_profile(wanted.impose, list(points), schedule.steps, config.train.seed)
        found.append(ImposeProfile(state, ImposedProfile(points, profile, gather)))
    if wanted.equalise:
        found.append(EqualiseWeights(state.model, points))
    return found
