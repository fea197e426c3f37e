"""Tables of networks with swapped blocks, against rows computed by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detector.tools.compare import table
from detector.tools.compare.comparison import Comparison, compare
from detector.tools.compare.networks import replaced
from detector.tools.compare.runs import load_runs
from detector.tools.compare.sheets import sheets

Make = Callable[..., Path]
C2F = [[-1, 1, "Conv", [64, 3, 2]], [-1, 3, "C2f", [128, True]], [[-1, 6], 1, "Concat", [1]]]
C3K2 = [C2F[0], [-1, 3, "C3k2", [128, False, 0.25]], C2F[2]]
MACHINE = {
    "device": "cpu",
    "threads": 1,
    "precision": "fp32",
    "versions": {"torch": "2.15.0", "ultralytics": "8.4"},
}


def runs(make_run: Make, **other: Any) -> Comparison:
    """Two networks over three seeds, on data whose unseen images count."""
    made = []
    for seed in range(3):
        for name, layers, size, found in (("baseline", C2F, 3.0, 0.30), ("c3k2", C3K2, 2.4, 0.33)):
            more = other if name == "c3k2" else {}
            summary = MACHINE | {
                "dataset": "shapes", "val/mAP50-95": found + 0.01 * seed, "parameters": size * 1e6,
                "flops": 2 * size * 1e9, "time/image_ms": 10 * size + seed, "network": layers,
            }  # fmt: skip
            file = {"model.pretrained": f"{name}.yaml"}
            made.append(make_run(name, seed, summary=summary, **file, **more))
    return compare(*load_runs(made))


def test_each_network_has_its_cost_and_its_paired_difference(make_run: Make) -> None:
    comparison = runs(make_run)
    sheet = next(sheet for sheet in sheets(comparison) if sheet.title.startswith("What each network"))
    first, second = sheet.rows
    assert [cell.text for cell in first] == [
        "baseline", "3", "3.00", "6.00", "31.0 ± 1.0", "0.310", "–",
    ]  # fmt: skip
    assert [cell.text for cell in second][2:5] == ["2.40", "4.80", "25.0 ± 1.0"]
    assert second[-1].text == "+0.030"
    assert second[-1].below == ("the same in all 3",)
    # 0.33, 0.34, 0.35: t(2) is 4.303, the standard error .01 / √3
    half = 4.303 * 0.01 / 3**0.5
    assert second[-2].below == (f"[{0.34 - half:.3f}, {0.34 + half:.3f}]",)


def test_the_caption_has_the_conditions_in_markdown_and_in_latex(make_run: Make) -> None:
    comparison = runs(make_run)
    said = "shapes at 64 px; equal budget in steps: 20 steps of batch 4; cpu, fp32, 1 thread, torch 2.15.0, "
    assert said in table.markdown(comparison).splitlines()[0]
    latex = table.latex(comparison)
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 3
    caption = next(line for line in latex.splitlines() if "What each network" in line)
    assert caption.startswith(r"\caption{What each network costs and finds. shapes at 64 px; equal budget")


def test_a_single_swapped_block_is_one_thing_and_a_second_change_is_said(make_run: Make) -> None:
    one = "\n".join(runs(make_run).notes)
    assert "more than one thing" not in one
    assert "c3k2 (0.80 × its parameters (M), 0.80 × its GFLOPs)" in one


def test_two_changes_are_named(make_run: Make) -> None:
    notes = "\n".join(runs(make_run, **{"train.lr": 0.01}).notes)
    assert "so which of them makes the difference is not known: c3k2 (C2f → C3k2, train.lr=0.01)." in notes


def test_unequal_budgets_are_said_and_equal_time_is_too(make_run: Make) -> None:
    found = [make_run("a", 0), make_run("b", 0, steps=30, **{"model.norm": "none"})]
    comparison = compare(*load_runs(found), allow_mixed=True)
    assert "equal budget in time: 12 s a run" in comparison.conditions
    slow = make_run("c", 0, steps=30, summary={"seconds": 20.0}, **{"model.norm": "none"})
    assert (
        "budgets differ: 20 steps, 30 steps"
        in compare(*load_runs([found[0], slow]), allow_mixed=True).conditions
    )


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (C2F, []),
        (C3K2, ["C2f → C3k2"]),
        ([C2F[0], [-1, 6, "C2f", [128, True]], C2F[2]], ["repeats of C2f"]),
        (
            [C2F[0], [-1, 3, "C2f", [256, True]], [[-1, 4], 1, "Concat", [1]]],
            ["arguments of C2f", "connections of Concat"],
        ),
        (C2F[:2], ["2 layers instead of 3"]),
    ],
)  # fmt: skip
def test_what_differs_between_two_networks(layers: list[Any], says: list[str]) -> None:
    assert replaced([json.dumps(layer) for layer in layers], [json.dumps(layer) for layer in C2F]) == says


@pytest.mark.parametrize("network", [3, ["<b>"], [[1, 2, {}, []]], [[-1, 1, "Conv\x1b[31m", []]]])
def test_a_strangers_summary_does_no_harm(make_run: Make, network: object) -> None:
    found = [
        make_run("a", 0),
        make_run("b", 0, summary={"network": network, "flops": "x"}, **{"model.norm": "none"}),
    ]
    comparison = compare(*load_runs(found))
    assert "\x1b" not in table.markdown(comparison)
