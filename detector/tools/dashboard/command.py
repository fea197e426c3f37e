"""The W&B workspace as code: what to look at in a project full of ablations, in reading order.

`wandb-workspaces` is an optional extra: pip install 'gradient-detector[dashboard]'.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.errors import UserError
from detector.gradients.indices import COLLAPSED, limits
from detector.rundir import Key

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

NAME = "Where gradients die"
# A layer's name is two digits of depth and the block: 00_stem, 07_p3.4. The dots are part of it.
LAYER = r"\d\d_[a-z0-9.]+"
COLUMNS = (
    "run:displayName",
    "run:state",
    "config:ablation.value",
    "config:seed.value",
    f"summary:{Key.TRAIN_MAP}",
    f"summary:{Key.VAL_MAP}",
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
        config: the network of the runs: a file, or a name such as deep.
        explicit: list the layers instead of a pattern.
        dry_run: print it as JSON; needs no network.

    Returns:
        The workspace's specification.

    Raises:
        UserError: wandb-workspaces is not installed, or W&B refused.
    """
    workspace = build(entity, project, layer_names(config, overrides), regex=not explicit)
    content = specification(workspace)
    if dry_run:
        print(json.dumps(content, indent=2))
        return content
    try:
        workspace.save()
    except Exception as error:  # the client raises what its transport does: many kinds, no common base
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"W&B did not take the workspace: {words}\n"
            f"is {entity}/{project} a project of yours (`wandb login`, then one run)?"
        ) from error
    print(f"Saved: {workspace.url}")
    return content


def layer_names(config: Path, overrides: Sequence[str]) -> list[str]:
    """The trunk's layers under the names that the curves carry, first to last."""
    from detector.config.loading import load_config
    from detector.models.detector import build_detector

    model = load_config(config, overrides).config.model
    return list(build_detector(model, num_classes=1).backbone_layers())


def build(entity: str, project: str, layers: Sequence[str], *, regex: bool = True) -> Workspace:
    """Put the workspace together; nothing is sent.

    Args:
        entity: the W&B user or team.
        project: the project whose runs are shown.
        layers: the trunk's layers, first to last.
        regex: whether the panels of all layers find them by a pattern, which also fits deeper trunks.
            The list of `layers` is given in any case, for a W&B that does not know patterns.
    """
    try:
        import wandb_workspaces.reports.v2.interface as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError(
            f"wandb-workspaces is needed ({error}): pip install 'gradient-detector[dashboard]'"
        ) from error

    def bands(title: str, metric: str, *, log_y: bool = False) -> Any:
        """One curve an ablation: the mean over its seeds, with their standard deviation as a band."""
        by_ablation: dict[str, Any] = {
            "groupby": wr.Config("ablation"),
            "groupby_aggfunc": "mean",
            "groupby_rangefunc": "stddev",
        }
        return wr.LinePlot(title=title, x="Step", y=[metric], log_y=log_y or None, **by_ablation)

    def every_layer(title: str, kind: str) -> Any:
        pattern = f"^{kind}{LAYER}$" if regex else None
        names: list[Any] = [kind + layer for layer in layers]
        return wr.LinePlot(
            title=title, x="Step", y=names, metric_regex=pattern, log_y=True, legend_position="east"
        )

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
                bands(f"Activation gradient, {place} block", Key.ACTIVATION_GRAD + layer, log_y=True)
                for place, layer in _first_middle_last(layers)
            ),
            bands(f"Input dependence: below {COLLAPSED} the signal has collapsed", Key.INPUT_DEPENDENCE),
        ],
        "Depth profile": [depth_profile],
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


def specification(workspace: Workspace) -> dict[str, Any]:
    """What would be sent, as plain data."""
    # The library has no public way to ask for it; its own tests look here.
    text: str = workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    return dict(json.loads(text))


def _first_middle_last(layers: Sequence[str]) -> list[tuple[str, str]]:
    """Three residual blocks; the stem and the downsamplings are no blocks."""
    blocks = [layer for layer in layers if layer.rpartition(".")[2].isdigit()]
    return [("first", blocks[0]), ("middle", blocks[(len(blocks) - 1) // 2]), ("last", blocks[-1])]
