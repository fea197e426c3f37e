"""Every reader of a stranger's bytes, with bytes that nobody would write: it returns, or says what is wrong.

The long form, more than 10,000 cases: pytest tests/hostile/test_fuzz.py --hypothesis-profile=long
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from detector.config import safe_yaml
from detector.config.loading import load_config
from detector.config.messages import KEYS
from detector.config.schema import Config, ModelConfig
from detector.data.data_yaml import read_data_yaml
from detector.data.images import MAX_PIXELS, BadImage, decode
from detector.data.labels import read_labels
from detector.data.listing import list_split
from detector.data.problems import Problem
from detector.errors import UserError, has_control
from detector.gradients.entries import Entry, read_ledger
from detector.models.build import read_trained
from detector.models.detector import build_detector
from detector.rundir import RunDir
from detector.runtime.checkpoint_file import read
from detector.runtime.image_header import Header, read_header
from detector.tools.compare.runs import LeftOut, Run, load_runs
from detector.training.checkpoints import load_state, state_dict
from tests.hostile.strange import (
    changed,
    documents,
    fewer,
    places,
    printable,
    replaced,
    scalars,
    spoilt,
    values,
)
from tests.training.harness import create_state

EMPTY = Path(__file__).parents[2] / "configs" / "coco8.yaml"
NAMES = ("cat", "dog")
TINY = ModelConfig(depths=(1, 1, 1, 1), widths=(4,) * 5, neck_width=4, reg_max=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the cases of a module share: each overwrites what the last one wrote."""
    return tmp_path_factory.mktemp("fuzz")


@given(documents)
def test_yaml(text: str) -> None:
    try:
        safe_yaml.parse(text, "x.yaml").plain()
    except UserError as error:
        printable(error)


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.sampled_from([*KEYS, "x", "train", ""]), st.one_of(documents, scalars.map(str))),
        max_size=4,
    )
)
def test_overrides(overrides: list[tuple[str, str]]) -> None:
    try:
        config = load_config(EMPTY, [f"{key}={value}" for key, value in overrides]).config
    except UserError as error:
        printable(error)
    else:
        assert Config.model_validate_json(config.model_dump_json()) == config


@given(documents | st.binary(max_size=200))
def test_config_files(folder: Path, text: str | bytes) -> None:
    path = folder / "config.yaml"
    path.write_bytes(text.encode(errors="surrogatepass") if isinstance(text, str) else text)
    try:
        load_config(path)
    except UserError as error:
        printable(error)


@pytest.mark.slow
@given(
    st.dictionaries(
        st.sampled_from(["train", "val", "valid", "test", "names", "nc", "path", "source", "kpt_shape"]),
        values,
    ),
    st.sampled_from([{}, {"train": "images", "val": "images", "names": ["a"]}]),
    st.booleans(),
)
def test_data_yamls(folder: Path, keys: dict[str, Any], good: dict[str, Any], repair: bool) -> None:
    path = folder / "data.yaml"
    path.write_text(json.dumps(good | keys))
    problems: list[Problem] = []
    try:
        data = read_data_yaml(path, repair=repair)
        for split in data.splits:
            if not any(entry in ("/", "..") for entry in data.splits[split]):
                list(list_split(data, split, problems))
    except UserError as error:
        printable(error)


list_lines = st.lists(
    st.sampled_from(["images/a.jpg", "/", "..", "/etc/passwd", "../../x.jpg", "./", "\0", "~",
                     "C:\\x", "..\\x.jpg",
                     "/a/images/a.jpg", "C:\\..\\images\\a.jpg", "._a.jpg"])
    | st.text(max_size=10), max_size=5,
)  # fmt: skip


@pytest.mark.slow
@given(
    list_lines.map("\n".join).map(lambda text: text.encode(errors="surrogatepass")) | st.binary(max_size=60)
)
def test_list_files(folder: Path, content: bytes) -> None:
    root = folder / "listed"
    root.mkdir(exist_ok=True)
    (root / "list.txt").write_bytes(content)
    (root / "data.yaml").write_text("train: list.txt\nval: list.txt\nnames: [a]\n")
    problems: list[Problem] = []
    try:
        found = list(list_split(read_data_yaml(root / "data.yaml"), "train", problems))
    except UserError as error:
        printable(error)
    else:
        assert all(entry.image.is_relative_to(root) for entry in found)


fields = st.one_of(
    st.sampled_from(["0", "1", "0.5", "nan", "-inf", "1e999", "1_0", "٣", "0x1", "\x1c", "2" * 400]),
    st.floats().map(repr), st.text(max_size=4),
)  # fmt: skip


@pytest.mark.slow
@given(
    st.lists(st.lists(fields, max_size=12).map(" ".join), max_size=6).map("\n".join),
    st.booleans(), st.booleans(), st.sampled_from([0, 4, 6]),
)  # fmt: skip
def test_labels(text: str, repair: bool, ignore_scores: bool, keypoints: int) -> None:
    labels = read_labels(text, len(NAMES), repair=repair, ignore_scores=ignore_scores, keypoints=keypoints)
    assert ((labels.classes >= 0) & (labels.classes < len(NAMES))).all()
    assert np.isfinite(labels.boxes).all() and ((labels.boxes >= 0) & (labels.boxes <= 1)).all()
    assert all(len(mistake.message) < 500 for mistake in (*labels.mistakes, *labels.repairs))
    assert len(labels.classes) == len(labels.lines) == len(labels.outside) == len(labels.corners)
    assert repair or not labels.repairs


def _pictures() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    plain = [
        cv2.imencode(suffix, pixels)[1].tobytes() for suffix in (".jpg", ".png", ".bmp", ".tiff", ".webp")
    ]
    return [*plain, b"BM", b"II*\0", b"MM\0+", b"RIFF\x09\0\0\0WEBPVP8X", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"]


@pytest.mark.slow
@given(spoilt(_pictures()))
def test_pictures(data: bytes) -> None:
    try:
        header = read_header(data)
    except ValueError:
        pass
    else:
        assert isinstance(header, Header) and 1 <= header.orientation <= 8
    try:
        image = decode(data)
    except BadImage as error:
        assert error.kind in ("empty", "truncated", "corrupt", "too-large", "pixels")
    else:
        assert image.dtype == np.uint8 and image.ndim == 3 and image[..., 0].size <= MAX_PIXELS


def _checkpoint() -> dict[str, Any]:
    torch.manual_seed(0)
    state = create_state(
        build_detector(TINY, len(NAMES)), Config().train.model_copy(update={"device": "cpu"})
    )
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    extra = {
        "config": Config(model=TINY).model_dump(mode="json"), "names": list(NAMES),
        "architecture": state.model.architecture(), "data_fingerprint": "0" * 64, "wandb_id": "abc",
    }  # fmt: skip
    return state_dict(state) | {"extra": extra}


STATE = _checkpoint()


def _stored(state: object) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


BYTES = [_stored(STATE)]


def try_checkpoint(path: Path) -> None:
    """Everything that a command does with a checkpoint."""
    try:
        read_trained(path)
    except UserError as error:
        printable(error)
    try:
        state = read(path)
        config = Config().train.model_copy(update={"device": "cpu"})
        load_state(state, create_state(build_detector(TINY, len(NAMES)), config))
    except UserError as error:
        printable(error)


@pytest.mark.slow
@fewer
@given(spoilt(BYTES))
@example(b"")
@example(b"PK\x03\x04")
def test_checkpoint_bytes(folder: Path, data: bytes) -> None:
    (folder / "bytes.pt").write_bytes(data)
    try_checkpoint(folder / "bytes.pt")


tensors = st.sampled_from([torch.zeros(0), torch.zeros(3), torch.zeros(1).expand(10**12),
                           torch.ones(2, 2) * 1j, torch.eye(2).to_sparse(), torch.tensor(True),
                           torch.zeros(2, device="meta")])  # fmt: skip


@pytest.mark.slow
@fewer
@given(st.sampled_from(list(places(STATE))), values | tensors | st.just(...))
def test_checkpoint_values(folder: Path, at: tuple[object, ...], new: object) -> None:
    if at or new is not ...:
        torch.save(replaced(STATE, at, new), folder / "values.pt")
        try_checkpoint(folder / "values.pt")


ROW = {"step": 0, "epoch": 0, "train/loss": 1.5, "activation_grad/00_stem": 0.5,
       "activation_grad/01_p2.0": 1.0, "weight_grad/00_stem": 1.0, "gradient/vanishing_index": 0.1,
       "signal/input_dependence": 0.9}  # fmt: skip
SUMMARY = {"ablation": "a", "seed": 0, "dataset": "d", "status": "finished", "steps": 2, "seconds": 1.0,
           "train/loss": 0.5, "gradient/verdict": "healthy", "gradient/verdict_init": "healthy",
           "data_fingerprint": "f", "commit": "c" * 40, "flops": 1e9, "parameters": 3,
           "network": [[-1, 1, "Conv", [64, 3, 2]]]}  # fmt: skip
LEDGER = [{"step": 0, "block": "00_stem", "operation": "conv", "layer": "x", "factor": 0.5, "log10": -0.3}]


@pytest.mark.slow
@given(st.lists(changed(ROW), max_size=3), changed(SUMMARY), changed(LEDGER))
def test_run_directories(folder: Path, rows: list[bytes], summary: bytes, ledger: bytes) -> None:
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    (run / "config.yaml").write_text("data: {image_size: 32}\ntrain: {seed: 0}\n")
    (run / "history.jsonl").write_bytes(b"".join(row.replace(b"\n", b"") + b"\n" for row in rows))
    (run / "summary.json").write_bytes(summary)
    (run / "ledger.json").write_bytes(ledger)
    try:
        runs, left_out = load_runs([run])
    except UserError as error:
        printable(error)
    else:
        assert all(isinstance(item, Run | LeftOut) for item in (*runs, *left_out))
        assert not any(
            has_control(text) for item in runs for text in (item.name, item.dataset, item.commit or "")
        )
    files = RunDir(run)
    try:
        for row in files.read_history(report=lambda line: None):
            assert all(isinstance(value, int | float) for value in row.values())
            float(sum(row.values()))
    except UserError as error:
        printable(error)
    entries = [entry for step in read_ledger(files).values() for entry in step]
    assert all(isinstance(entry, Entry) and isinstance(entry.decades, float) for entry in entries)
    assert isinstance(files.scan_summary()[0], dict) and isinstance(files.last_row(), dict)
