"""A run's directory: what is written comes back, and what is damaged is named."""

from __future__ import annotations

import ast
import errno
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detector.config.schema import Config, RunConfig
from detector.errors import UserError
from detector.models.build import load_model
from detector.rows import Key, by_layer, layers_in
from detector.rundir import RunDir
from detector.rundir.finding import checkpoint_at, load_run, run_directory, run_name
from tests.support import ROOT


def written(directory: Path, rows: list[dict[str, Any]], **options: Any) -> RunDir:
    run = RunDir(directory)
    history = run.open_history(**options)
    for row in rows:
        history.append(row)
    history.close()
    return run


def test_rows_come_back_bit_for_bit(tmp_path: Path) -> None:
    rng = random.Random(0)
    values = [rng.random() * 10.0 ** rng.randint(-300, 300) for _ in range(200)]
    rows: list[dict[str, Any]] = [{"step": n, "epoch": 0, "value": value} for n, value in enumerate(values)]
    run = written(tmp_path, rows)
    assert run.read_history() == rows


def test_a_row_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    history = run.open_history()
    history.append({"step": 0})
    assert run.read_history() == [{"step": 0}]
    history.close()
    history.close()


def test_step_and_epoch_come_first_and_layers_keep_their_order(tmp_path: Path) -> None:
    run = written(tmp_path, [{"weight_grad/01_b": 1.0, "epoch": 2, "activation_grad/00_a": 2.0, "step": 7}])
    assert (
        run.history_file.read_text()
        == '{"step": 7, "epoch": 2, "weight_grad/01_b": 1.0, "activation_grad/00_a": 2.0}\n'
    )


def test_numbers_that_are_not_finite_are_valid_json(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    run = written(tmp_path, [{"step": 0, "a": math.nan, "b": math.inf, "c": -math.inf}])
    assert json.loads(run.history_file.read_text(), parse_constant=refuse)["a"] == "NaN"
    (row,) = run.read_history()
    assert math.isnan(row["a"])
    assert (row["b"], row["c"]) == (math.inf, -math.inf)


def test_numpy_and_torch_scalars_are_numbers(tmp_path: Path) -> None:
    import torch

    row = {"step": np.int64(3), "a": np.float32(0.5), "b": torch.tensor(0.25), "c": torch.tensor(4)}
    (back,) = written(tmp_path, [row]).read_history()
    assert back == {"step": 3, "a": 0.5, "b": 0.25, "c": 4}


@pytest.mark.parametrize("torn", ['{"step": 2, "train/lo', '{"step": 2}', "garbage\n", "\x00\x00\x00"])
def test_a_torn_last_line_is_left_out_and_reported(tmp_path: Path, torn: str) -> None:
    run = written(tmp_path, [{"step": 0}, {"step": 1}])
    with run.history_file.open("a") as file:
        file.write(torn)
    said: list[str] = []
    assert run.read_history(report=said.append) == [{"step": 0}, {"step": 1}]
    assert len(said) == 1 and "torn" in said[0] and str(run.history_file) in said[0]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.history_file.write_text('{"step": 0}\nnonsense\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"history\.jsonl:2: not a row"):
        run.read_history()


def test_a_missing_history_is_an_error_a_user_understands(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        RunDir(tmp_path).read_history()


def test_an_empty_history_has_no_rows(tmp_path: Path) -> None:
    assert written(tmp_path, []).read_history() == []


def test_another_runs_history_is_not_added_to(tmp_path: Path) -> None:
    run = written(tmp_path, [{"step": 0}])
    with pytest.raises(UserError, match="--resume"):
        RunDir(tmp_path).open_history()
    assert run.read_history() == [{"step": 0}]


@pytest.mark.parametrize("torn", ["", '{"step": 40, "tra'])
def test_resuming_doubles_nothing(tmp_path: Path, torn: str) -> None:
    rows: list[dict[str, Any]] = [{"step": step, "value": step / 3} for step in range(0, 50, 5)]
    whole = written(tmp_path / "whole", rows).history_file.read_bytes()
    run = written(tmp_path / "cut", rows[:8])
    with run.history_file.open("a") as file:
        file.write(torn)
    written(tmp_path / "cut", rows[5:], keep_before_step=25)
    assert run.history_file.read_bytes() == whole
    assert [child.name for child in (tmp_path / "cut").iterdir()] == ["history.jsonl"]


def test_what_is_no_row_is_dropped_only_with_a_copy_beside(tmp_path: Path) -> None:
    run = written(tmp_path, [{"step": 0}])
    with run.history_file.open("a") as file:
        file.write('{"step": 1, "mine/note": "hi"}\n{"step": 2}\n')
    before, said = run.history_file.read_bytes(), list[str]()
    run.open_history(keep_before_step=2, report=said.append).close()
    assert [row["step"] for row in run.read_history()] == [0]
    (copy,) = (tmp_path / "superseded").iterdir()
    assert copy.read_bytes() == before
    assert len(said) == 1 and "history.jsonl:2" in said[0] and str(copy) in said[0]


def test_a_directory_that_is_not_there_is_what_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nope: there is no such directory$"):
        RunDir(tmp_path / "nope").read_config()
    with pytest.raises(UserError, match=r"nope: there is no such file or directory$"):
        load_model(tmp_path / "nope")


def test_resuming_at_the_first_step_starts_over(tmp_path: Path) -> None:
    written(tmp_path, [{"step": 0}, {"step": 5}])
    assert written(tmp_path, [{"step": 0}], keep_before_step=0).read_history() == [{"step": 0}]


def test_resuming_without_a_history_is_a_fresh_one(tmp_path: Path) -> None:
    assert written(tmp_path, [{"step": 9}], keep_before_step=9).read_history() == [{"step": 9}]


def test_a_truncation_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = written(tmp_path, [{"step": 0}, {"step": 5}])
    before = run.history_file.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        run.open_history(keep_before_step=5)
    assert run.history_file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [run.history_file]


def test_a_disk_that_fills_up_leaves_whole_rows(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    import signal

    run = RunDir(tmp_path)
    history = run.open_history()
    row = {"step": 0, **{f"activation_grad/{n:02d}_x": 1 / 3 for n in range(30)}}
    history.append(row)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:  # the next row fits by half
        resource.setrlimit(resource.RLIMIT_FSIZE, (run.history_file.stat().st_size + 100, hard))
        with pytest.raises(OSError, match="File too large"):
            history.append(row)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    history.append(row)
    history.close()
    assert run.read_history(report=pytest.fail) == [row, row]


def test_a_row_is_on_the_disk_only_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    history = RunDir(tmp_path).open_history()
    monkeypatch.setattr("os.fsync", synced.append)
    history.append({"step": 0})
    assert synced == []
    history.append({"step": 1}, sync=True)
    assert len(synced) == 1
    history.close()


@pytest.mark.parametrize(
    "line", ['{"step": "x"}', '{"step": -1}', '{"step": true}', "[1]", '{"a": 1}', "{" * 9999]
)
def test_both_readers_take_the_same_lines_for_rows(tmp_path: Path, line: str) -> None:
    """A history without steps is one to the strict reader only, which leaves the judgement to its caller."""
    run = RunDir(tmp_path)
    run.history_file.write_text(f'{line}\n{{"step": 3, "a": "NaN"}}\n')
    (row,), notes = run.scan_history()
    assert row["step"] == 3 and math.isnan(row["a"])
    assert notes == ["1 line(s) of its history are not rows in order, and left out: 1"]
    if line == '{"a": 1}':
        assert len(run.read_history()) == 2
    else:
        with pytest.raises(UserError, match=r"history\.jsonl:1"):
            run.read_history()


def test_text_for_a_number_is_no_row_to_the_strict_reader_and_nan_to_the_lenient_one(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.history_file.write_text('{"step": 0, "a": "x", "b": 1' + "0" * 400 + '}\n{"step": 1}\n')
    with pytest.raises(UserError, match="not a row"):
        run.read_history()
    first = run.scan_history()[0][0]
    assert math.isnan(first["a"]) and first["b"] == math.inf


def test_what_is_torn_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.last_row() == run.read_summary() == {}
    run.history_file.write_text('{"step": 1, "epoch": 0}\n{"step": 2, "ep')
    run.summary_file.write_text('{"status": ')
    assert run.last_row() == {"step": 1, "epoch": 0}
    for layers in (10_000, 100_000):  # 0.2 and 2 MB: a row is longer than what is looked at first
        row = {"step": 2, "epoch": 0} | {f"gradient/{number:06d}": 0.5 for number in range(layers)}
        run.history_file.write_text(f"{json.dumps(row)}\n{json.dumps(row | {'step': 3})}\n" + '{"step"')
        assert run.last_row() == row | {"step": 3}
        run.history_file.write_text(json.dumps(row) + "\n")
        assert run.last_row() == row
    assert run.scan_summary() == ({}, "summary.json is not valid JSON")
    with pytest.raises(UserError, match=r"summary\.json is not valid JSON"):
        run.read_summary()


def test_a_summary_comes_back_with_its_nan(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.write_summary({"loss": math.nan, "index": -math.inf, "status": "diverged", "versions": {"a": "NaN"}})
    back = run.read_summary()
    assert math.isnan(back.pop("loss"))
    assert back == {"index": -math.inf, "status": "diverged", "versions": {"a": "NaN"}}


def test_a_new_directory_holds_the_configuration(tmp_path: Path) -> None:
    config = Config(run=RunConfig(name="mine"))
    run = RunDir.create(tmp_path / "a" / "b", config)
    assert run.read_config().config == config
    assert list(run.path.iterdir()) == [run.config_file]


@pytest.mark.parametrize(
    "name", ["config.yaml", "summary.json", "ledger.json", "checkpoints", "plots", "wandb"]
)
def test_nothing_that_is_there_is_written_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(UserError, match=f"already holds {name}"):
        RunDir.create(tmp_path, Config())
    (tmp_path / "history.jsonl").touch()
    with pytest.raises(UserError, match="--resume"):
        RunDir.create(tmp_path, Config())
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        RunDir.create(tmp_path / "file" / "run", Config())


def test_a_run_without_a_checkpoint_says_how_to_start_again(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"last\.pt: no checkpoint found.*--config .*config\.yaml run\.dir="):
        RunDir(tmp_path).read_checkpoint("last")


def test_where_the_last_checkpoint_is_damaged_a_whole_one_is_offered(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.checkpoints.mkdir()
    state: Any = {"format": 2, "step": 7, "model": {"w": torch.arange(99.0)}, "optimizer": {"state": {}}}
    for name in ("last", "best"):
        run.write_checkpoint(name, state)
    data = bytearray(run.last.read_bytes())
    data[data.index(torch.tensor(42.0).numpy().tobytes())] ^= 1
    run.last.write_bytes(data)
    words = r"last\.pt: not a readable checkpoint: its record .* is damaged.*"
    with pytest.raises(UserError, match=words + r"; .*best\.pt is whole: copy it .* from its step 7"):
        run.read_checkpoint("last")
    assert run.read_checkpoint("best")["step"] == 7
    run.write_checkpoint("best", state | {"optimizer": {}})  # what a finished run has left of it
    with pytest.raises(UserError, match=words) as caught:
        run.read_checkpoint("last")
    assert "whole" not in str(caught.value)
    run.best.write_bytes(data)
    for name in ("last", "best"):
        with pytest.raises(UserError, match="is damaged") as caught:
            run.read_checkpoint(name)
        assert "whole" not in str(caught.value)


def test_layers_come_in_the_network_s_order() -> None:
    row = {"step": 3.0, "weight_grad/00_a": 9.0}
    row |= {f"activation_grad/{n}": float(i) for i, n in enumerate(("100_c", "11_b", "mine", "02_a"))}
    assert by_layer(row, Key.ACTIVATION_GRAD) == {"02_a": 3, "11_b": 1, "100_c": 0, "mine": 2}
    assert list(by_layer(row, Key.ACTIVATION_GRAD)) == ["02_a", "11_b", "100_c", "mine"]
    assert layers_in([row, {"activation_grad/07_x": 1.0}], Key.ACTIVATION_GRAD)[1] == "07_x"


def test_a_run_s_directory_stands_for_its_best_checkpoint(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "mine")
    run.checkpoints.mkdir(parents=True)
    assert checkpoint_at(run.path) == run.best
    assert checkpoint_at(run.last) == run.last
    assert checkpoint_at(run.checkpoints) == run.best
    run.config_file.write_text("{}")
    with pytest.raises(UserError, match=f"is a folder of runs; name one of them, such as {run.path}$"):
        checkpoint_at(run.path.parent)
    with pytest.raises(UserError, match=f"is a folder of runs; name one of them, such as {run.path}$"):
        run_directory(run.path.parent)
    with pytest.raises(UserError, match=f"is not a run's directory; name one such as {run.path}$"):
        load_run(run.path.with_name("misspelt"))
    with pytest.raises(UserError, match=f"is not a run's directory; name one such as {run.path}$"):
        load_run(run.path.parent)
    assert run_name(run.last) == "mine"
    assert run_name(tmp_path / "yolo26n.pt") == "yolo26n"


def test_a_run_is_meant_by_any_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "runs/mine"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "checkpoints/last.pt"):
        (run / name).touch()
    for path in (run, run / "config.yaml", run / "checkpoints", run / "checkpoints/last.pt"):
        assert run_directory(path) == run
    monkeypatch.chdir(run / "checkpoints")
    assert run_directory(Path("last.pt")) == run
    assert (
        run_directory(tmp_path / "none") == tmp_path / "none"
    )  # what is not there is named as it was written
    assert run_directory(Path("../../mine")) == Path("../../mine")


def test_a_run_is_meant_by_its_folder_of_checkpoints_from_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "mine" / "checkpoints"
    inside.mkdir(parents=True)
    (inside / "best.pt").touch()
    monkeypatch.chdir(inside)
    for path in (".", "..", "../checkpoints", "best.pt"):
        assert run_directory(Path(path)).resolve() == tmp_path / "mine", path
    monkeypatch.chdir(inside.parent)
    for path in (".", "checkpoints"):
        assert run_directory(Path(path)).resolve() == tmp_path / "mine", path


@pytest.mark.slow
def test_no_key_is_spelt_a_second_time() -> None:
    """Whoever reads or writes a row takes its keys from here; a docstring or a label may still name one."""
    keys = {value for name, value in vars(Key).items() if name.isupper() and isinstance(value, str)}
    plain = {Key.STEP, Key.EPOCH, Key.INIT, Key.MAP, Key.MAP50, Key.PARAMETERS, Key.MODEL, Key.NETWORK}
    keys -= plain  # words of everyday, too
    found = []
    for path in sorted((ROOT / "detector").rglob("*.py")):
        if path.name != "rows.py":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and node.value in keys:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}")
    assert not found, "\n".join(found)


def test_rows_are_the_history_in_little_memory(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"step": n, "epoch": 0, "a": n / 3, "b": math.inf} for n in range(5)]
    rows[2] |= {"val/mAP50-95": 0.5}
    run = written(tmp_path, rows)
    assert run.rows() == run.read_history() == rows
    with run.history_file.open("a") as file:
        file.write('{"step"')
    said: list[str] = []
    assert run.rows(report=said.append) == rows
    assert len(said) == 1 and "torn" in said[0]
