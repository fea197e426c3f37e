"""Several runs that train in step, so that their networks compute as one: see `models.stacked`.

Each run is `detector.fit` as ever, in a thread of its own: its data, loss, recorder, clipping, optimiser,
evaluations and files know nothing of the others. Only the passes of a training step are joint: there each
run waits for the others, and the last to come computes for all. Otherwise only one runs at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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
from detector.runtime.failures import ran_out_of_memory
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
        self._asked: dict[Member, Work | None] = {}  # None: it has differentiated its losses
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

    def forward(self, member: Member, work: Work) -> Loss:
        """The member's loss, detached: once all have come again, what arrived at it is passed on.

        Raises:
            Exception: a joint pass failed; every member of the group gets the same error.
        """
        loss: Loss = self._meet(member, work)
        return loss

    def backward(self, member: Member) -> None:
        """At the end of a step's passes: add to the gradients of the member's model. Raises as `forward`."""
        self._meet(member, None)

    def _meet(self, member: Member, work: Work | None) -> Any:
        """Wait until all have come, and let one member compute for all."""
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
        """The backward passes that are due, and all forward passes; the gradients, if nobody asks for one."""
        for group, passes in list(self._groups.items()):  # before more memory is taken
            with self._shared_error(group):
                passes.backward()
        groups: dict[Any, list[Member]] = {}
        for member in self.members:  # in their order, whoever came first: so the same command repeats itself
            if (work := self._asked[member]) is not None and member not in self._answers:
                groups.setdefault(work.layout, []).append(member)
        for group in map(tuple, groups.values()):  # usually one
            with self._shared_error(group):
                self._answers |= zip(group, self._forward(group), strict=True)
        if not groups:
            self._collect()
        for member in self._answers:
            self._asked.pop(member, None)

    def _forward(self, group: tuple[Member, ...]) -> list[Loss]:
        if group not in self._groups:
            assert self.template is not None, "its members train"
            self._groups[group] = JointPasses(group, self.template)
        return self._groups[group].forward([work for one in group if (work := self._asked[one]) is not None])

    def _collect(self) -> None:
        for group, passes in list(self._groups.items()):
            with self._shared_error(group):
                passes.networks.collect()
            if not set(group) <= set(self.members):
                self._groups.pop(group, None)
        self._answers = dict.fromkeys(self._asked) | self._answers

    @contextmanager
    def _shared_error(self, group: tuple[Member, ...]) -> Iterator[None]:
        """An error inside is the answer to every member of the group; of its passes nothing is left."""
        try:
            yield
        except Exception as error:
            if ran_out_of_memory(error):
                error.add_note("leave out --stack")
            self._answers |= dict.fromkeys(group, error)
            self._groups.pop(group, None)


class Work(NamedTuple):
    """What a run's forward pass needs besides its network."""

    images: Tensor  # (B, 3, H, W)
    targets: dict[str, Tensor]

    @property
    def layout(self) -> tuple[object, ...]:
        """What must be the same in all batches of a joint pass, and so in the networks' weights, too."""
        return self.images.shape, self.images.stride(), self.images.device


class JointPasses:
    """The passes of runs whose batches have one layout."""

    def __init__(self, members: Sequence[Member], template: nn.Module) -> None:
        self.networks = StackedNetworks([member.model for member in members], template)
        self.losses = [member.loss_fn for member in members]
        first = self.losses[0]
        fits = isinstance(first, DetectionLoss) and StackedLoss.fits(first)
        self.joint = StackedLoss(first) if fits else None  # type: ignore[arg-type]
        self._pending: list[tuple[Tensor, Tensor]] = []  # the last losses, and what the runs got of them

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
        self._pending = [(loss.total, own.total) for loss, own in zip(losses, given, strict=True)]
        return given

    def backward(self) -> None:
        """Through the last forward pass, if it is due; a loss that nobody differentiated is left out."""
        reached = [(total, given.grad) for total, given in self._pending if given.grad is not None]
        self._pending = []
        if reached:
            torch.autograd.backward([total for total, _ in reached], [gradient for _, gradient in reached])


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
            self.stack.backward(self)

    def accepts(self, micro_batches: list[Batch], loss: Tensor, grad_norm: Tensor) -> bool:
        """See `Guard`."""
        return self.guard.accepts(micro_batches, loss, grad_norm)

    def begin_epoch(self, epoch: int) -> None:
        """See `LossFunction`."""
        self.loss_fn.begin_epoch(epoch)

    def __call__(self, preds: Any, targets: dict[str, Tensor]) -> Loss:
        """See `LossFunction`; of images that wait, the whole forward pass."""
        if isinstance(preds, Work):
            return self.stack.forward(self, preds._replace(targets=targets))
        return self.loss_fn(preds, targets)

    def _forward(self, images: Tensor) -> Any:
        if len(self.stack.members) > 1 and can_be_stacked(self.model):
            return Work(images, {})
        return type(self.model).forward(self.model, images)
