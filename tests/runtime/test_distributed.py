"""Two processes against one on the joined batch."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
import torch

from detector.data.sampler import part_of
from detector.errors import UserError
from detector.runtime.distributed import SingleProcess
from detector.runtime.launch import Launch
from tests.runtime import ranks_scenarios
from tests.starter import Starter
from tests.support import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, warm_start: Starter) -> dict[str, Any]:
    """What two processes found, started by hand."""
    file = tmp_path_factory.mktemp("ranks") / "found.pt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        warm_start.start(
            [str(file)], cwd=ROOT, program="tests.runtime.ranks_scenarios",
            RANK=str(rank), LOCAL_RANK=str(rank), **env,
        ) for rank in range(2)
    ]  # fmt: skip
    try:
        codes = [process.wait(240) for process in processes]
        assert codes == [0, 0], [process.err.read_text() for process in processes]
    finally:
        for process in processes:
            process.kill_group()
    return dict(torch.load(file, weights_only=False))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    threads = torch.get_num_threads()
    try:
        return ranks_scenarios.everything(SingleProcess(), tmp_path_factory.mktemp("one"))
    finally:
        torch.set_num_threads(threads)


def assert_same_run(one: dict[str, Any], two: dict[str, Any], rel: float) -> None:
    assert two["outcome"] == one["outcome"]
    assert [list(row) for row in two["rows"]] == [list(row) for row in one["rows"]]
    for ours, theirs in zip(two["rows"], one["rows"], strict=True):
        assert ours == pytest.approx(theirs, rel=rel)
    assert_close(two["weights"], one["weights"], rel)


def assert_close(ours: list[torch.Tensor], theirs: list[torch.Tensor], rel: float) -> None:
    """Each as a whole: single values near zero have no relative accuracy to speak of."""
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert float((a - b).double().norm()) <= rel * float(b.double().norm()) + 1e-12


def test_without_batch_norm_two_processes_are_one(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Loss, every recorded gradient, the signal's index and the weights, an empty share included."""
    assert any(key.startswith("activation_grad/") for key in one["plain"]["rows"][0])
    assert "signal/input_dependence" in one["plain"]["rows"][0]
    assert_same_run(one["plain"], two["plain"], rel=1e-6)


def test_a_curve_is_imposed_on_the_joined_batch(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Each micro-batch is rescaled by the joined norms, also where one process has no images of it."""
    assert any(key.startswith("raw_activation_grad/") for key in one["imposed"]["rows"][0])
    runs = [
        found["imposed"] | {"rows": [  # V and W are 0 now
            {key: value for key, value in row.items() if not key.endswith("_index")}
            for row in found["imposed"]["rows"]
        ]} for found in (one, two)
    ]  # fmt: skip
    assert_same_run(*runs, rel=1e-5)


@pytest.mark.parametrize("network", ["yolov8", "yolo26"])
def test_a_network_of_ultralytics_too(one: dict[str, Any], two: dict[str, Any], network: str) -> None:
    """One head and two heads; their batch norms are frozen, so that no image depends on another."""
    rows = [{k: v for k, v in row.items() if not k.startswith("signal/")} for row in two[network]["rows"]]
    reference = [{k: v for k, v in row.items() if k in rows[0]} for row in one[network]["rows"]]
    assert_same_run(one[network] | {"rows": reference}, two[network] | {"rows": rows}, rel=1e-5)


def test_batch_norms_see_all_images(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert_same_run(one["batch norm"], two["batch norm"], rel=1e-4)
    assert_close(two["batch norm"]["statistics"], one["batch norm"]["statistics"], 1e-5)


def test_one_synchronized_norm_is_torch_s(one: dict[str, Any], two: dict[str, Any]) -> None:
    for part in ("outputs", "grads", "state"):
        assert_close(two["norm"][part], one["norm"][part], 1e-5 if part == "outputs" else 1e-6)
    assert torch.equal(two["norm"]["state"][4], torch.tensor(2))  # batches seen
    assert_close([two["norm"]["eval"]], [one["norm"]["eval"]], 1e-6)


def test_norms_left_alone_end_with_the_same_statistics(one: dict[str, Any], two: dict[str, Any]) -> None:
    first, second = two["own statistics"]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    (alone,) = one["own statistics"]
    assert not all(torch.allclose(a, b) for a, b in zip(first, alone, strict=True))


def test_the_ledger_is_the_joined_batch_s(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert [name for name, _ in two["ledger"]] == [name for name, _ in one["ledger"]]
    factors = [[factor for _, factor in found["ledger"]] for found in (one, two)]
    assert factors[0] == pytest.approx(factors[1], rel=1e-5)


def test_evaluation_is_gathered_whole_and_in_order(one: dict[str, Any], two: dict[str, Any]) -> None:
    metrics, predictions = two["evaluation"]
    expected, alone = one["evaluation"]
    assert metrics == pytest.approx(expected, rel=1e-6)
    assert len(predictions) == 5
    for ours, theirs in zip(predictions, alone, strict=True):
        for part, reference in zip(ours, theirs, strict=True):
            assert torch.allclose(part, reference, rtol=1e-5, atol=1e-5)


def test_an_error_of_one_is_raised_on_all_at_the_same_step(two: dict[str, Any]) -> None:
    said = "1: ['image 3 cannot be read', 'rank 1 differs from rank 0 in data: cd, not ab']"
    assert two["error"] == [said, said]


def test_a_signal_to_one_stops_all_at_the_same_step(two: dict[str, Any]) -> None:
    assert two["stop"] == [(("stopped", None, 1), 143)] * 2


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_broken_step_is_left_out_by_all_and_named_where_it_began(
    one: dict[str, Any], two: dict[str, Any], direction: str
) -> None:
    """In the second micro-batch, of two images; what broke it began on the last process alone."""
    ours, theirs = two[f"broken {direction}"], one[f"broken {direction}"]
    end = ("finished", 3, 1, [None, 1, None])
    origin = (f"{direction} backbone.p4_0.conv1.act (Breaking)", 1, ((0, 1, 2), (0, 1)))
    assert theirs["everyone"] == [(end, origin)]
    assert ours["everyone"] == [(end, origin)] * 2
    assert all(torch.isfinite(value).all() for value in (*ours["weights"], *ours["statistics"]))
    assert_close(ours["weights"], theirs["weights"], 1e-4)
    assert_close(ours["statistics"], theirs["statistics"], 1e-4)


def test_a_sum_over_the_processes_may_be_what_overflows(two: dict[str, Any]) -> None:
    said = "backward model (Linear), in AccumulateGrad: finite gradients of several shards add up to"
    assert [text.startswith(said) for text in two["overflow"]] == [True, True]


class Fake(SingleProcess):
    def __init__(self, rank: int, world_size: int) -> None:
        self.rank = self.local_rank = rank
        self.world_size = self.local_world_size = world_size


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 64])
def test_shards_cover_everything_once(world_size: int, count: int) -> None:
    shards = [range(count)[part_of(count, Fake(rank, world_size).shard)] for rank in range(world_size)]
    assert [index for shard in shards for index in shard] == list(range(count))
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert sizes[0] == max(sizes)  # the first process, which is watched, has something to show


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [Fake(rank, 2).device_name("auto") for rank in range(2)] == ["cuda:0", "cuda:1"]
    assert Fake(1, 2).device_name("cuda") == "cuda:1"
    assert Fake(1, 2).device_name("cpu") == "cpu"
    assert SingleProcess().device_name("cuda:1") == "cuda:1"
    with pytest.raises(UserError, match="cannot share a GPU"):
        Fake(0, 2).device_name("cuda:1")
    with pytest.raises(UserError, match="--nproc-per-node 2"):
        Fake(0, 3).device_name("auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Fake(1, 2).device_name("auto") == "auto"


def test_a_process_started_by_hand_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "3")  # left over from something else
    launch = Launch.from_environment()
    assert launch == Launch()
    assert launch.lookup("end") is None
    assert os.environ["RANK"] == "3"
