"""`detector val --before`: which classes a network forgot."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from detector.cli import main
from detector.tools.val.evaluation import report
from detector.tools.val.forgetting import changes, document, means, print_changes
from detector.training.metrics import Prediction, Truth
from tests.checkpoints import confident, save

NAMES = "cat", "dog", "bird", "nobody"
BOX = np.array([[10, 10, 50, 50]], np.float32)


def split(*found: int) -> tuple[list[Truth], list[Prediction]]:
    """Three images with one cat, dog and bird, on which these classes are found exactly, and nothing else."""
    truths = [Truth(BOX, np.array([label]), (64, 64)) for label in range(3)]
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
    right = [(BOX, np.ones(1, np.float32), np.array([label])) for label in range(3)]
    return truths, [Prediction(*(right[label] if label in found else nothing)) for label in range(3)]


def test_by_hand() -> None:
    before, after = report(*split(0, 1), NAMES), report(*split(0, 2), NAMES)
    found = changes(before, after, {"cat", "dog", "nobody"}, {"cat", "bird"})
    assert [(c.name, c.kind, c.boxes) for c in found] == [
        ("cat", "old", 1),
        ("dog", "gone", 1),
        ("bird", "new", 1),
    ]
    assert [(c.before, c.after) for c in found[:1]] == [pytest.approx((1.0, 1.0))]
    assert found[1].before == pytest.approx(1.0) and math.isnan(found[1].after)
    assert math.isnan(found[2].before) and found[2].after == pytest.approx(1.0)
    assert means(found)["known"] == pytest.approx({"classes": 2, "before": 1.0, "after": 0.5})
    assert document(found, "a.pt")["classes"][1]["name"] == "dog"


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits(width: int) -> None:
    before, after = report(*split(0, 1), NAMES), report(*split(0, 2), NAMES)
    out = io.StringIO()
    print_changes(changes(before, after, NAMES[:2], NAMES[:3]), "yolo26n.pt", Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in out.getvalue()
    (dog,) = (line.split() for line in lines if " dog " in line)
    assert dog == ["dog", "old", "1", "1.000", "0.000", "-1.000"]
    assert any("mean of 2 all that was known" not in line and "mean of 2 old" in line for line in lines)


@pytest.mark.slow
def test_two_networks_that_know_other_classes(
    coco8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"c{i}" for i in range(80)]
    splits = "train: images/train\nval: images/val"
    (tmp_path / "d.yaml").write_text(f"path: {coco8 / 'coco8'}\n{splits}\nnames: {names}\n")
    old = save(confident(names=tuple(f"c{i}" for i in range(40)), share=0.2), tmp_path / "old.pt",
               tuple(f"c{i}" for i in range(40)), 64)  # fmt: skip
    new_names = tuple(f"c{i}" for i in range(20, 80))
    new = save(confident(names=new_names, share=0.2), tmp_path / "run/checkpoints/best.pt", new_names, 64)
    arguments = ["val", "--data", "d.yaml", "--device", "cpu", "--image-size", "64", "--json"]
    assert main([*arguments, str(new)]) == 2  # it does not know all, and there is no other that does
    assert "new to the model" in capsys.readouterr().err
    assert main([*arguments, "run", "--before", str(old)]) == 0
    found = json.loads(capsys.readouterr().out)
    kinds = {c["name"]: c["kind"] for c in found["forgetting"]["classes"]}
    assert set(kinds.values()) >= {"gone", "old"}
    for name, kind in kinds.items():
        assert kind == ("gone" if int(name[1:]) < 20 else "old" if int(name[1:]) < 40 else "new")
    assert all((c["after"] is None) == (c["kind"] == "gone") for c in found["forgetting"]["classes"])
    # A class that it does not know is never found: the whole split's mean has a 0 for it.
    by_class = {c["class"]: c["AP50-95"] for c in found["classes"]}
    assert by_class["c0"] == 0
