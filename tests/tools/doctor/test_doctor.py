"""`detector doctor` on runs that were really trained, each broken in one way, and on one that was not."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detector.cli import main
from detector.config.loading import load_config
from detector.rundir import RunDir
from detector.tools.doctor.case import Assigned
from detector.tools.doctor.checks import NAMES
from detector.tools.doctor.command import doctor
from detector.tools.doctor.passes import check_targets
from tests.support import ROOT, TINY
from tests.tools.doctor.drawn import BROKEN, draw, train

PAGE = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
# The page's table of broken runs: what was broken -> check, cause, change.
TABLE = {
    cells[0]: cells[1:]
    for line in PAGE.partition("## Twelve runs broken on purpose")[2].splitlines()
    if line.startswith("| ") and len(cells := [cell.strip(" `") for cell in line.strip("|").split("|")]) == 4
}
PATIENT = 900.0  # seconds: a busy machine is no finding


def test_the_page_has_every_broken_run_and_every_check() -> None:
    assert BROKEN.keys() <= TABLE.keys()
    assert len({TABLE[name][1] for name in BROKEN}) == len(BROKEN) >= 10, "one cause each"
    described = re.findall(r"^\d+\. \*\*(.+?)\*\*", PAGE, re.MULTILINE)
    assert described == list(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN)
def test_the_cause_of_a_run_broken_on_purpose_is_named(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = doctor(BROKEN[broken](tmp_path), seconds=PATIENT)
    answer = found.answer
    assert answer is not None
    check, cause, change = TABLE[broken]
    assert (answer.name, answer.cause) == (check, cause)
    assert re.fullmatch(re.escape(change).replace("…", ".+"), answer.change)
    assert found.exit_code == 1
    assert [one.name for one in found.checks] == list(NAMES)
    printed = capsys.readouterr()
    shown = printed.out
    for name in NAMES:  # a terminal shows both streams
        assert f"{shown}\n{printed.err}".count(f"\n{name} ") == 1
    assert all(len(line) <= 80 or str(tmp_path) in line for line in shown.splitlines()), "a path is one word"
    assert " ".join(answer.says.split()) in " ".join(shown.split())


@pytest.mark.slow
def test_a_healthy_run_is_cleared_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, draw(tmp_path / "d"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    assert main(["doctor", str(run), "--json", "--seconds", str(PATIENT)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "clear"
    assert document["answer"] is None
    assert {one["verdict"] for one in document["checks"]} == {"ok"}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    (run / "summary.json").unlink()
    assert main(["doctor", str(run)]) == 2
    assert "has not ended" in capsys.readouterr().err


@pytest.fixture
def tiny_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Path]:
    """A run of two steps on four pictures."""

    def make(*overrides: str) -> Path:
        data = draw(tmp_path / "d", train=4)
        run = train(tmp_path, data, *TINY, "data.image_size=64", "train.batch=2", "train.steps=2", *overrides)
        capsys.readouterr()
        return run

    return make


@pytest.mark.slow
def test_a_run_that_diverged_is_said_to_have(
    tiny_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run("train.optimizer=sgd", "train.lr=1e30", "train.clip=null", "train.steps=4")
    assert RunDir(run).read_summary()["status"] == "diverged"
    found = doctor(run, seconds=PATIENT)
    loss = next(check for check in found.checks if check.name == "loss")
    assert (loss.verdict, loss.cause) == ("fails", "diverged")
    assert loss.evidence.startswith("not finite after")
    # A symptom: of what, the updates before it say.
    assert found.answer is not None
    assert found.answer.cause == "learning rate too high"
    assert float(found.answer.change.removeprefix("train.lr=")) < 1
    assert "(and so loss fails)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_data_without_a_run_and_a_time_that_is_too_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = draw(tmp_path / "d", train=4)
    arguments = [*TINY, "data.image_size=64", "--json", "--seconds", "1e-9"]
    assert main(["doctor", str(data), *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.err.index(
        "trains a new network on 4 of the images for at most 1e-09 s"
    ) < printed.err.index("memorising: not known")
    verdicts = {one["name"]: one["verdict"] for one in json.loads(printed.out)["checks"]}
    assert verdicts.pop("labels") == verdicts.pop("targets") == verdicts.pop("signal") == "ok"
    assert set(verdicts.values()) == {"not known"}


def test_small_objects_that_have_been_learnt_are_no_cause() -> None:
    found = Assigned(torch.full((4,), 5.0), torch.ones(4, 3), torch.zeros(4))
    config = load_config("coco8").config
    assert check_targets(found, (8, 16, 32), config, learnt=0.1).cause == "small objects"
    assert check_targets(found, (8, 16, 32), config).cause == "small objects"  # before there is a run
    assert check_targets(found, (8, 16, 32), config, learnt=0.9).verdict == "ok"


def test_what_cannot_be_looked_at_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    data = draw(tmp_path / "d", train=2, labelled=0.0)
    run = RunDir(tmp_path / "begun")
    run.path.mkdir()
    run.config_file.write_text(f"data: {{path: {data}}}\n")
    for arguments, words in (
        ([str(tmp_path / "none")], "is not a run's directory"),
        ([str(tmp_path / "none.yaml")], "there is no such file"),
        ([str(tmp_path / "empty")], "is not a run's directory"),
        ([str(data)], "no object in any training image"),
        ([str(run)], "has not ended: it is still running, or was killed"),
        ([str(run), "train.lr=1"], "a run brings its configuration"),
        ([str(data), "--seconds", "0"], "must be above 0"),
    ):
        assert main(["doctor", *arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert words in error and len(error.splitlines()) == 1, error


COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"^```(?:sh|bash)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


@pytest.mark.slow
def test_every_command_of_the_page_runs(
    tiny_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    run.rename(tmp_path / "runs" / "mine")
    (tmp_path / "my").symlink_to(tmp_path / "d")
    assert len(COMMANDS) >= 3
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        assert program == "detector"
        small = [*TINY, "data.image_size=64"] if "my/data.yaml" in arguments else []
        assert main([*arguments, *small]) in (0, 1), command
