"""A finished run's gradient in a few plain sentences, each backed by numbers in the summary."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from detector.analysis.evidence import Effect, find
from detector.analysis.next_steps import next_steps
from detector.analysis.remedies import Facts, cure, remedy, say_cure, say_remedy
from detector.analysis.theory import Activation
from detector.analysis.trunk_theory import block_factors, measured_factor, stage_factor
from detector.config.schema import Config, ModelConfig
from detector.gradients.entries import RESIDUAL, Entry, summarise_ledger
from detector.gradients.indices import COLLAPSED, FORWARD
from detector.rows import Key

# A frozen trunk that reaches this share of the trained one's mAP shows that the data does not need the trunk.
NOT_NEEDED = 0.9
# Theory is said to miss beyond this: twice what finite width and four images explain.
MISS = 0.05
SMALL = 0.05  # decades: rounds to nothing in a sentence


def explain(
    summary: Mapping[str, Any],
    rows: Sequence[Mapping[str, float]],
    ledger: Mapping[int, Sequence[Entry]],
    config: Config,
    effects: Sequence[Effect] = (),
    act: Activation | None = None,
) -> Facts:
    """Say what happened to the gradient, where, by which operation, whether expected, and what to try.

    Args:
        summary: with the keys of `diagnose`, `dataset` and the mAPs.
        rows: the history.
        ledger: entries by step; step 0 is the initialisation, the highest other one is late.
        config: of the run.
        effects: what the ablations measured, for the controls and the remedy; nothing else is quoted.
        act: φ and φ' of `model.act`, where the theory does not have them itself.

    Returns:
        More keys for the summary, and the paragraph as `gradient/diagnosis`. Empty if no gradient was
        recorded.
    """
    if summary.get(Key.VERDICT) is None:
        return {}
    if config.gradients.impose is not None and summary[Key.VERDICT] != "diverged":
        return {Key.DIAGNOSIS: _imposed(config.gradients.impose)}
    facts: Facts = {}
    sentences = [_verdicts(summary)]
    late = max(ledger, default=0)
    for step, suffix in ((0, "_init"), (late, "")):
        if step in ledger and (step or suffix):
            found = worst(ledger[step], summary.get(Key.VANISHING_INDEX + suffix), suffix)
            facts |= found
            if summary.get(Key.VERDICT + suffix) != "healthy":  # some place always loses the most
                sentences.append(_place(found, suffix))
    facts |= expected(rows, config.model, act)
    sentences.append(_theory(facts))
    if summary[Key.VERDICT] != "healthy":
        if summary[Key.VERDICT] in FORWARD:
            facts["gradient/cause"] = "forward"
        else:
            facts |= causality(summary, config, effects)
        sentences.append(_cause(facts, ours=config.model.pretrained is None))
        facts |= remedy(summary, config, effects, act) | cure(summary, config, effects)
        sentences += [say_remedy(facts), say_cure(facts)]
    else:
        sentences.append(next_steps(summary, rows, config))
    return {**facts, Key.DIAGNOSIS: " ".join(sentence for sentence in sentences if sentence)}


def _imposed(source: str) -> str:
    """A curve that was imposed is no operation's doing: it is neither explained nor mended."""
    return (
        f"The trunk's gradient was given another curve (gradients.impose={source}): V is not the network's, "
        "but that curve's. What it costs is this run's loss less that of the same run without it."
    )


def worst(entries: Sequence[Entry], index: float | None, suffix: str = "") -> Facts:
    """Where the gradient loses the most, or with a positive vanishing index gains the most, and by what."""
    stretch = summarise_ledger(entries, gain=(index or 0) > 0)
    if stretch is None:
        return {}
    layer, decades = next(iter(stretch.layers.items()))
    identity = {} if stretch.identity is None else {f"gradient/identity_share{suffix}": stretch.identity}
    return {
        f"gradient/worst_blocks{suffix}": stretch.blocks,
        f"gradient/decades_lost{suffix}": -stretch.decades,
        f"gradient/worst_operation{suffix}": layer,
        f"gradient/worst_operation_decades_lost{suffix}": -decades,
        f"gradient/other_operations_decades_lost{suffix}": decades - stretch.decades,
        **identity,
    }


def expected(rows: Sequence[Mapping[str, float]], model: ModelConfig, act: Activation | None = None) -> Facts:
    """What theory predicted for a layer of the P3 stage at initialisation, and what was measured.

    Empty where the theory does not know the model.
    """
    factor = stage_factor(block_factors(model, act=act))
    first = next((row for row in rows if row.get("step") == 0), {})
    measured = measured_factor(first)
    if not (math.isfinite(factor) and math.isfinite(measured)):
        return {}
    return {
        "theory/factor": factor,
        "theory/measured_factor": measured,
        "theory/difference": measured / factor - 1,
    }


def causality(summary: Mapping[str, Any], config: Config, effects: Sequence[Effect]) -> Facts:
    """What the controls say about the gradient as the cause of a low mAP.

    Only a control of the same data and schedule counts: the baseline with its trunk frozen. Where that does
    as well as the trained one, the trunk needs no gradient, and losing it cannot be the cause by itself.
    """
    dataset = str(summary.get("dataset"))
    base = json.loads(ModelConfig().model_dump_json())
    frozen = find(effects, config, dataset, **base | {"freeze": "backbone"})
    trained = find(effects, config, dataset, **base)
    if frozen is None or trained is None:
        return {"gradient/cause": "not shown"}
    needed = frozen.mean < NOT_NEEDED * trained.mean
    return {
        "gradient/cause": "possible" if needed else "not by itself",
        "control/metric": trained.metric,
        "control/frozen_backbone": frozen.mean,
        "control/frozen_backbone_n": frozen.n,
        "control/baseline": trained.mean,
        "control/baseline_n": trained.n,
    }


# The sentences.

_SAYS = {
    "healthy": "is healthy",
    "dead forward": "is not the first fault: the signal is almost zero where it leaves the trunk",
    "vanishing": "vanishes",
    "exploding": "explodes towards the input",
    "underflow": "is too small for a number to hold it",
    "collapsed": "arrives, but the trunk's output hardly depends on the image",
}


def _verdicts(summary: Mapping[str, Any]) -> str:
    def state(suffix: str) -> str:
        verdict = summary[Key.VERDICT + suffix]
        if verdict == "diverged":
            layer = summary.get(Key.FIRST_BAD_LAYER)
            return "stops being finite" + (f", first in {layer}" if layer else "")
        says = _SAYS.get(verdict, f"is called {verdict}")  # of a later version of this project
        text = f"{says} (V = {summary[Key.VANISHING_INDEX + suffix]:+.2f} decades"
        if isinstance(rate := summary.get(Key.DECADES_PER_LAYER + suffix), int | float):
            text += f", {rate:+.3f} a layer"
        size = smallest_rms(summary, suffix)
        if verdict == "dead forward" and size is not None:
            text += f", RMS {size:.2g}"
        dependence = summary.get(Key.INPUT_DEPENDENCE)
        # A gradient that vanishes and a signal that says nothing of the image can be one and the same trunk.
        shown = not suffix and dependence is not None and (verdict == "collapsed" or dependence < COLLAPSED)
        return text + (f", input dependence {dependence:.2g})" if shown else ")")

    when = "so far, and the run was stopped," if summary.get("status") == "stopped" else "late in training"
    now = f"{when} it {state('')}."
    if summary.get(Key.VERDICT + Key.INIT) is None:
        return f"The trunk's gradient: {now}"
    return f"At initialisation the trunk's gradient {state('_init')}; {now}"


def smallest_rms(summary: Mapping[str, Any], suffix: str) -> float | None:
    """The signal's smallest RMS at the ends of the levels, late or at initialisation; None if not known."""
    found = [
        value
        for key, value in summary.items()
        if key.startswith(Key.RMS) and key.endswith(Key.INIT) == bool(suffix) and value is not None
    ]
    return min(found, default=None)


def _place(facts: Facts, suffix: str) -> str:
    if not facts:
        return ""
    lost = facts[f"gradient/decades_lost{suffix}"]
    blocks = facts[f"gradient/worst_blocks{suffix}"]
    operation = facts[f"gradient/worst_operation{suffix}"]
    mine = facts[f"gradient/worst_operation_decades_lost{suffix}"]
    others = facts[f"gradient/other_operations_decades_lost{suffix}"]
    when = "At initialisation" if suffix else "In the last step"
    verb = "loses" if lost > 0 else "gains"
    where = f"blocks {blocks}" if " to " in blocks else f"block {blocks}"
    text = f"{when} it {verb} the most in {where}, {abs(lost):.1f} decades"
    if (identity := facts.get(f"gradient/identity_share{suffix}")) is None:
        shares = ""
    else:
        shares = (
            f" In its residual blocks {100 * identity:.0f} % of the gradient comes by the identity, "
            f"{100 - 100 * identity:.0f} % through the branch."
        )
    if abs(others) < SMALL:
        return f"{text}, all in the {operation}.{shares}"
    rest = "give back" if verb == "loses" and others < 0 else "take back" if others > 0 > lost else "add"
    does = verb.removesuffix("s") if operation == RESIDUAL else verb
    text += f": the {operation} {does} {abs(mine):.1f}, the other operations {rest} {abs(others):.1f}."
    return text + shares


def _theory(facts: Facts) -> str:
    if "theory/factor" not in facts:
        return ""
    difference = facts["theory/difference"]
    text = (
        f"Mean-field theory expects one layer of P3 to pass on {facts['theory/factor']:.3f} of the gradient "
        f"at initialisation; measured {facts['theory/measured_factor']:.3f} ({100 * difference:+.1f} %)"
    )
    return f"{text}: here the theory misses." if abs(difference) > MISS else f"{text}."


def _cause(facts: Facts, ours: bool) -> str:
    """Of our own network, or of one whose neck is its own."""
    if facts["gradient/cause"] == "not shown":
        frozen = "ablations/frozen_backbone.yaml"
        controls = f"controls {frozen} and ablations/narrow_neck.yaml" if ours else f"control {frozen}"
        return (
            "Whether this is what limits mAP is not shown by one run: compare with the "
            f"{controls} on the same data."
        )
    if facts["gradient/cause"] == "forward":
        return (
            "This is a fault of the forward pass: what the trunk hands on says almost nothing about the "
            "image, whatever the gradient does."
        )
    control = (
        f"With the trunk frozen at its initialisation the baseline reaches a {facts['control/metric']} of "
        f"{facts['control/frozen_backbone']:.2f} (n={facts['control/frozen_backbone_n']}), trained "
        f"{facts['control/baseline']:.2f} (n={facts['control/baseline_n']})"
    )
    if facts["gradient/cause"] == "possible":
        return f"{control}: this data needs a trunk that learns, so a lost gradient can be what limits mAP."
    return f"{control}: no trunk needs to learn here, so a lost gradient is not by itself the cause."
