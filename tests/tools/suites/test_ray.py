"""Cells on a real Ray cluster of two nodes on this machine, one of which dies."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detector.cli import main
from detector.jobs.runner import Job
from detector.tools.suites import ray_runner
from detector.tools.suites.ray_runner import check_that_one_listens, pack, unpack
from tests.support import ROOT

pytestmark = pytest.mark.slow

SUITE = """
base: {base}
settings:
  data: {{image_size: 32}}
  model: {{depths: [1, 1, 1, 1]}}
  train: {{steps: 3, eval_every: null}}
  tracking: {{wandb: disabled, plots: false}}
cells:
  baseline: {{}}
  no_residual: {{model: {{shortcut: none}}}}
"""


def test_a_directory_survives_the_journey(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "summary.json").write_text("{}")
    (tmp_path / "run" / "checkpoints" / "last.pt").write_bytes(bytes(range(256)) * 1000)
    unpack(pack(tmp_path / "run"), tmp_path / "there")
    for name in ("summary.json", "checkpoints/last.pt"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_an_archive_cannot_write_elsewhere(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("../outside")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(tarfile.TarError):
        unpack(buffer.getvalue(), tmp_path / "there")
    assert not (tmp_path / "outside").exists()


@pytest.fixture
def cluster(coco8: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without CPUs and two nodes with one each, so that each runs one cell at a time."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'gradient-detector[ray]'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("DETECTOR_DATASETS", str(coco8))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    memory = {"object_store_memory": 80_000_000}
    running = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory}
    )
    try:
        yield running, [running.add_node(num_cpus=1, **memory) for _ in range(2)]
    finally:
        import ray

        ray.shutdown()
        running.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_suite_survives_the_death_of_a_node(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running, nodes = cluster
    suite = tmp_path / "tiny.yaml"
    suite.write_text(SUITE.format(base=os.path.relpath(ROOT / "configs/coco8.yaml", tmp_path)))
    sent = threading.Event()
    start = ray_runner.RayCluster.start

    def note(self: ray_runner.RayCluster, job: Job) -> None:
        start(self, job)
        sent.set()

    monkeypatch.setattr(ray_runner.RayCluster, "start", note)
    alive = []

    def kill_a_node() -> None:
        import ray

        deadline = time.monotonic() + 120
        assert sent.wait(120)
        while ray.available_resources().get("CPU", 0) > 0:  # until both nodes are at work
            assert time.monotonic() < deadline
            time.sleep(0.05)
        running.remove_node(nodes[0], allow_graceful=False)
        while (left := sum(node["Alive"] for node in ray.nodes())) == 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        alive.append(left)

    killer = threading.Thread(target=kill_a_node)
    killer.start()
    out = tmp_path / "out"
    code = main(["ablate", str(suite), "--out", str(out), "--ray", running.address])
    killer.join()
    said = capsys.readouterr()
    assert code == 0, said.err
    for name in ("baseline-s0", "no_residual-s0"):
        summary = json.loads((out / name / "summary.json").read_text())
        assert (summary["status"], summary["steps"]) == ("finished", 3)
        assert (out / name / "checkpoints" / "last.pt").exists()
        assert summary["command"].startswith("train.py --config")
    assert alive == [2]  # the head and one node
    assert main(["ablate", str(suite), "--out", str(out)]) == 0  # all there: nothing is run again
    assert "2 of them complete" in capsys.readouterr().err


def test_an_address_where_nothing_listens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], coco8: Path
) -> None:
    """Not `auto`: that finds the cluster that a test beside this one has started."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'gradient-detector[ray]'")
    suite = ROOT / "ablations/suites/factorial.yaml"
    with socket.socket() as bound:  # it belongs to nobody else, and nobody listens
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        assert main(["ablate", str(suite), "--out", str(tmp_path), "--ray", address]) == 2
    said = capsys.readouterr().err
    assert f"--ray {address}: no cluster can be reached" in said
    assert "refused" in said


def test_an_address_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], coco8: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'gradient-detector[ray]'")
    suite = ROOT / "ablations/suites/factorial.yaml"
    assert main(["ablate", str(suite), "--out", str(tmp_path), "--ray", "nowhere"]) == 2
    assert "--ray nowhere: no cluster can be reached: Invalid address" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("127.0.0.1:6379", [("127.0.0.1", 6379)]),
        ("[::1]:6379", [("::1", 6379)]),
        ("ray://[::1]:10001", [("::1", 10001)]),
        ("ray://head.example:10001", [("head.example", 10001)]),
        ("auto", []),  # Ray looks for one
        ("1.2.3.4:99999", []),  # Ray says what is wrong with it
    ],
)
def test_which_address_is_tried_first(
    address: str, asked: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a connection: not every machine has IPv6."""
    tried: list[tuple[str, int]] = []

    def connect(where: tuple[str, int], timeout: float) -> socket.socket:
        tried.append(where)
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connect)
    check_that_one_listens(address)
    assert tried == asked
