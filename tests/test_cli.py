"""The `detector` command, and how typed functions become command lines."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from detector import __version__
from detector.cli import COMMANDS, main, run
from detector.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def test_info_names_every_trunk_layer_and_the_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--config", str(ROOT / "configs/coco8.yaml")]) == 0
    out = capsys.readouterr().out
    assert "00_stem" in out
    assert "22_p5.1" in out
    assert "1.65 M parameters" in out
    assert "80 classes" in out


def test_flops_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    from torch import nn

    from detector.models.size import measure

    # 2 · k² · c_in · c_out · positions = 2 · 9 · 3 · 8 · 16 · 16
    assert measure(nn.Conv2d(3, 8, 3, padding=1), 16).flops == 2 * 9 * 3 * 8 * 16 * 16


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["info", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["info", "--config", str(ROOT / "configs/coco8.yaml"), "model.dephts=[1,1,1,1]"], "model.depths"),
    ],
)
def test_mistakes_are_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert named in error
    assert len(error.strip().splitlines()) <= 2


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("train", "[OPTIONS] [OVERRIDES...]"),
        ("ablate", "[OPTIONS] SUITE_FILE [OVERRIDES...]"),
        ("compare", "[OPTIONS] [PATHS...]"),
        ("val", "[OPTIONS] CHECKPOINT"),
    ],
)
def test_usage_has_the_arguments_by_the_names_that_help_explains(
    command: str, usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"Usage: detector {command} {usage}"
    for name in re.findall(r"[A-Z_]{3,}", usage.partition("]")[2]):
        assert name in out.partition("Arguments")[2]


HEAVY = {"torch", "ultralytics", "wandb", "cv2", "matplotlib", "numpy"}


@pytest.mark.slow
@pytest.mark.parametrize("command", [["-m", "detector", "--help"], ["train.py", "--help"]])
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout
    for heavy in HEAVY:
        assert f" {heavy}\n" not in done.stderr, heavy


@pytest.mark.slow
def test_no_command_s_help_imports_anything_heavy() -> None:
    commands = [["--version"], *([command, "--help"] for command in COMMANDS)]
    commands.append(["ablate", "ablations/suites/factorial.yaml", "--dry-run"])
    code = (
        "import sys\nfrom detector.cli import main\n"
        f"for command in {commands}:\n"
        "    assert main(command) == 0, command\n"
        f"    assert not {HEAVY} & set(sys.modules), command\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: ") == len(COMMANDS)


def test_settings_may_stand_on_either_side_of_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    suite = str(ROOT / "ablations/suites/factorial.yaml")
    arguments = ["ablate", suite, "train.steps=7", "--seeds", "1", "--dry-run", "train.lr=0.01"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert len(lines) == 8
    assert captured.err == "factorial: 8 runs, 8 cells with 1 seed each\n"
    assert all("train.steps=7" in line and "train.lr=0.01" in line for line in lines)
    assert main(["ablate", suite, "--sedes", "1"]) == 2
    error = capsys.readouterr().err
    assert "--sedes. Did you mean --seeds?" in error
    assert len(error.splitlines()) <= 2


def call(*argv: str) -> Any:
    """What a typed function gets."""
    seen = []

    def command(
        first: Path,
        /,
        *overrides: str,
        image_size: int = 320,
        image_kind: Literal["png", "jpg"] = "png",
        out: Path | None = None,
        dry_run: bool = False,
        plugin: tuple[Path, ...] = (),
        trunk: bool | Literal["shapes", "random"] = False,
    ) -> Unknown:  # noqa: F821  # type: ignore[name-defined]  # as a type that only the type checker imports
        seen.append((str(first), overrides, image_size, image_kind, out, dry_run, plugin, trunk))
        return SimpleNamespace(exit_code=5)

    code = run(command, argv, "try")
    assert code == (5 if seen else 2)
    return seen[0] if seen else None


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("a", {}),
        ("a k.x=1 --out o k.y=2 --image-size=7 k.z=--3", {"overrides": ("k.x=1", "k.y=2", "k.z=--3"),
                                                      "out": Path("o"), "image_size": 7}),
        ("--dry a", {"dry_run": True}),  # an option may be shortened as long as it is clear, as ever
        ("a --image-s 7", {"image_size": 7}),
        ("a --image-size 7 --image-size -8", {"image_size": -8}),  # the last counts
        ("a --out -", {"out": Path("-")}),
        ("a --plugin b.py --plugin c.py", {"plugin": (Path("b.py"), Path("c.py"))}),
        ("a --trunk", {"trunk": True}),
        ("a --trunk shapes x", {"trunk": "shapes", "overrides": ("x",)}),
        ("a --train.lr=0.01 --data.path=b --c.d=e", {"overrides": ("train.lr=0.01", "data.path=b", "c.d=e")}),
        ("a -- --train.lr=1 -b", {"overrides": ("--train.lr=1", "-b")}),
    ],
)  # fmt: skip
def test_a_signature_is_a_command_line(argv: str, expected: dict[str, object]) -> None:
    names = ("first", "overrides", "image_size", "image_kind", "out", "dry_run", "plugin", "trunk")
    plain = dict(zip(names, ("a", (), 320, "png", None, False, (), False), strict=True))
    assert call(*argv.split()) == tuple((plain | expected).values())


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ("", "FIRST"),
        ("a --image 7", "--image"),  # size or kind?
        ("a --image-size x", "--image-size"),
        ("a --image-size", "--image-size"),
        ("a --image-kind gif", '"png", "jpg"'),
        ("a --uot b", "Did you mean --out?"),
        ("a --no-dry-run", "--no-dry-run"),
        ("a -x", "-x"),
        ("a --out --dry-run", "--out"),
        ("a --\x1b[2J", r"--\x1b[2J"),
    ],
)
def test_a_wrong_argument_is_named_in_two_lines(
    argv: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*argv.split()) is None
    out, error = capsys.readouterr()
    assert not out
    assert error.startswith("error: ") and named in error
    assert error.splitlines()[1:] == ["see try --help"]


def test_what_comes_out_of_a_function_is_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def command(*, raises: Literal["user", "ctrl-c", "none"]) -> str:
        errors = {"user": UserError("x\x1b: y"), "ctrl-c": KeyboardInterrupt, "none": None}
        if (error := errors[raises]) is not None:
            raise error
        return "a result"

    assert run(command, ["--raises", "user"]) == 2
    assert run(command, ["--raises", "ctrl-c"]) == 130
    assert capsys.readouterr().err == "error: x\\x1b: y\ninterrupted\n"
    assert run(command, ["--raises", "none"]) == 0
    assert run(lambda: 7, []) == 7
    assert run(command, ["--help"]) == 0


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    code = (
        "from detector.cli import run\ndef f(*, n: int = 9):\n for i in range(99999): print(i)\nexit(run(f))"
    )
    command = f"{sys.executable} -c '{code}' | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 0)


def test_commands_are_named_and_nearest_ones_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["comparr", "x"]) == main(["--jobs"]) == 2
    error = capsys.readouterr().err
    assert 'Did you mean "compare"?' in error
    assert len(error.splitlines()) <= 6
    assert main(["--version"]) == main(["val", "--version"]) == 0
    assert capsys.readouterr().out == f"detector {__version__}\n" * 2
    assert main(["--help"]) == 0
    listed = re.findall(r"^│ (\w+)", capsys.readouterr().out, re.MULTILINE)
    assert listed == list(COMMANDS)


@pytest.mark.slow
def test_train_is_train_py() -> None:
    for program in (["-m", "detector", "train"], ["train.py"]):
        done = subprocess.run([sys.executable, *program, "--train.lr=0", "--config", "shapes"], cwd=ROOT,
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 2
        assert done.stderr == "error: command line: train.lr: must be a number above 0, not 0\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_says_what_each_argument_is(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    described = re.findall(r"^│[ *]+(?:--)?[\w-]+ [ A-Z|.-]*(.*?) *│$", capsys.readouterr().out, re.MULTILINE)
    assert described and all(described)


def test_one_seed_is_not_the_number_of_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    """train.py's --seed says which one; an abbreviation of --seeds would plan so many."""
    assert main(["why", "no_residual", "--seed", "1", "--dry-run"]) == 2
    assert "Unknown option: --seed. Did you mean --seeds?" in capsys.readouterr().err
