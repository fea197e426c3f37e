"""The W&B workspace as code: what to look at in a project full of ablations, in reading order.

`wandb-workspaces` is an optional extra: pip install 'gradient-detector[dashboard]'.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from detector.errors import UserError
from detector.gradients.indices import COLLAPSED, limits
from detector.loggers.curves import SORTABLE
from detector.loggers.wandb_pages import save, specification
from detector.rows import Key, layers_in
from detector.rundir import RunDir

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

NAME = "Where gradients die"
# A layer's name is its depth and the block: 00_stem, 07_p3.4, 04_4.c2f.
LAYER = r"\d\d+_[^/]+"
COLUMNS = (
    "run:displayName",
    "run:state",
    "config:ablation.value",
    "config:seed.value",
    f"summary:{SORTABLE[Key.TRAIN_MAP]}",
    f"summary:{SORTABLE[Key.VAL_MAP]}",
    f"summary:{Key.LOSS}",
    f"summary:{Key.VANISHING_INDEX}{Key.INIT}",
    f"summary:{Key.VANISHING_INDEX}",
    f"summary:{Key.VERDICT}",
)


def dashboard(
    *overrides: str,
    entity: str,
    project: str = "detector-gradients",
    config: Path = Path("configs/coco8.yaml"),
    explicit: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Make the W&B workspace that shows a project's runs.

    Args:
        overrides: section.key=value: the network of the runs.
        entity: the W&B user or team.
        project: the W&B project.
        config: the network of the runs: a file, a name such as deep, or the directory of one of them.
        explicit: list the layers instead of a pattern.
        dry_run: print it as JSON; needs no network.

    Returns:
        The workspace's specification.

    Raises:
        UserError: wandb-workspaces is not installed, or W&B refused.
    """
    workspace = build(entity, project, network(config, overrides), regex=not explicit)
    content = specification(workspace)
    if dry_run:
        print(json.dumps(content, indent=2))
        return content
    save(workspace, "workspace", "one run")
    return content


class Network(NamedTuple):
    """What the curves of a network are called."""

    layers: tuple[str, ...]  # of the trunk, first to last
    levels: tuple[str, ...]  # of the pyramid: p3, p4, p5


def network(config: Path, overrides: Sequence[str] = ()) -> Network:
    """The names of a configured network, or of the one that a run has recorded.

    Raises:
        UserError: there is no such configuration, or its weights are not there.
    """
    from detector.config.loading import load_config
    from detector.models.build import build_model

    if config.is_dir():
        rows = RunDir(config).rows()
        levels = {k.removeprefix(f"{Key.RMS}_"): 0 for row in rows for k in row if k.startswith(Key.RMS)}
        found = Network(tuple(layers_in(rows, Key.ACTIVATION_GRAD)), tuple(levels))
    else:
        model, _ = build_model(load_config(config, overrides).config.model, ["object"])
        found = Network(tuple(model.backbone_layers()), tuple(model.level_ends()))
    if not found.layers:
        raise UserError(f"{config}: has no layers whose gradients are recorded")
    return found


def build(entity: str, project: str, network: Network, *, regex: bool = True) -> Workspace:
    """Put the workspace together; nothing is sent.

    Args:
        entity: the W&B user or team.
        project: the project whose runs are shown.
        network: of the runs.
        regex: whether the panels of all layers find them by a pattern, which also fits deeper trunks.
            The list of layers is given in any case, for a W&B that does not know patterns.
    """
    try:
        import wandb_workspaces.reports.v2.interface as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError(
            f"wandb-workspaces is needed ({error}): pip install 'gradient-detector[dashboard]'"
        ) from error

    layers = network.layers

    def bands(title: str, *metrics: str, log_y: bool = False) -> Any:
        """A curve an ablation and metric: the mean over its seeds, and their deviation as a band."""
        by_ablation: dict[str, Any] = {
            "groupby": wr.Config("ablation"),
            "groupby_aggfunc": "mean",
            "groupby_rangefunc": "stddev",
        }
        return wr.LinePlot(title=title, x="Step", y=list(metrics), log_y=log_y or None, **by_ablation)

    def every_layer(title: str, kind: str) -> Any:
        pattern = f"^{kind}{LAYER}$" if regex else None
        names: list[Any] = [kind + layer for layer in network.layers]
        return wr.LinePlot(
            title=title, x="Step", y=names, metric_regex=pattern, log_y=True, legend_position="east"
        )

    def levels(key: str, behind: str = "") -> list[str]:
        return [f"{key}_{level}{behind}" for level in network.levels]

    # What wandb.plot.line_series logs: a table beside a preset chart.
    depth_profile = wr.CustomChart(
        query={"summaryTable": {"tableKey": "depth_profile/activation_grad_table"}},
        chart_name="wandb/lineseries/v0",
        chart_fields={"step": "step", "lineKey": "lineKey", "lineVal": "lineVal"},
        chart_strings={"title": "log10 of the activation gradient against depth", "xname": "depth"},
    )
    lowest, _ = limits(len(layers))
    sections: dict[str, list[Any]] = {
        "Accuracy": [
            bands("mAP50-95 on the training images", Key.TRAIN_MAP),
            bands("mAP50-95 on unseen images", Key.VAL_MAP),
            bands("Loss", Key.LOSS, log_y=True),
        ],
        "Gradient flow": [
            bands(f"Vanishing index V, decades: below {lowest:.1f} vanishing", Key.VANISHING_INDEX),
            every_layer("Activation gradient of every layer", Key.ACTIVATION_GRAD),
            every_layer("Weight gradient of every layer", Key.WEIGHT_GRAD),
            *(
                bands(f"Activation gradient, {place}: {layer}", Key.ACTIVATION_GRAD + layer, log_y=True)
                for place, layer in _first_middle_last(layers)
            ),
        ],
        "Signal": [
            bands(f"Input dependence: below {COLLAPSED} the signal has collapsed", Key.INPUT_DEPENDENCE),
            bands("Size of the trunk's output (RMS), by level", *levels(Key.RMS), log_y=True),
            bands("Linear probe: AUC of each level, first and last step", *levels(Key.PROBE_AUC)),
            bands("The same from the place alone: no less is of use", *levels(Key.PROBE_AUC, "_position")),
        ],
        "Clipping": [
            bands("What clipping multiplies the gradient by", Key.CLIP_FACTOR, log_y=True),
            bands("The trunk's share of the squared gradient norm", Key.TRUNK_SHARE),
        ],
        "Depth profile": [
            depth_profile,
            wr.MediaBrowser(title="Every layer over time", media_keys=["layer_map/activation_grad"]),
        ],
        "Predictions": [
            wr.MediaBrowser(title=f"Predictions, {split} images", media_keys=[f"predictions/{split}"])
            for split in ("train", "val")
        ],
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
        settings=ws.WorkspaceSettings(x_axis="Step", max_runs=30, sort_panels_alphabetically=False),
        runset_settings=ws.RunsetSettings(pinned_columns=list(COLUMNS)),
    )


def _first_middle_last(layers: Sequence[str]) -> list[tuple[str, str]]:
    """Three residual blocks, the stem and the downsamplings being none; in other networks three layers."""
    blocks = [layer for layer in layers if layer.rpartition(".")[2].isdigit()] or layers
    return [("first", blocks[0]), ("middle", blocks[(len(blocks) - 1) // 2]), ("last", blocks[-1])]
