"""Several runs that train in step, so that their networks compute as one: see `models.stacked`.

Each run is `detector.fit` as ever, in a thread of its own: its data, loss, recorder, clipping, optimiser,
evaluations and files know nothing of the others. Only the passes of a training step are joint: there each
run waits for the others, and the last to come computes for all. Apart from that one runs at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from detector.config.schema import TrainConfig
from detector.data.batch import Batch
from detector.models.loss import DetectionLoss, Loss, LossFunction
from detector.models.stacked import StackedNetworks, can_be_stacked, template_of
from detector.models.stacked_loss import StackedLoss
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
        self._asked: dict[Member, Work | None] = {}  # None: its loss has been differentiated
        self._answers: dict[Member, Any] = {}
        self._groups: dict[tuple[Member, ...], JointPasses] = {}

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

    def meet(self, member: Member, work: Work | None) -> Any:
        """Wait until all have come, and have one compute for all.

        Args:
            member: who asks.
            work: of its forward pass; None: its loss has been differentiated.

        Returns:
            Its loss; of None, None.

        Raises:
            Exception: the passes failed; all whose they were get the same.
        """
        self._asked[member] = work
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
        for member in self.members:  # in their order, whoever came first: so the same command repeats itself
            if (work := self._asked[member]) is not None:
                groups.setdefault(work.images.shape, []).append(member)
        for group in map(tuple, groups.values()):  # usually one
            tasks = [work for one in group if (work := self._asked.pop(one)) is not None]
            self._answer(group, partial(self._forward, group, tasks))
        if groups:
            return
        self._answers |= self._asked
        self._asked.clear()
        for group, passes in self._groups.items():
            self._answer(group, passes.backward)
        for group in [group for group in self._groups if not set(group) <= set(self.members)]:
            del self._groups[group]

    def _answer(self, group: Sequence[Member], compute: Callable[[], Sequence[Any]]) -> None:
        try:
            self._answers |= zip(group, compute(), strict=True)
        except Exception as error:
            self._answers |= dict.fromkeys(group, error)

    def _forward(self, group: tuple[Member, ...], tasks: Sequence[Work]) -> list[Loss]:
        if group not in self._groups:
            assert self.template is not None, "its members train"
            self._groups[group] = JointPasses(group, self.template)
        return self._groups[group].forward(tasks)


class Work(NamedTuple):
    """What a run's forward pass needs besides its network."""

    images: Tensor  # (B, 3, H, W)
    targets: dict[str, Tensor]


class JointPasses:
    """The passes of runs whose batches have one shape."""

    def __init__(self, members: Sequence[Member], template: nn.Module) -> None:
        self.networks = StackedNetworks([member.model for member in members], template)
        self.losses = [member.loss_fn for member in members]
        first = self.losses[0]
        fits = isinstance(first, DetectionLoss) and StackedLoss.fits(first)
        self.joint = StackedLoss(first) if fits else None  # type: ignore[arg-type]
        self._passes: list[tuple[list[Loss], list[Loss]]] = []  # the losses, and what the runs got of them

    def forward(self, tasks: Sequence[Work]) -> list[Loss]:
        """Each run's loss, detached: what arrives at it is passed on by `backward`."""
        output = self.networks.forward([task.images for task in tasks])
        targets = [task.targets for task in tasks]
        if self.joint is not None:
            images = len(tasks[0].images)
            losses = [Loss(own.sum() * images, own.detach()) for own in self.joint(output, targets)]
        else:
            each = [tree_map(itemgetter(at), output) for at in range(len(tasks))]
            losses = [loss(*own) for loss, *own in zip(self.losses, each, targets, strict=True)]
        given = [Loss(loss.total.detach().requires_grad_(), loss.parts) for loss in losses]
        self._passes.append((losses, given))
        return given

    def backward(self) -> list[None]:
        """All passes since the last call; a loss that nobody differentiated is left out."""
        passes, self._passes = self._passes, []
        for losses, given in passes:
            reached = [pair for pair in zip(losses, given, strict=True) if pair[1].total.grad is not None]
            totals, gradients = [one.total for one, _ in reached], [own.total.grad for _, own in reached]
            torch.autograd.backward(totals, gradients)
        self.networks.collect()
        return [None] * len(self.losses)


class Member:
    """One run's place in a stack: the loop that `detector.fit` is given, with its loss and its guard."""

    model: nn.Module  # these three from the beginning of training on
    loss_fn: LossFunction
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
        self.model, self.device, self.loss_fn, self.guard = state.model, state.device, loss_fn, guard
        state.stacked = self.stack.size
        self.stack.template = self.stack.template or template_of(state.model)
        try:
            return train(state, self, batches, schedule, config, callback, self, dist)
        finally:
            self.stack.leave(self)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Around a step's passes: see `Guard`. Inside, the model waits for its targets."""
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

    def begin_epoch(self, epoch: int) -> None:
        """See `LossFunction`."""
        self.loss_fn.begin_epoch(epoch)

    def __call__(self, preds: Any, targets: dict[str, Tensor]) -> Loss:
        """See `LossFunction`; of images that wait, the whole forward pass."""
        if isinstance(preds, Work):
            loss: Loss = self.stack.meet(self, preds._replace(targets=targets))
            return loss
        return self.loss_fn(preds, targets)

    def _forward(self, images: Tensor) -> Any:
        if len(self.stack.members) > 1 and can_be_stacked(self.model):
            return Work(images, {})
        return type(self.model).forward(self.model, images)
