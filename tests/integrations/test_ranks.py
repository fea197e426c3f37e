"""`watch` under DistributedDataParallel: two processes against one on the joined batch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from detector.rundir import RunDir
from tests.integrations.ranks_script import images, network, train
from tests.starter import Starter
from tests.support import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, warm_start: Starter) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    torchrun = warm_start.start(
        ["--standalone", "--nproc-per-node=2", "-m", "tests.integrations.ranks_script", str(folder)],
        [("fork_ranks",)], "tests.forked_ranks", cwd=ROOT, program="torch.distributed.run",
    )  # fmt: skip
    assert torchrun.wait(240) == 0, torchrun.err.read_text()
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_across_ranks_it_is_the_gradient_of_the_whole_batch(found: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, ranks = found
    alone, model = train(network(), slice(None), across_ranks=False)
    for at, row in enumerate(alone):
        dependence = row.pop("signal/input_dependence")  # of the rank's own images
        for rank in ranks:
            ours = dict(rank["joined"][at])
            assert ours.pop("signal/input_dependence") != dependence
            assert ours == pytest.approx(row, rel=1e-5)
    for weight, theirs in zip(model.parameters(), ranks[0]["weights"], strict=True):
        assert torch.allclose(weight, torch.tensor(theirs), atol=1e-6)
    assert RunDir(folder / "joined").read_history() == ranks[0]["joined"]  # written by one of them
    assert RunDir(folder / "joined").read_summary()["processes"] == 2


def test_otherwise_activations_are_those_of_the_rank_and_weights_those_of_all(
    found: tuple[Path, list[dict[str, Any]]],
) -> None:
    _, ranks = found
    whole = train(network(), slice(None), across_ranks=False)[0][0]
    for rank, own in enumerate(ranks):
        model = network()
        out = model[0](images(0)[4 * rank : 4 * rank + 4])
        (grad,) = torch.autograd.grad(model[1:](out).square().mean(), out)
        row = own["own"][0]
        assert row["activation_grad/00_0"] == pytest.approx(float(grad.norm()), rel=1e-5)
        assert row["weight_grad/00_0"] == pytest.approx(whole["weight_grad/00_0"], rel=1e-5)
    squares = [own["own"][0]["activation_grad/00_0"] ** 2 for own in ranks]
    assert math.sqrt(sum(squares)) / 2 == pytest.approx(whole["activation_grad/00_0"], rel=1e-5)
