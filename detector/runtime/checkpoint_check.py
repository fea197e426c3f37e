"""What a checkpoint holds, and the check of a stranger's before any of it is used.

`torch.load(weights_only=True)` runs no code, but it says nothing about sizes and types: a few bytes can
unpack to gigabytes, claim a tensor of a trillion numbers, or put text where a number belongs.
"""

from __future__ import annotations

import mmap
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from torch import Tensor, nn
from typing_extensions import TypedDict  # pydantic takes typing's from Python 3.12 on

Steps = Annotated[int, Field(ge=0, lt=10**12)]
# W&B makes it part of a folder's name.
RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*$", max_length=128)]
BYTEARRAY = b"\nbytearray\n"  # as a pickle calls it; bytearray(10**10) are 30 bytes
LARGEST_OLD = 4_000_000_000  # bytes of a file that is no archive, as torch wrote them until version 1.6
_checked = with_config(ConfigDict(strict=True, arbitrary_types_allowed=True))


@_checked
class RandomState(TypedDict):
    """Where every random generator stands."""

    python: Any  # random.getstate()
    numpy: Any  # numpy.random.get_state(), its array as a list
    torch: Tensor  # torch.get_rng_state()
    cuda: list[Tensor]  # of the one GPU that was used; empty on a CPU


@_checked
class Metadata(TypedDict, total=False):
    """What a run says of itself."""

    config: dict[str, Any]  # complete, as config.yaml
    names: Sequence[str]  # of the classes
    architecture: dict[str, Any]  # what the network is built from; in early checkpoints only `config` says it
    data_fingerprint: str  # of the dataset's content: a run resumes on the same data only
    pixel_fingerprint: str  # of what is in its image files; absent in early checkpoints
    wandb_id: RunId  # of the W&B run that a resumed run goes on with


class _Network(TypedDict):
    format: int  # of the file: FORMAT in checkpoint_file.py
    extra: Metadata
    step: Steps  # that were taken; in a failure, the step that was not
    model: dict[str, Tensor]  # weights and buffers
    scaler: dict[str, Any]  # of torch.amp.GradScaler; empty unless train.precision is fp16
    rng: RandomState


class _Later(TypedDict, total=False):  # absent in early checkpoints
    skipped: Steps  # that were not taken, in all
    skipped_in_a_row: Steps  # just before this one
    best_step: Steps  # that were taken at the best evaluation


@_checked
class CheckpointState(_Network, _Later):
    """`last.pt` and `best.pt`: everything needed to resume as if nothing had happened."""

    ema: (
        dict[str, Tensor] | None
    )  # of torch's AveragedModel, with which it was evaluated; null: train.ema is off
    optimizer: dict[str, Any]  # its state_dict
    seconds: float  # that training took
    best: Sequence[float]  # the best evaluation: val mAP50-95, then train mAP50-95; empty before the first


@_checked
class FailureState(_Network):
    """`failure/state.pt`: a step whose numbers were not finite, with everything as it was before it."""

    failure: dict[str, Any]  # what failure.json says
    indices: Sequence[Sequence[int]]  # of each micro-batch's images in the training split


def check_archive(path: Path) -> None:
    """Raise ValueError if a zip file, such as torch writes, is damaged, or unpacks to more than it has bytes.

    torch's own reader compares no checksum: a bit that flips on a disk would be another weight. It stores its
    records uncompressed, so only a bomb, or entries that overlap, add up to more than the file.
    """
    with path.open("rb") as file:
        if file.read(2) != b"PK":  # of the older format, or damaged: torch's own reader says so
            if (size := path.stat().st_size) > LARGEST_OLD:
                raise ValueError("it is no archive, and far too large")
            if size:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    if content.find(BYTEARRAY) >= 0:
                        raise ValueError("it asks for memory that it does not fill")
            return
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("it unpacks to more than its own size")
            if (name := archive.testzip()) is not None:
                raise ValueError(f"its record {name[-40:]!r} is damaged: the checksum is another")
            for entry in archive.infolist():
                if entry.filename.endswith(".pkl") and BYTEARRAY in archive.read(entry):
                    raise ValueError("it asks for memory that it does not fill")
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, zlib.error) as error:
        raise ValueError(f"its archive is damaged: {str(error)[:80]}") from None


def check_stored(value: object, size: int) -> None:
    """Raise ValueError if the tensors of what was read are more than its file: nobody may copy them.

    A pickle can call `torch.FloatTensor(10**10)`, or say that one number is a matrix of 10⁵ by 10⁵.

    Args:
        value: containers of plain data and tensors, or a module.
        size: of the file, bytes.
    """
    if isinstance(value, nn.Module):
        tensors: list[Tensor] = [*value.parameters(), *value.buffers()]
    else:
        tensors = [one for one in _everything(value) if isinstance(one, Tensor)]
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors) > size:
        raise ValueError("its tensors are more than the whole file")


@contextmanager
def without_constructors() -> Iterator[None]:
    """While a file is read, no layer may be constructed: a pickle restores one without.

    One that calls a class instead makes it allocate what the file says, and ultralytics' `TorchVision` fetch
    weights from the network.
    """
    construct, thread = nn.Module.__init__, threading.get_ident()

    def refuse(module: nn.Module, *args: Any, **options: Any) -> None:
        if threading.get_ident() == thread:
            raise ValueError(f"it wants to construct a {type(module).__name__}")
        construct(module, *args, **options)

    nn.Module.__init__ = refuse  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.__init__ = construct  # type: ignore[method-assign]


def check_state(state: Mapping[str, Any]) -> None:
    """Raise ValueError if something in a checkpoint of ours has not the type or size that it must have.

    To predict, weights are enough: what only resuming needs may be missing.
    """
    try:
        _adapter(FailureState if "failure" in state else CheckpointState).validate_python(state)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            key, *inner = problem["loc"]
            if problem["type"] != "missing" or problem["loc"] in (("step",), ("model",)):
                key = inner[0] if key == "extra" and inner else key
                raise ValueError(f"its {key!r} is wrong: {problem['msg']}") from None
    if any(isinstance(value, Tensor) for value in _everything(state.get("extra"))):
        raise ValueError("its 'extra' holds a tensor")
    for value in _everything(state):  # every tensor is an ordinary one with all of its numbers in the file
        if isinstance(value, Tensor):
            stored = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
            if not stored or value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise ValueError("it claims a tensor whose numbers are not in it")


@cache
def _adapter(schema: type) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


def _everything(root: object) -> Iterator[object]:
    """What nested containers hold."""
    waiting, seen = [root], set()
    while waiting:
        value = waiting.pop()
        yield value
        if isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))  # a container may hold itself, or another a thousand times
            waiting += value.values() if isinstance(value, Mapping) else value
