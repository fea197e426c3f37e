"""Suppression, against torchvision's own function."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torchvision

from detector.models.nms import MOST_AT_ONCE, batched_nms
from tests.support import ROOT


@pytest.mark.parametrize("count", [0, 1, 50, MOST_AT_ONCE, MOST_AT_ONCE + 1, 3 * MOST_AT_ONCE])
@pytest.mark.parametrize("classes", [1, 80])
def test_what_stays_is_what_torchvision_keeps(count: int, classes: int) -> None:
    torch.manual_seed(count)
    corner = torch.rand(count, 2) * 300
    boxes = torch.cat((corner, corner + torch.rand(count, 2) * 100), 1)
    scores, labels = torch.rand(count), torch.randint(0, classes, (count,))
    kept = batched_nms(boxes, scores, labels, 0.5)
    assert kept.dtype == torch.int64
    assert torch.equal(kept, torchvision.ops.batched_nms(boxes, scores, labels, 0.5))
    assert count < MOST_AT_ONCE or 0 < len(kept) < count


@pytest.mark.slow
def test_torchvision_is_not_imported() -> None:
    code = """
        import sys, torch
        from detector.models.nms import batched_nms
        boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 10, 10], [1, 0, 10, 10]])
        print(batched_nms(boxes, torch.tensor([0.5, 0.9, 0.8]), torch.tensor([0, 0, 1]), 0.5).tolist())
        print("torchvision" in sys.modules)
        import torchvision  # can still be, afterwards
        print(torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9, 0.8]), 0.5).tolist())
    """
    done = subprocess.run([sys.executable, "-c", "\n".join(line.strip() for line in code.splitlines())],
                          cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    assert done.stdout.split("\n")[:3] == ["[1, 2]", "False", "[1]"], done.stderr
