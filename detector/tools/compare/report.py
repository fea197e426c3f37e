"""`detector report`: the comparison as a text, and as a W&B report with the runs' curves in it."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.errors import UserError
from detector.loggers.wandb_pages import save, specification
from detector.rows import Key
from detector.rundir import RunDir

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2.interface import Report

    from detector.tools.compare.comparison import Comparison

MAX_ANSWER = 10_000_000  # bytes of a file that `detector why` wrote


def report(
    *paths: Path,
    why: tuple[Path, ...] = (),
    wandb: bool = False,
    entity: str | None = None,
    project: str = "detector-gradients",
    baseline: str | None = None,
    allow_mixed: bool = False,
    dry_run: bool = False,
) -> str:
    """Write a report of runs: what stands out, a table over seeds, and the shares of each cause.

    It is printed as Markdown; with --wandb it becomes a report on W&B, with the curves of those runs.

    Args:
        paths: runs' directories, or folders of them.
        why: answers of detector why, such as runs/why-shapes/no_residual.json; may be repeated.
        wandb: save it on W&B, which needs --entity.
        entity: the W&B user or team.
        project: the W&B project that the runs are in.
        baseline: the ablation that the others are set against, or the directory of one of its runs.
        allow_mixed: compare runs on different data, image sizes or steps.
        dry_run: with --wandb: print the report as JSON; needs no network.

    Returns:
        The text.

    Raises:
        UserError: nothing to report, a file that is no answer, or W&B refused.
    """
    from detector.tools.compare.comparison import compare
    from detector.tools.compare.runs import load_runs

    if not paths:
        raise UserError("report what? Name runs' directories, or a folder of them, such as runs")
    if wandb and entity is None:
        raise UserError("--wandb: whose? Give --entity, the W&B user or team")
    runs, left_out = load_runs([Path(path) for path in paths])
    comparison = compare(runs, left_out, baseline=baseline, allow_mixed=allow_mixed)
    title = f"Where gradients die: {len(comparison.groups)} ablations on {', '.join(comparison.datasets)}"[
        :128
    ]
    texts = sections(comparison, [read_answer(Path(path)) for path in why])
    text = "\n\n".join([f"# {title}", *texts]) + "\n"
    if not wandb:
        print(text, end="")
        return text
    assert entity is not None
    ids = {run.directory: RunDir(run.directory).wandb_id() for run in runs}
    if missing := [path.name for path, found in ids.items() if found is None]:
        print(f"without curves, since they were not logged to W&B: {', '.join(missing)}", file=sys.stderr)
    known = [found for found in ids.values() if found is not None]
    made = build(entity, project, title, texts, known, offline=dry_run)
    if dry_run:
        print(json.dumps(specification(made), indent=2))
        return text
    save(made, "report", "one run, or `wandb sync`")
    return text


def sections(comparison: Comparison, answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """As Markdown: what stands out, the tables with their remarks, and each answer."""
    from detector.tools.compare.page import headline
    from detector.tools.compare.table import escape, markdown

    stands_out = "\n".join(f"- {escape(line)}" for line in headline(comparison))
    return [
        stands_out or "- No gradients were recorded.",
        markdown(comparison).rstrip(),
        *map(cause, answers),
    ]


def read_answer(path: Path) -> Mapping[str, Any]:
    """What `detector why` found. Raises UserError if it is not that."""
    from detector.runtime.files import read_bytes
    from detector.runtime.json_numbers import from_json

    try:
        content = from_json(read_bytes(path, MAX_ANSWER))
        cause(content)
    except OSError as error:
        raise UserError(f"--why {path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--why {path}: is not an answer that detector why wrote") from error
    return dict(content)


def cause(answer: Mapping[str, Any]) -> str:
    """What `detector why` found, as Markdown."""
    from detector.tools.compare.table import escape

    title = f"## Is it the gradient? {escape(answer['ablation'])} on {escape(answer['data'])}"
    return f"{title}\n\n{_shares(answer)}"


def _shares(answer: Mapping[str, Any]) -> str:
    """The gap and its shares, of loss and mAP, with their 95 % intervals; and what they mean."""
    from detector.tools.compare.table import escape

    found, metric = answer["answer"], answer["metric_shares"]
    rows = [("gap", found["gap"], answer["metric_gap"])]
    rows += [(escape(name), share, metric[name]) for name, share in found["shares"].items() if share["n"]]
    lines = [f"| share | loss | {escape(answer['metric'])} |", "|---|--:|--:|"]
    lines += [f"| {name} | {_estimate(loss, 2)} | {_estimate(of, 3)} |" for name, loss, of in rows]
    control = found["control"]
    verdict = "was not run" if control is None else "passed" if control["passed"] else "failed"
    n = found["gap"]["n"]
    return (
        f"{escape(found['says'])}\n\n" + "\n".join(lines) + f"\n\nn = {n} seeds; positive control {verdict}."
    )


def _estimate(e: Mapping[str, Any], digits: int) -> str:
    mean, low, high = (float(e[key]) for key in ("mean", "low", "high"))
    between = f" [{low:+.{digits}f}, {high:+.{digits}f}]" if math.isfinite(high - low) else ""
    return f"{mean:+.{digits}f}{between}" if e["n"] else "–"


def build(
    entity: str, project: str, title: str, texts: Sequence[str], ids: Sequence[str], *, offline: bool = False
) -> Report:
    """Put the W&B report together.

    Args:
        entity: the W&B user or team.
        project: the project that the runs are in.
        title: up to 128 characters.
        texts: Markdown; the curves come behind the first.
        ids: of the runs, on W&B.
        offline: do not ask W&B for the project, without which the curves belong to none.
    """
    try:
        import wandb_workspaces.reports.v2.interface as wr
        from wandb_workspaces import expr
    except ImportError as error:
        raise UserError(
            f"wandb-workspaces is needed ({error}): pip install 'gradient-detector[dashboard]'"
        ) from error

    def bands(name: str, key: str, log_y: bool | None = None) -> Any:
        """A curve an ablation, the mean over its seeds with their deviation as a band."""
        by_ablation: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
        by_ablation["groupby"] = wr.Config("ablation")
        return wr.LinePlot(title=name, x="Step", y=[key], log_y=log_y, **by_ablation)

    where = ("", "") if offline else (entity, project)
    runs = wr.Runset(
        name="the runs of this report",
        filters=[expr.Metric("ID").isin(list(ids))],
        entity=where[0],
        project=where[1],
    )
    panels = [
        bands("mAP50-95 on the training images", Key.TRAIN_MAP),
        bands("mAP50-95 on unseen images", Key.VAL_MAP),
        bands("Loss", Key.LOSS, log_y=True),
        bands("Vanishing index V (decades)", Key.VANISHING_INDEX),
    ]
    curves = wr.PanelGrid(runsets=[runs], panels=panels)
    blocks: list[Any] = [wr.MarkdownBlock(text=text) for text in texts]
    return wr.Report(
        entity=entity,
        project=project,
        title=title,
        description="Written by detector report.",
        blocks=[*blocks[:1], *([curves] if ids else ()), *blocks[1:]],
    )
