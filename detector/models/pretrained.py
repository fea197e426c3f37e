"""Carrying trained weights over to a network for other classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from detector.models.base import DetectionModel


@torch.no_grad()
def load_pretrained(
    given: Mapping[str, Tensor], given_names: Sequence[str], model: DetectionModel, names: Sequence[str]
) -> str:
    """Copy every tensor whose name and shape fit, and the outputs of classes with the same name.

    Args:
        given: the trained tensors.
        given_names: the classes they were trained for.
        model: changed in place.
        names: its classes.

    Returns:
        What was kept and what was not, for a person.
    """
    state, outputs = model.state_dict(), model.class_layers()
    same_classes = tuple(names) == tuple(given_names)
    rows = {row: given_names.index(name) for row, name in enumerate(names) if name in given_names}
    kept, new = 0, []
    for key, tensor in state.items():
        layer, source = key.rpartition(".")[0], given.get(key)
        if layer in outputs and not same_classes:
            if source is not None and source.shape[1:] == tensor.shape[1:]:
                for row, source_row in rows.items():
                    tensor[row] = source[source_row]
            new.append(layer)
        elif source is not None and source.shape == tensor.shape:
            tensor.copy_(source)
            kept += 1
        else:
            new.append(layer)
    text = f"{kept} of {len(state)} tensors kept"
    if new:
        layers = list(dict.fromkeys(new))
        text += f"; new: {', '.join(layers[:6])}{', …' if len(layers) > 6 else ''}"
    if rows and not same_classes:
        text += f"; the outputs of {', '.join(names[row] for row in rows)} kept"
    return text
