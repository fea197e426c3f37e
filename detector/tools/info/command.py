"""`detector info`: the network that a configuration describes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detector.models.size import Size


def info(*overrides: str, config: Path = Path("configs/coco8.yaml"), plugin: tuple[Path, ...] = ()) -> Size:
    """Show a configuration's network: layers, parameters, FLOPs.

    The backbone's layers have the names that their curves carry; what gradients.points adds comes behind.

    Args:
        overrides: section.key=value, such as model.act=relu.
        config: the configuration: a file, or a name such as no_residual.
        plugin: a Python file that registers parts of one's own; may be repeated.

    Returns:
        Parts, parameters and operations of the whole network.

    Raises:
        UserError: the configuration or its data YAML is missing or wrong.
    """
    from detector.config.loading import load_config
    from detector.data.sources import class_names
    from detector.gradients.points import points_inside
    from detector.models.build import build_model
    from detector.models.size import measure
    from detector.registry import load_plugins

    load_plugins(plugin)
    loaded = load_config(config, overrides)
    names = class_names(loaded.config.data)
    model = build_model(loaded.config.model, names).model
    for name, module in model.backbone_layers().items():
        parameters = sum(p.numel() for p in module.parameters())
        print(f"{name:12s} {type(module).__name__:6s} {parameters:>9,} parameters")
    for name, module in points_inside(model, loaded.config.gradients.points).items():
        print(f"{name} {type(module).__name__}")
    size = measure(model, loaded.config.data.image_size)
    print(f"{loaded.name}: {size}, {len(names)} classes")
    return size
