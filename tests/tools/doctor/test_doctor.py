"""`detector doctor` on runs that were really trained, each broken in one way, and on one that was not."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detector.analysis.next_steps import HARDLY_FELL, LEARNT, loss_course
from detector.cli import main
from detector.config.loading import load_config
from detector.data.dataset import Dataset
from detector.data.problems import Note
from detector.rows import Key
from detector.rundir import RunDir
from detector.tools.doctor.case import Assigned, Case, of_data
from detector.tools.doctor.checks import NAMES, Check, share_of
from detector.tools.doctor.command import doctor
from detector.tools.doctor.history import check_learning_rate, check_loss
from detector.tools.doctor.labels import check_labels
from detector.tools.doctor.memorise import STEPS, Trial, check_memorising
from detector.tools.doctor.passes import check_targets
from tests.support import ROOT, TINY
from tests.tools.doctor.drawn import BROKEN, draw, newcomer, train

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


@pytest.mark.slow
def test_a_run_that_learnt_from_uneven_batches_is_not_failed_by_its_loss(tmp_path: Path) -> None:
    run = newcomer(tmp_path)
    directory = RunDir(run)
    summary = directory.read_summary()
    course = loss_course(directory.rows(), summary, directory.read_config().config)
    assert course is not None and course.end > HARDLY_FELL * course.start, "else there is nothing to exempt"
    assert summary[Key.TRAIN_MAP] >= LEARNT
    found = doctor(run, seconds=PATIENT, all=True)
    verdicts = {check.name: check.verdict for check in found.checks}
    exempt = "memorising", "loss", "learning rate", "targets", "signal", "gradient", "steps"
    assert {verdicts[name] for name in exempt} == {"ok"}
    loss = next(check for check in found.checks if check.name == "loss")
    assert loss.evidence.endswith(f"; yet the training images are learnt, mAP {summary[Key.TRAIN_MAP]:.2f}")
    assert found.answer is None or "train.lr" not in found.answer.change


# A newcomer's nine images in batches of 4, 4 and 1: the history's steps and losses.
UNEVEN = {0: 4.27, 5: 9.05, 10: 6.1, 15: 5.2, 19: 5.9, 20: 4.4, 25: 5.0, 30: 4.6, 35: 1.1, 40: 3.9, 45: 3.3,
          50: 0.9, 55: 3.2, 59: 3.22}  # fmt: skip
ROSE = {0: 4.0, 59: 4.6}


def loss_of(losses: dict[int, float], learnt: float, *overrides: str) -> Check:
    """What is said of a history of 60 steps, three an epoch."""
    config = load_config("coco8", ["train.steps=60", *overrides]).config
    rows = [{Key.STEP: step, Key.LOSS: loss} for step, loss in losses.items()]
    summary = {"status": "finished", "steps": 60, "epochs": 20.0, Key.TRAIN_MAP: learnt}
    return check_loss(Case("run", config, Dataset("mine", (), {}, (), ""), rows, summary))


@pytest.mark.parametrize(
    ("losses", "learnt", "evidence", "says", "change"),
    [
        # Steps 5, 20, 35, 50 and 59 had the last batch, of one image.
        (UNEVEN, 0.56, "5.2 at first (median of 3 rows), 3.3 at the end; yet the training", "", ""),
        (UNEVEN, 0.2, "5.2 at first", "the loss hardly fell", "train.steps=240"),
        (UNEVEN, 0.0, "5.2 at first", "the loss hardly fell", "train.steps=240"),
        # It rose: that it is said to have, whatever the advice.
        (ROSE, 0.0, "4 before the first step, 4.6 at the end", "the loss rose", "train.steps=240"),
        (ROSE, 0.2, "4 before the first step, 4.6 at the end", "the loss rose", "train.steps=240"),
        (ROSE, 0.5, "4 before the first step, 4.6 at the end; yet the training", "", ""),
        ({0: 4.0, 59: 2.0}, 0.0, "4 before the first step, 2 at the end", "", ""),
    ],
)  # fmt: skip
def test_a_loss_that_hardly_fell_is_no_reason_to_learn_less(
    losses: dict[int, float], learnt: float, evidence: str, says: str, change: str
) -> None:
    check = loss_of(losses, learnt)
    assert check.verdict == ("fails" if says else "ok")
    assert check.evidence.startswith(evidence)
    assert check.says.startswith(says) and check.change == change
    assert ("were being learnt, mAP 0.20" in check.says) == (learnt == 0.2)


def test_a_lower_rate_is_advised_where_pretrained_weights_forgot_and_learnt_nothing() -> None:
    pretrained = "model.pretrained=yolov8n.pt"
    assert loss_of(ROSE, 0.0, pretrained, "train.lr=0.02").change == "train.lr=0.002"
    assert loss_of(ROSE, 0.2, pretrained).change == "train.steps=240"
    assert loss_of({0: 4.0, 59: 3.9}, 0.0, pretrained).verdict == "ok", "they begin with a loss that is low"
    assert loss_of(ROSE, 0.2, "train.epochs=20", "train.steps=null").change == "train.epochs=80"


@pytest.mark.parametrize(
    ("lr", "typical", "longest", "steps", "cause", "change"),
    [
        # 60 steps of SGD on nine pictures; at 0.02 a typical step is 0.003 and they are being learnt.
        (1e-6, 2.7e-7, 2e-7, 60, "learning rate too low", "train.lr=0.02"),
        (0.002, 0.0004, 0.0004, 60, "learning rate too low", "train.lr=0.03"),
        (0.02, 0.005, 0.005, 5, "learning rate too low", "train.lr=0.08"),  # not a lower one
        (0.02, 0.003, 0.004, 60, "", ""),
        (0.8, 0.05, 0.04, 60, "learning rate too high", "train.lr=0.3"),
    ],
)
def test_the_learning_rate_that_is_advised_is_one_that_learns(
    lr: float, typical: float, longest: float, steps: int, cause: str, change: str
) -> None:
    config = load_config("coco8", ["train.steps=60", f"train.lr={lr}", "train.warmup_steps=1"]).config
    keys = [Key.UPDATE_RATIO + layer for layer in ("00_stem", "01_p2", "02_p3")]
    longer, usual = (typical, longest, longest), (typical, 0.0, 0.0)
    rows = [dict(zip(keys, ratios, strict=True)) for ratios in (longer, usual, usual)]
    case = Case("run", config, Dataset("mine", (), {}, (), ""), rows, {"steps": steps, Key.TRAIN_MAP: 0.05})
    check = check_learning_rate(case)
    assert (check.cause, check.change) == (cause, change)


def test_a_network_that_learnt_its_images_can_memorise() -> None:
    """A batch with an easy first loss: it does not fall to 0.4 of that in a trial of 60 steps."""
    trial = Trial([3.6, *[1.9] * (STEPS - 1)], 7.0, None, torch.nn.Identity())  # type: ignore[arg-type]
    assert check_memorising(trial, PATIENT).cause == "network"
    assert check_memorising(trial, PATIENT, learnt=0.49).cause == "network"
    check = check_memorising(trial, PATIENT, learnt=0.56)
    assert check.verdict == "ok" and check.evidence.endswith("yet the training images are learnt, mAP 0.56")


def test_what_there_is_none_of_is_not_said_to_be_some_percent() -> None:
    assert [share_of(share) for share in (0.0, 0.004, 0.01, 0.256, 1.0)] == [
        "none", "under 1%", "1%", "26%", "100%",
    ]  # fmt: skip
    sides = torch.tensor([20.0, 20.0, 20.0, 10.0])
    found = Assigned(sides, torch.ones(4, 3), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    check = check_targets(found, (8, 16, 32), load_config("coco8").config)
    assert "25% of them are small with next to no weight" in check.evidence
    assert "0%" not in check.says and "below 8 px" not in check.says, "none has"
    taught = found._replace(weight=torch.ones(4))
    check = check_targets(taught, (8, 16, 32), load_config("coco8").config)
    assert check.evidence.endswith("none of them is small with next to no weight")


def test_problems_that_are_too_few_are_named_and_said_to_be(tmp_path: Path) -> None:
    config = load_config("coco8", ["data.image_size=64"]).config
    case = of_data(str(draw(tmp_path / "d", train=4)), config)
    assert re.fullmatch(
        r"4 training images, \d+ boxes in all splits, no problems; \d+ boxes in the first training batches, "
        r"none of them less than 2 px wide or high",
        check_labels(case).evidence,
    )
    notes = (Note("repair", "polygon", 2, "a"), Note("warning", "tiny", 1, "b"), Note("note", "exif", 5, "c"))
    case.dataset = replace(case.dataset, notes=notes)
    check = check_labels(case)
    assert check.verdict == "ok"
    assert "3 problems (polygon 2, tiny 1), too few of a kind to explain a low mAP; " in check.evidence


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
