"""`torchrun … train.py` from end to end, as a user runs it: two processes on the CPU."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from detector.cli import main
from tests.runs.test_train import without_times
from tests.starter import Started, Starter
from tests.support import ROOT, Run, environment, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]  # each starts many processes: a busy machine needs long
TORCHRUN = sys.executable, "-m", "torch.distributed.run"
# Without batch norm, so that the two runs that are compared differ by rounding alone.
QUICK = (
    "data.image_size=64", "data.fliplr=0.5", "model.norm=none", "model.depths=[1,1,1,1]", "train.batch=3",
    "train.steps=12", "train.eval_every=4", "gradients.every=2", "tracking.plots=false",
    "tracking.wandb=disabled", "train.threads=1", "train.timeout=60",
    "gradients.probe=false",  # one process does it alone
)  # fmt: skip


def start(starter: Starter, cwd: Path, *arguments: str, restarts: int = 0) -> Started:
    torchrun = ("--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}", str(ROOT / "train.py"))
    return starter.start(
        (*torchrun, *arguments), [("fork_ranks",)], "tests.forked_ranks",
        cwd=cwd, program="torch.distributed.run",
    )  # fmt: skip


def end(process: subprocess.Popen[str] | Started, directory: Path) -> Run:
    out, err = process.communicate(timeout=900)
    assert process.returncode is not None
    return Run(directory, process.returncode, out, err)


def state_of(run: Run) -> dict[str, torch.Tensor]:
    return dict(torch.load(run.directory / "checkpoints/last.pt", weights_only=True)["model"])


def processes_of(agent: Started) -> list[psutil.Process]:
    """The training processes, in the order of their ranks, in which they are forked."""
    return sorted(psutil.Process(agent.pid).children(), key=lambda process: process.pid)


def rows(directory: Path) -> int:
    history = directory / "history.jsonl"
    return history.read_bytes().count(b"\n") if history.exists() else 0


LONGER = (*QUICK, "train.steps=30", "train.ema=0.9")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, warm_start: Starter) -> Run:
    """A run of two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    run = end(start(warm_start, folder, *LONGER, "run.dir=run"), folder / "run")
    assert run.code == 0, run.err
    return run


Machine = tuple[str, ...]  # the beginning of a command line


@pytest.fixture
def machines() -> Iterator[list[Machine]]:
    """Two hosts, 10.77.0.1 and 10.77.0.2, that only share a cable between their `cable`.

    Neither can look up the other's name, or its own address: the hardest case of docs/distributed.md. Where
    no such hosts can be made, it is this one twice.
    """
    names = f"detector-{os.getpid()}-a", f"detector-{os.getpid()}-b"
    commands = [f"netns add {name}" for name in names]
    commands.append(f"link add cable netns {names[0]} type veth peer name cable netns {names[1]}")
    for number, name in enumerate(names, start=1):
        commands.append(f"-n {name} addr add 10.77.0.{number}/24 dev cable")
        commands += [f"-n {name} link set {link} up" for link in ("lo", "cable")]
    common = ("--nproc-per-node=1", "--nnodes=2", "--rdzv-backend=c10d", "--rdzv-id=test")
    try:
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True, capture_output=True, timeout=30)
        yield [
            ("ip", "netns", "exec", name, "env", "GLOO_SOCKET_IFNAME=cable", *TORCHRUN, *common,
             "--rdzv-endpoint=10.77.0.1:29500", f"--local-addr=10.77.0.{number}",
             f"--rdzv-conf=is_host={2 - number}")
            for number, name in enumerate(names, start=1)
        ]  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        yield [(*TORCHRUN, *common, f"--rdzv-endpoint=localhost:{port}")] * 2
    finally:
        for name in names if shutil.which("ip") else ():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=30)


def test_two_processes_two_machines_and_one_give_the_same_run(
    tmp_path: Path, coco8: Path, whole: Run, machines: list[Machine], train_py: Callable[..., Run]
) -> None:
    program = (str(ROOT / "train.py"), *LONGER, "run.dir=machines")
    both = [
        subprocess.Popen(
            [*machine, *program], cwd=tmp_path, env=environment(coco8), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) for machine in machines
    ]  # fmt: skip
    ends = [end(process, tmp_path / "machines") for process in both]
    assert [run.code for run in ends] == [0, 0], ends[0].err + ends[1].err
    assert sum("final loss" in run.out for run in ends) == 1  # only one of the processes speaks
    assert whole.out.count("final loss") == 1
    assert "2 processes" in whole.err
    assert whole.summary["processes"] == ends[0].summary["processes"] == 2
    one = train_py(*LONGER, name="one")
    for run in (whole, ends[0]):
        assert [row["step"] for row in run.history] == [row["step"] for row in one.history]
        for ours, theirs in zip(without_times(run.history), without_times(one.history), strict=True):
            if ours["step"] < 12:  # rounding differs, and that grows
                assert ours == pytest.approx(theirs, rel=1e-3, nan_ok=True)
    assert without_times(ends[0].history) == without_times(whole.history)
    files = [sorted(p.name for p in run.directory.rglob("*")) for run in (one, whole)]
    assert files[0] == files[1]


def test_a_broken_run_of_two_processes_is_replayed_by_one(
    tmp_path: Path,
    coco8: Path,
    warm_start: Starter,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    breaks = ("train.lr=1e30", "train.clip=null", "train.warmup_steps=0", "train.on_nonfinite=skip")
    run = end(
        start(warm_start, tmp_path, *QUICK, *breaks, "train.max_skipped=2", "run.dir=run"), tmp_path / "run"
    )
    assert "exitcode  : 3" in run.err
    assert run.summary["status"] == "diverged"
    assert run.summary["steps_skipped"] == 2
    assert run.err.count("not finite at step") == 3  # once each, of two processes
    failure = json.loads((run.directory / "failure/failure.json").read_text())
    assert len(failure["images"][0]) == len(set(failure["images"][0])) > 0
    assert failure["where"] == "cpu in fp32, 2 processes"
    monkeypatch.setenv("DETECTOR_DATASETS", str(coco8))
    assert main(["replay", str(run.directory)]) == 3
    out = capsys.readouterr().out
    assert f"then       {run.summary['gradient/first_bad_layer']}" in out
    assert "now        the same" in out


def test_killed_processes_come_back_from_the_last_checkpoint(
    tmp_path: Path, warm_start: Starter, whole: Run
) -> None:
    """First one, later the other. The run's directory has no name of its own: new ones must find it."""
    agent = start(warm_start, tmp_path, *LONGER, restarts=2)
    gone: list[psutil.Process] = []

    def new() -> bool:
        now = processes_of(agent)
        return len(now) == 2 and not set(now) & set(gone)

    for victim in (0, 1):
        wait_for(new, agent)
        wait_for(lambda: any(rows(directory) > 5 for directory in (tmp_path / "runs").glob("*")), agent)
        gone = processes_of(agent)
        gone[victim].kill()
    (directory,) = (tmp_path / "runs").iterdir()
    run = end(agent, directory)
    assert run.code == 0, run.err
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert "Traceback" not in run.err
    assert without_times(run.history) == without_times(whole.history)
    assert all(torch.equal(value, state_of(whole)[key]) for key, value in state_of(run).items())


def test_a_stop_is_clean_and_the_run_can_go_on(tmp_path: Path, warm_start: Starter) -> None:
    settings = (*QUICK, "train.steps=5000", "train.eval_every=null", "data.workers=1", "run.dir=run")
    agent = start(warm_start, tmp_path, *settings, restarts=2)
    wait_for(lambda: rows(tmp_path / "run") > 2, agent)
    agent.send_signal(signal.SIGTERM)
    run = end(agent, tmp_path / "run")
    assert run.summary["status"] == "stopped"
    assert "resume with: torchrun … train.py --resume" in run.out + run.err
    assert "DataLoader worker" not in run.err
    saved = torch.load(run.directory / "checkpoints/last.pt", weights_only=True)
    assert 0 < run.summary["steps"] == saved["step"] < 5000


def test_a_mistake_is_said_once_and_ends_all(tmp_path: Path, coco8: Path, warm_start: Starter) -> None:
    """An image that only one process reads; torchrun would try again, but it would be of no use."""
    mine = tmp_path / "mine"
    shutil.copytree(coco8 / "coco8", mine)
    (mine / "data.yaml").write_text(json.dumps(
        {"train": "images/train", "val": "images/val", "names": [str(i) for i in range(80)]}
    ))  # fmt: skip
    settings = (*QUICK, "train.steps=5000", "train.eval_every=null", "data.cache=false",
                f"data.path={mine / 'data.yaml'}", "run.dir=run")  # fmt: skip
    agent = start(warm_start, tmp_path, *settings, restarts=2)
    wait_for(lambda: rows(tmp_path / "run") > 1, agent)
    image = next((mine / "images/train").iterdir())
    os.truncate(image, 100)
    run = end(agent, tmp_path / "run")
    assert run.code != 0  # torchrun's own: the processes' is 2
    assert run.err.count("error: ") == 1
    assert image.name in run.err
    assert "Traceback" not in run.err.split("error: ")[0]
    assert "exitcode  : 2" in run.err
