"""Several runs that train in step, so that their networks compute as one: see `models.stacked`.

Each run is `detector.fit` as ever, in a thread of its own: its data, loss, recorder, clipping, optimiser,
evaluations and files know nothing of the others. Only the passes of a training step are joint: there each
run waits for the others, and the last to come computes for all. Apart from that one runs at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detector.config.schema import TrainConfig
from detector.data.batch import Batch
from detector.models.loss import LossFunction
from detector.models.stacked import StackedNetworks, can_be_stacked, template_of
from detector.runtime.distributed import SingleProcess
from detector.runtime.turns import Turns
from detector.training.callbacks import Callback, Guard
from detector.training.engine import Status, train
from detector.training.schedule import Schedule
from detector.training.state import TrainState


class Stack:
    """Where the runs meet. All members are made before the first one trains."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.size = 0
        self.members: list[Member] = []  # those that may still come
        self.template: nn.Module | None = None
        self._asked: dict[Member, Tensor | None] = {}  # images to pass forward; None: gradients to pass back
        self._answers: dict[Member, Any] = {}
        self._networks: dict[tuple[Member, ...], StackedNetworks] = {}

    def member(self) -> Member:
        """One more run."""
        self.size += 1
        self.members.append(member := Member(self))
        return member

    def leave(self, member: Member) -> None:
        """The others go on without it."""
        if member in self.members:
            self.members.remove(member)
            self.turns.wake()

    def meet(self, member: Member, images: Tensor | None) -> Any:
        """Wait until all have come, and have one compute for all.

        Args:
            member: who asks.
            images: (B, 3, H, W) for its network; None: its loss has been differentiated.

        Returns:
            The raw predictions; of None, None.

        Raises:
            Exception: the passes failed; all whose they were get the same.
        """
        self._asked[member] = images
        while member in self._asked:
            if len(self._asked) == len(self.members):
                self._compute()
                self.turns.wake()
            else:
                self.turns.wait(member.device)
        answer = self._answers.pop(member)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _compute(self) -> None:
        """All forward passes that are asked for; if there are none, all backward passes."""
        groups: dict[torch.Size, list[Member]] = {}
        for (
            member
        ) in self.members:  # in their order, whoever came first: the same command gives the same runs
            if (images := self._asked[member]) is not None:
                groups.setdefault(images.shape, []).append(member)
        for group in map(tuple, groups.values()):  # usually one
            batches = [images for one in group if (images := self._asked.pop(one)) is not None]
            self._answer(group, partial(self._forward, group, batches))
        if groups:
            return
        self._answers |= self._asked
        self._asked.clear()
        for group, network in self._networks.items():
            self._answer(group, network.backward)
        for group in [group for group in self._networks if not set(group) <= set(self.members)]:
            del self._networks[group]

    def _answer(self, group: Sequence[Member], compute: Callable[[], Sequence[Any]]) -> None:
        try:
            self._answers |= zip(group, compute(), strict=True)
        except Exception as error:
            self._answers |= dict.fromkeys(group, error)

    def _forward(self, group: tuple[Member, ...], batches: Sequence[Tensor]) -> list[Any]:
        if group not in self._networks:
            assert self.template is not None, "its members train"
            self._networks[group] = StackedNetworks([member.model for member in group], self.template)
        return self._networks[group].forward(batches)


class Member:
    """One run's place in a stack: the loop that `detector.fit` is given, and the guard of its steps."""

    model: nn.Module  # these two from the beginning of training on
    guard: Guard

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.device = torch.device("cpu")

    def train(
        self,
        state: TrainState,
        loss_fn: LossFunction,
        batches: Iterable[Batch],
        schedule: Schedule,
        config: TrainConfig,
        callback: Callback,
        guard: Guard,
        dist: SingleProcess,
    ) -> Status:
        """As `detector.training.engine.train`, with joint passes."""
        self.model, self.device, self.guard = state.model, state.device, guard
        state.stacked = self.stack.size
        self.stack.template = self.stack.template or template_of(state.model)
        try:
            return train(state, loss_fn, batches, schedule, config, callback, self, dist)
        finally:
            self.stack.leave(self)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Around a step's passes: see `Guard`. Inside, the model's forward pass is the stack's."""
        with self.guard.attempt():
            vars(self.model)["forward"] = self._forward
            try:
                yield
            finally:
                del vars(self.model)["forward"]
            self.stack.meet(self, None)

    def accepts(self, micro_batches: list[Batch], loss: Tensor, grad_norm: Tensor) -> bool:
        """See `Guard`."""
        return self.guard.accepts(micro_batches, loss, grad_norm)

    def _forward(self, images: Tensor) -> Any:
        if len(self.stack.members) > 1 and can_be_stacked(self.model):
            return self.stack.meet(self, images)
        return type(self.model).forward(self.model, images)
