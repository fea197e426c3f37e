"""Bad checkpoints, pretrained weights and descriptions of networks."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from detector.runtime.ultralytics_import import import_ultralytics
from tests.hostile.corpus import INFO, RESUME, Case, content, damaged, folder, link, pipe

LAST = "run/checkpoints/last.pt"
NETWORK = (*INFO[:-1], "model.pretrained={root}/given.yaml")
SMALL = "nc: 2\nbackbone:\n  - [-1, 1, {layer}, {args}]\nhead:\n  - [[0], 1, Detect, [nc]]\n"


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


# ----------------------------------------------------------------------------------------------- checkpoints


def _saved(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A checkpoint of the good run with something in it changed."""

    def spoil(root: Path) -> None:
        state = torch.load(root / LAST, weights_only=True)
        change(state)
        torch.save(state, root / name)

    return spoil


def _changed(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """That checkpoint itself, with something in it changed."""

    def spoil(root: Path) -> None:
        state = torch.load(root / name, weights_only=True)
        change(state)
        torch.save(state, root / name)

    return spoil


def _put(*keys: object, value: object) -> Callable[[dict[str, Any]], None]:
    def change(state: Any) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


def _first_weight(value: torch.Tensor) -> Callable[[dict[str, Any]], None]:
    return lambda state: state["model"].update({next(iter(state["model"])): value})


def _zip_bomb(name: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        with (
            zipfile.ZipFile(root / LAST) as good,
            zipfile.ZipFile(root / "bomb", "w", zipfile.ZIP_DEFLATED) as bomb,
        ):
            for entry in good.infolist():
                bomb.writestr(entry.filename, good.read(entry))
            bomb.writestr("archive/data/9", b"\0" * 50_000_000)
        shutil.move(root / "bomb", root / name)

    return spoil


def _momentum(state: dict[str, Any]) -> None:
    first = next(iter(state["optimizer"]["state"].values()))
    first["momentum_buffer"] = torch.zeros(7)


def _pickled(value: object) -> bytes:
    return pickle.dumps(value)


def _torch_file(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def _resume(name: str, change: Callable[[dict[str, Any]], object], words: str) -> Case:
    return Case(f"checkpoint: {name}", _saved(LAST, change), RESUME, words)


class Call:
    """Pickled as a call of something that a checkpoint may name."""

    def __init__(self, called: Callable[..., object], *arguments: object) -> None:
        self.call = called, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def _theirs(change: Callable[[Any], object]) -> Callable[[Path], None]:
    """A checkpoint of ultralytics with something in its network changed."""

    def spoil(root: Path) -> None:
        description = yaml.safe_load(SMALL.format(layer="Conv", args="[8, 3, 2]"))
        net = import_ultralytics("nn.tasks").DetectionModel(description, verbose=False).half()
        net.names = {0: "cat", 1: "dog"}
        change(net)
        torch.save({"model": net, "version": "8.3.0"}, root / "given.pt")

    return spoil


def _described(**keys: Any) -> Callable[[Path], None]:
    return _theirs(lambda net: net.yaml.update(keys))


def _claim(net: Any) -> None:
    net.model[0].conv.weight = nn.Parameter(torch.zeros(1, dtype=torch.half).expand(100_000, 100_000))


def _claim_beside(net: Any) -> None:
    net.model[0].more = nn.Linear(1, 1)
    net.model[0].more.weight = nn.Parameter(torch.zeros(1, dtype=torch.half).expand(100_000, 100_000))


def _one_storage(net: Any) -> None:
    numbers = torch.zeros(10**6, dtype=torch.half)
    net.more = nn.ParameterList([nn.Parameter(numbers.view(1, -1)) for _ in range(2000)])


def _constructed(name: str, *arguments: object) -> Callable[[Path], None]:
    """A layer that the pickle does not restore but construct."""

    def change(net: Any) -> None:
        owner = import_ultralytics("nn.modules") if hasattr(import_ultralytics("nn.modules"), name) else nn
        net.more = Call(getattr(owner, name), *arguments)

    return _theirs(change)


def _constructs_when_run(net: Any) -> None:
    """A class where the activation belongs: whoever calls it constructs one."""
    del net.model[0].act
    net.model[0].act = import_ultralytics("nn.modules").block.TorchVision


HUGE = torch.zeros(1).expand(10**12)
_LOOP: list[object] = []
_LOOP.append(_LOOP)

CHECKPOINTS = [
    Case("checkpoint: empty", content(LAST, b""), RESUME, "last.pt: not a readable checkpoint"),
    Case("checkpoint: text", content(LAST, "hello"), RESUME, "last.pt: not a readable checkpoint"),
    Case("checkpoint: pickle that runs a command", content(LAST, _pickled(Payload())), RESUME, "last.pt"),
    Case("checkpoint: torch file that runs a command",
         content(LAST, _torch_file({"format": 1, "model": Payload()})), RESUME, "not a checkpoint of this"),
    Case("checkpoint: cut off", damaged(LAST, lambda data: data[: len(data) // 2]), RESUME, "not a readable"),
    Case("checkpoint: its pickle is damaged",
         damaged(LAST, lambda data: data.replace(b"optimizer", b"\xffptimiz\x80.")), RESUME, "last.pt"),
    Case("checkpoint: zip bomb", _zip_bomb(LAST), RESUME, "unpacks to more than its own size"),
    Case("checkpoint: a pipe", pipe(LAST), RESUME, "it is not a file"),
    Case("checkpoint: a device", link(LAST, "/dev/zero"), RESUME, "it is not a file"),
    Case("checkpoint: a folder", folder(LAST), RESUME, "it is a folder"),
    Case("checkpoint: a loop of links", link(LAST, "last.pt"), RESUME, "not a readable checkpoint"),
    Case("checkpoint: a list", content(LAST, _torch_file([1, 2])), RESUME, "not a checkpoint of this"),
    _resume("of another format", _put("format", value=99), "format 2 expected"),
    _resume("format is a tensor", _put("format", value=torch.ones(2)), "format 2 expected"),
    _resume("without a model", lambda state: state.pop("model"), "damaged: its 'model'"),
    _resume("without facts", lambda state: state.pop("extra"), "what it was trained on"),
    _resume("step is text", _put("step", value="7"), "damaged: its 'step'"),
    _resume("step is negative", _put("step", value=-1), "damaged: its 'step'"),
    _resume("best is text", _put("best", value="x"), "damaged: its 'best'"),
    _resume("W&B id is a path", _put("extra", "wandb_id", value="../../x"), "damaged: its 'wandb_id'"),
    _resume("classes are numbers", _put("extra", "names", value=[1, 2]), "damaged: its 'names'"),
    _resume("tensor of a trillion numbers", _first_weight(HUGE), "its tensors are more than the whole file"),
    _resume("sparse tensor", _first_weight(torch.eye(3).to_sparse()), "whose numbers are not in it"),
    _resume("list that holds itself", _put("rng", value=_LOOP), "damaged: its 'rng'"),
    _resume("list that holds itself, inside", _put("rng", "python", value=_LOOP), "does not fit the run's"),
    _resume("tensor of another shape", _first_weight(torch.zeros(3)), "does not fit the run's configuration"),
    _resume("momentum of another shape", _momentum, "does not fit the run's configuration"),
    _resume("learning rate is text", _put("optimizer", "param_groups", 0, "lr", value="x"), "does not fit"),
    _resume("no random state", _put("rng", value={}), "does not fit the run's configuration"),
    _resume("network of terabytes",
            _put("extra", "architecture", value={"kind": "compact", "model": {"widths": [8000] * 5}}),
            "describes no network"),
    _resume("network of many times its tensors",
            _put("extra", "architecture", value={"kind": "compact", "model": {"widths": [3000] * 5}}),
            "describes no network"),
    _resume("tensor that is only asked for", _first_weight(Call(torch.FloatTensor, 100_000, 20_000)),
            "its tensors are more than the whole file"),
    Case("checkpoint: bytes that are only asked for",
         content(LAST, pickle.dumps(Call(bytearray, 10**10), 2)), RESUME, "memory that it does not fill"),
    _resume("unknown network", _put("extra", "architecture", value={"kind": "x"}), "describes no network"),
    _resume("network is a number", _put("extra", "architecture", value=3), "damaged: its 'architecture'"),
]  # fmt: skip

# ------------------------------------------------------------------------------------ pretrained, networks


def _given(name: str, spoil: Callable[[Path], object], words: str) -> Case:
    return Case(f"pretrained: {name}", spoil, INFO, words)


def _called(name: str, written: str) -> Case:
    command = (*INFO[:-1], f"model.pretrained={written}")
    return Case(f"pretrained: {name}", lambda root: None, command, "there is no such file")


def _network(name: str, text: str, words: str) -> Case:
    return Case(f"network: {name}", content("given.yaml", text), NETWORK, words)


def _layer(name: str, layer: str, args: str, words: str) -> Case:
    return _network(name, SMALL.format(layer=layer, args=args), words)


def _convolutions(channels: int, number: int) -> str:
    """Convolutions from many channels to as many, which nothing reads."""
    rows = [[8, 3, 2], [channels, 3, 32], *[[channels, 3, 1]] * number]
    backbone = "".join(f"  - [-1, 1, Conv, {row}]\n" for row in rows)
    return f"nc: 2\nbackbone:\n{backbone}head:\n  - [[0], 1, Detect, [nc]]\n"


PRETRAINED = [
    _given("empty", content("given.pt", b""), "not a readable checkpoint"),
    _given("pickle that runs a command", content("given.pt", _pickled(Payload())), "given.pt"),
    _given("torch file that runs a command", content("given.pt", _torch_file({"a": Payload()})), "given.pt"),
    _given("torch file without a model", content("given.pt", _torch_file({"a": 1})), "given.pt"),
    _given("tensors alone", content("given.pt", _torch_file({"model": {"x": torch.ones(1)}})), "given.pt"),
    _given("zip bomb", _zip_bomb("given.pt"), "unpacks to more than its own size"),
    _given("a pipe", pipe("given.pt"), "there is no such file"),
    _given("fewer outputs than classes", _saved("given.pt", _put("extra", "names", value=[*"abc", "dog"])),
           "its tensors do not fit its classes"),
    _given("image size is text",
           _saved("given.pt", _put("extra", "config", "data", "image_size", value="x")), "what it was"),
    _given("bytes that are only asked for", content("given.pt", pickle.dumps(Call(bytearray, 10**10), 2)),
           "memory that it does not fill"),
    _given("bytes that are only asked for, in an archive",
           content("given.pt", _torch_file({"model": Call(bytearray, 10**10)})), "memory that it does not"),
    _given("tensor that is only asked for",
           content("given.pt", _torch_file({"format": 2, "model": {"x": Call(torch.Tensor, 10**5, 10**4)}})),
           "its tensors are more than the whole file"),
    _given("one number as a matrix of 10^10", _theirs(_claim), "its tensors are more than the whole file"),
    _given("one number as a layer beside", _theirs(_claim_beside), "its tensors are more than the whole"),
    _given("numbers that are used 2000 times", _theirs(_one_storage), "its tensors are more than the whole"),
    _given("Linear of 10^5 x 10^5", _constructed("Linear", 100_000, 100_000), "not a readable checkpoint"),
    _given("layer that downloads", _constructed("TorchVision", "resnet18"), "not a readable checkpoint"),
    _given("layer that downloads when it is run", _theirs(_constructs_when_run), "TorchVision"),
    _given("layer that downloads, described",
           _described(backbone=[[-1, 1, "TorchVision", [512, "resnet18"]]]), "no layer that it may name"),
    _given("Linear of 10^5 x 10^5, described", _described(activation="nn.Linear(100000, 100000)"), "weights"),
    _given("widths of another network", _described(width_multiple=10, backbone=[[-1, 9, "C2f", [999]]]),
           "weights, and at most"),
    _given("activations of gigabytes", _described(backbone=[[-1, 1, "Conv", [9999, 1, 1]]]), "weights"),
    _called("overlong name", "x" * 5000 + ".pt"),
    _called("overlong name of a network", "x" * 5000 + ".yaml"),
    _called("pattern for a name", "a**/[.yaml"),
    _network("alias", "nc: &a 2\nbackbone: *a\nhead: []\n", "aliases are not supported"),
    _network("activation that runs code", "activation: open('ran', 'w')\n" + SMALL.format(
        layer="Conv", args="[8, 3, 2]"), "cannot build this network"),
    _network("layers are text", "nc: 2\nbackbone: text\nhead: text\n", "must be a list of layers"),
    _network("a layer is text", "nc: 2\nbackbone: [text]\nhead: []\n", "each layer must be"),
    _network("repeats without end", "nc: 2\nbackbone:\n  - [-1, 9999999, Conv, []]\nhead: []\n", "repeats"),
    _network("no layers", "nc: 2\nbackbone: []\nhead: []\n", "cannot build this network"),
    _network("hundreds of layers", "nc: 2\nbackbone:\n" + "  - [-1, 1, Conv, [8]]\n" * 600 + "head: []\n",
             "at most 500"),
    _network("activation of 10^10 weights", "activation: nn.Linear(100000, 100000)\n" + SMALL.format(
        layer="Conv", args="[8, 3, 2]"), "weights, and at most"),
    _network("widths and repeats", "width_multiple: 9\ndepth_multiple: 9\n" + SMALL.format(
        layer="C2f", args="[9999]").replace("-1, 1", "-1, 99"), "weights, and at most"),
    _network("repeats in every row", "nc: 2\nbackbone:\n" + "  - [-1, 100, nn.Identity, []]\n" * 400
             + "head: []\n", "at most 2000"),
    _network("weights of 390 MB, and to run them as much again", _convolutions(3300, 1), "takes more than"),
    _network("weights of 480 MB", _convolutions(1600, 5), "takes more than"),
    Case("network: as much as a description may take", content("given.yaml", _convolutions(1600, 3)), NETWORK,
         "69.30 M", code=0),
    _layer("activations of gigabytes", "nn.Conv2d", "[3, 9000, 1]", "takes more than"),
    _layer("picture of gigabytes", "nn.Upsample", "[null, 99, nearest]", "takes more than"),
    _layer("padding of gigabytes", "nn.ZeroPad2d", "[9999]", "takes more than"),
    _layer("function for a layer", "torch_safe_load", "[x.pt]", "no layer that it may name"),
    _layer("module for a layer", "os", "[]", "no layer that it may name"),
    _layer("layer that downloads", "TorchVision", "[512, resnet18, DEFAULT]", "no layer that it may name"),
    _layer("network that reads a file", "DetectionModel", "[/etc/passwd]", "no layer that it may name"),
    _layer("channels without end", "Conv", "[999999999, 3, 2]", "must be a number of at most"),
    _layer("channels in text", "Conv", "['999999999', 3, 2]", "must be a number of at most"),
    _layer("channels are infinite", "Conv", "[.inf, 3, 2]", "must be a number of at most"),
]  # fmt: skip

# ----------------------------------------------------------------------- every command that reads weights

READERS = {
    "resume": RESUME,
    "fine-tuning": (*INFO[:-1], "model.pretrained={root}/run"),
    "predict": ("detector", "predict", "{root}/run", "{root}/data/images/val", "--out", "{root}/out"),
    "val": ("detector", "val", "{root}/run", "--out", "{root}/out"),
    "export": ("detector", "export", "{root}/run", "--format", "torchscript", "--out", "{root}/out/net.ts"),
}
# This one is for runs that went wrong: it says so and looks at what there is.
DOCTOR = ("detector", "doctor", "{root}/run", "--seconds", "0.1")


def _flipped(data: bytes) -> bytes:
    """One bit of the first tensor's numbers."""
    with zipfile.ZipFile(io.BytesIO(data)) as package:
        (at,) = (one.header_offset for one in package.infolist() if one.filename.endswith("/data/0"))
    name, extra = struct.unpack("<2H", data[at + 26 : at + 30])
    place = at + 30 + name + extra
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def _not_finite(state: dict[str, Any]) -> None:
    for weights in (state["model"], *filter(None, [state.get("ema")])):
        next(iter(weights.values()))[0] = torch.nan


def _both(damage: Callable[[str], Callable[[Path], object]]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        for name in ("last", "best"):
            damage(f"run/checkpoints/{name}.pt")(root)

    return spoil


DAMAGES = {
    "a bit flipped": (_both(lambda file: damaged(file, _flipped)), "not a readable checkpoint"),
    "NaN": (_both(lambda file: _changed(file, _not_finite)), "are not finite"),
}
EVERYWHERE = [
    Case(f"{name}: {what}", spoil, command, words)
    for what, (spoil, words) in DAMAGES.items()
    for name, command in READERS.items()
]
EVERYWHERE += [
    Case(f"doctor: {what}", spoil, DOCTOR, words, code=1) for what, (spoil, words) in DAMAGES.items()
]

CASES = [*CHECKPOINTS, *PRETRAINED, *EVERYWHERE]
