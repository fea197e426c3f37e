"""The tables that the documentation makes of answers: by hand."""

from __future__ import annotations

from typing import Any

from scripts.why import parts


def found(**outcomes: float) -> dict[str, Any]:
    return {
        "ablation": "mine",
        "outcomes": {
            role: {str(seed): {"loss": loss + seed} for seed in range(3)} for role, loss in outcomes.items()
        },
    }


def test_an_additive_loss_has_no_interaction() -> None:
    text = parts([found(baseline=4, trunk=5, rest=6, ablation=7)])
    assert "| `mine` | +1.00<br>\\[+1.00, +1.00\\] | +2.00<br>\\[+2.00, +2.00\\] | +0.00" in text
    uneven = found(baseline=4, trunk=5, rest=6, ablation=7.5)
    uneven["outcomes"]["ablation"]["0"]["loss"] += 0.3
    uneven["outcomes"]["trunk"]["9"] = {"loss": 1.0}  # a seed that the others lack
    assert "| +0.60<br>" in parts([uneven]) and "| 3 |" in parts([uneven])


def test_an_ablation_of_the_trunk_alone_has_no_row() -> None:
    assert "mine" not in parts([found(baseline=4, ablation=7)])
