"""Detection networks of ultralytics (YOLOv8, 11, 12, 26, …) as models that our engine trains.

Their `DetectionModel` is an ordinary module; only its own forward pass, trainer and loader are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple

from torch import Tensor, nn

from detector.errors import UserError
from detector.models.base import DetectionModel, Predictions
from detector.models.stored import Settings, apply_settings, run
from detector.models.strip import kind_name
from detector.models.weights import comes_with_ultralytics, is_usual
from detector.runtime.description_check import check_description
from detector.runtime.memory_check import (
    MOST_DESCRIBED,
    MOST_NUMBERS,
    check_activations,
    count_numbers,
    room_for_description,
    without_content,
)
from detector.runtime.ultralytics_import import import_ultralytics, safe_tasks

# The head's class branches: of the usual head, and of the one that needs no suppression (YOLO26, v10).
BOX_BRANCHES = "cv2", "one2one_cv2"
CLASS_BRANCHES = "cv3", "one2one_cv3"


class EndToEndPredictions(NamedTuple):
    """Training outputs of a network with two heads; a tuple, so that hooks find the tensors."""

    one2many: Predictions
    one2one: Predictions


class YoloModel(DetectionModel):
    """An ultralytics network behind our interface.

    Args:
        description: the network as ultralytics' YAML describes it, with `nc` classes.
        num_classes: how many classes the head is to score. Where it is not `nc`, only the last
            convolution of each class branch is replaced, so that everything before it can be transferred.
        settings: of layers that the description does not tell; see `detector.models.stored`.
        numbers: how many the file with its weights holds, where there is one: not much more is built.
    """

    def __init__(
        self,
        description: Mapping[str, Any],
        num_classes: int,
        settings: Settings | None = None,
        numbers: int | None = None,
    ) -> None:
        super().__init__()
        try:
            self.net: nn.Module = _build(description, numbers)
        except Exception as error:  # whatever a wrong description makes their parser stumble over
            reason = " ".join(str(error).split())[:200]
            kind = type(error).__name__
            raise UserError(
                f"model.pretrained: ultralytics cannot build this network ({kind}: {reason})"
            ) from error
        head = self.head
        if type(head).__name__ not in ("Detect", "v10Detect"):
            kind = type(head).__name__
            raise UserError(
                f"model.pretrained: its head is {kind}; only detection networks can be trained here"
            )
        self.description = dict(description)
        self.settings: Settings = {}
        if num_classes != head.nc:
            _replace_classes(head, num_classes)
        self.num_classes, self.reg_max = num_classes, int(head.reg_max)
        self.strides = tuple(int(stride) for stride in head.stride.tolist())
        self.end2end = getattr(head, "one2one_cv2", None) is not None
        if settings:
            self.set_layers(settings)

    @property
    def head(self) -> Any:
        """Ultralytics' `Detect` module: the last layer."""
        return self.net.model[-1]  # type: ignore[index]

    def forward(self, images: Tensor) -> Predictions | EndToEndPredictions:
        """(B, 3, H, W) in [0, 1], H and W multiples of 32 -> raw predictions.

        A network with two heads gives both in training, and otherwise the usual one, whose duplicates are
        suppressed: as ultralytics evaluates by default.
        """
        if not len(images):  # an empty share of a batch; their heads' reshaping cannot do without an image
            one = self.forward(images.new_zeros(1, *images.shape[1:]))
            if isinstance(one, EndToEndPredictions):
                return EndToEndPredictions(_none_of(one.one2many), _none_of(one.one2one))
            return _none_of(one)
        raw = self.net(images)
        if not self.end2end:
            return raw  # type: ignore[no-any-return]
        if self.training:
            return EndToEndPredictions(raw["one2many"], raw["one2one"])
        return raw["one2many"]  # type: ignore[no-any-return]

    def set_layers(self, settings: Settings) -> None:
        """Set layers otherwise than the description says. Raises UserError if they do not run so."""
        try:
            apply_settings(settings, self.net)
            run(self.net, 2 * max(self.strides))
        except (AttributeError, TypeError, ValueError) as error:  # settings of a stranger's checkpoint
            raise UserError(f"model.pretrained: the network cannot be built: {error}") from None
        self.settings = settings
        self.train(self.training)

    def train(self, mode: bool = True) -> YoloModel:
        """Switch every layer; the head itself always gives raw predictions, as in training."""
        super().train(mode)
        self.head.training = True  # its own flag alone: its layers keep theirs
        return self

    def backbone_layers(self) -> dict[str, nn.Module]:
        """The backbone's layers, such as `02_2.c2f` for ultralytics' `model.2`, in network order."""
        return {
            f"{index:02d}_{index}.{kind_name(layer).lower()}": layer
            for index, layer in enumerate(self.backbone_modules())
        }

    def backbone_modules(self) -> list[nn.Module]:
        """See `DetectionModel.backbone_modules`: what the description lists under that name."""
        return list(self.net.model)[: len(self.description["backbone"])]  # type: ignore[arg-type]

    def body(self) -> nn.Module:
        """See `DetectionModel.body`: ultralytics' network, whose modules are `model.2.m.0` and so on."""
        return self.net

    def level_ends(self) -> dict[str, str]:
        """See `DetectionModel.level_ends`: the backbone's layers that the neck reads, and its last."""
        names = list(self.backbone_layers())
        read = {len(names) - 1}
        for index, layer in enumerate(self.net.model):  # type: ignore[arg-type]
            sources = [layer.f] if isinstance(layer.f, int) else layer.f
            if index >= len(names):
                read |= {f for f in (s if s >= 0 else index + s for s in sources) if f < len(names)}
        levels = zip(reversed(self.strides), sorted(read, reverse=True), strict=False)
        return {f"p{stride.bit_length() - 1}": names[at] for stride, at in reversed(list(levels))}

    def class_layers(self) -> set[str]:
        """See `DetectionModel.class_layers`."""
        last = len(self.net.model) - 1  # type: ignore[arg-type]
        return {
            f"net.model.{last}.{name}.{index}.{len(branch) - 1}"
            for name in CLASS_BRANCHES
            for index, branch in enumerate(getattr(self.head, name, None) or ())
        }

    def predictors(self) -> set[nn.Module]:
        """The head's last convolutions: what comes out of them are the boxes and the classes."""
        names = (*BOX_BRANCHES, *CLASS_BRANCHES)
        return {branch[-1] for name in names for branch in getattr(self.head, name, None) or ()}

    def architecture(self) -> dict[str, Any]:
        """See `DetectionModel.architecture`."""
        told = {"settings": self.settings} if self.settings else {}
        return {"kind": "yolo", "description": self.description, **told}


def _build(description: Mapping[str, Any], numbers: int | None) -> nn.Module:
    """Ultralytics' module, once it is known what it takes."""
    with safe_tasks() as tasks:
        check_description(description, import_ultralytics("nn.modules"))
        most = MOST_NUMBERS if numbers is None else min(MOST_NUMBERS, 2 * numbers + 1_000_000)
        activation = tasks.Conv.default_act  # of the whole process; they leave it changed if they fail
        try:
            with without_content():
                layers, _ = tasks.parse_model(deepcopy(dict(description)), ch=3, verbose=False)
            found, known, room = count_numbers(layers), is_usual(description), None
            if found > most:
                millions = f"{found / 1e6:,.0f} million weights, and at most {most / 1e6:,.0f}"
                raise ValueError(f"it has {millions} million are accepted")
            if numbers is None:
                room = room_for_description(layers)
                known = comes_with_ultralytics(description) if 8 * found > MOST_DESCRIBED else known
            if not known:
                check_activations(
                    lambda: tasks.DetectionModel(deepcopy(dict(description)), verbose=False), found, room
                )
            net: nn.Module = tasks.DetectionModel(deepcopy(dict(description)), verbose=False)
        finally:
            tasks.Conv.default_act = activation
    return net


def _none_of(preds: Predictions) -> Predictions:
    """As of an empty batch, but still a function of every weight."""
    feats = [feat[:0] for feat in preds["feats"]]
    return {"boxes": preds["boxes"][:0], "scores": preds["scores"][:0], "feats": feats}


def _replace_classes(head: Any, num_classes: int) -> None:
    """Give a head another number of classes, its hidden layers left as they are."""
    for name in CLASS_BRANCHES:
        for branch in getattr(head, name, None) or ():
            old = branch[-1]
            branch[-1] = nn.Conv2d(old.in_channels, num_classes, 1)
    head.nc, head.no = num_classes, num_classes + 4 * head.reg_max
    head.bias_init()  # the prior on the new classes; everything else is overwritten by what is transferred
