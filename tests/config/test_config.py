"""The configuration: what is accepted, which layer wins, and what each mistake is told."""

from __future__ import annotations

import string
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from detector.config import safe_yaml
from detector.config.loading import load_config, save
from detector.config.messages import KEYS
from detector.config.schema import Config, ModelConfig, TrackingConfig, TrainConfig
from detector.config.ultralytics_names import SAME, SIMILAR
from detector.errors import UserError
from detector.models.build import build_network

ROOT = Path(__file__).parents[2]
BASELINE = ROOT / "configs" / "coco8.yaml"
SHAPES = ROOT / "configs" / "shapes.yaml"
# The files that ship, by name: a user's own may lie beside them.
SHIPPED = (
    "no_residual no_batchnorm sigmoid tanh relu leaky_relu gated naive_init default_init xavier_init no_clip "
    "no_batchnorm_no_clip no_batchnorm_sigmoid no_residual_sigmoid plain_silu plain_relu plain_sigmoid "
    "frozen_backbone narrow_neck deep adamw"
)
ABLATIONS = [ROOT / "ablations" / f"{name}.yaml" for name in SHIPPED.split()]


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def message(path: Path, *overrides: str) -> str:
    """What the user is told: one or two lines, never a traceback."""
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    text = str(caught.value)
    assert 1 <= len(text.splitlines()) <= 2
    return text


# --- the files that ship -------------------------------------------------------------------------


def test_the_baseline_spells_out_every_default() -> None:
    loaded = load_config(BASELINE)
    written = {
        f"{section}.{key}"
        for section, keys in safe_yaml.read(BASELINE, "coco8.yaml").value.items()
        for key in keys.value
    }
    assert written == set(KEYS)
    assert loaded.config.model.scope == "trunk"  # the one default that only the file has
    model = loaded.config.model.model_copy(update={"scope": "all"})
    assert loaded.config.model_copy(update={"model": model, "run": Config().run}) == Config()
    assert (loaded.name, loaded.config.run.name, loaded.difference) == ("baseline", "baseline", [])
    assert loaded.sources == (BASELINE,)


def test_shapes_differs_from_the_baseline_only_in_data_training_and_the_recording_interval() -> None:
    loaded = load_config(SHAPES)
    assert loaded.name == "shapes"
    assert loaded.config.train.steps is None
    assert loaded.config.train.epochs is not None
    assert {line.partition(".")[0] for line in loaded.difference} == {"data", "train", "gradients"}


def test_the_promised_ablations_are_there() -> None:
    assert [path for path in ABLATIONS if not path.is_file()] == []


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_is_a_header_and_at_most_three_lines(path: Path) -> None:
    loaded = load_config(path)
    assert loaded.name == path.stem == loaded.config.run.name
    assert loaded.base == load_config(BASELINE).config
    assert [source.resolve() for source in loaded.sources] == [BASELINE, path]

    document = dict(safe_yaml.read(path, path.name).value)
    assert document.pop("base").value == "../configs/coco8.yaml"
    settings = [value for section in document.values() for value in section.value.values()]
    assert len({setting.where for setting in settings}) <= 3
    assert len(loaded.difference) == len(settings)  # each line changes something

    lines = path.read_text().splitlines()
    assert sum(bool(line.strip()) and not line.startswith("#") for line in lines) <= 4  # with base:
    header = "\n".join(line for line in lines if line.startswith("#"))
    for part in ("# Stripped: ", "# Run time: ", "# Expected: "):
        assert part in header
    assert f"# Command:  python train.py --config ablations/{path.name}" in header


def test_only_where_nothing_bounds_the_numbers_is_their_end_a_result() -> None:
    recording = [p.stem for p in ABLATIONS if load_config(p).config.train.on_nonfinite == "record"]
    assert recording == ["no_batchnorm_no_clip"]


# --- which layer wins ----------------------------------------------------------------------------


def test_the_deeper_file_wins_key_by_key_and_the_command_line_over_all() -> None:
    write("root.yaml", "train: {lr: 0.1, batch: 2, seed: 1}\nmodel: {act: relu}\n")
    write("sub/middle.yaml", "base: ../root.yaml\ntrain: {lr: 0.2, batch: 3}\n")
    leaf = write("leaf.yaml", "base: sub/middle.yaml\ntrain: {lr: 0.3}\n")
    loaded = load_config(leaf, ["train.seed=9", "train.seed=5"])
    train = loaded.config.train
    assert (train.lr, train.batch, train.seed, loaded.config.model.act) == (0.3, 3, 5, "relu")
    assert loaded.base.train.lr == 0.1
    assert loaded.difference == ["train.seed: 1 -> 5", "train.batch: 2 -> 3", "train.lr: 0.1 -> 0.3"]
    assert [source.name for source in loaded.sources] == ["root.yaml", "middle.yaml", "leaf.yaml"]


def test_the_difference_reads_like_yaml() -> None:
    overrides = ["model.shortcut=none", "train.clip=null", "model.depths=[1, 1, 1, 1]", "data.cache=false"]
    assert load_config(BASELINE, [*overrides, "run.dir=out"]).difference == [
        "data.cache: true -> false",
        "model.depths: [2, 10, 4, 2] -> [1, 1, 1, 1]",
        "model.shortcut: residual -> none",
        "train.clip: 10.0 -> null",
    ]


def test_steps_and_epochs_are_one_choice_of_the_deepest_layer() -> None:
    write("steps.yaml", "train: {steps: 10, epochs: null}\n")
    write("epochs.yaml", "base: steps.yaml\ntrain: {epochs: 3}\n")
    again = write("again.yaml", "base: epochs.yaml\ntrain: {steps: 7}\n")

    def length(path: Path, *overrides: str) -> tuple[int | None, int | None]:
        train = load_config(path, overrides).config.train
        return train.steps, train.epochs

    assert length(Path("epochs.yaml")) == (None, 3)
    assert length(again) == (7, None)
    assert length(again, "train.epochs=2") == (None, 2)
    assert length(write("only.yaml", "train: {epochs: 4}\n")) == (None, 4)  # the default gives way too
    assert TrainConfig(epochs=4).steps is None


def test_name_and_directory_are_not_inherited() -> None:
    write("root.yaml", "run: {name: root, dir: out}\n")
    child = load_config(write("child.yaml", "base: root.yaml\n"))
    assert (child.name, child.config.run.dir) == ("child", None)
    assert load_config(Path("child.yaml"), ["run.name=mine"]).name == "mine"
    assert load_config(Path("root.yaml")).config.run.dir == "out"


@pytest.mark.parametrize(
    "text", ["", "# nothing but a comment\n", "model:\ntrain:  # nothing yet\n", "---\n"]
)
def test_an_empty_file_is_all_defaults(text: str) -> None:
    loaded = load_config(write("empty.yaml", text))
    assert loaded.config.model_copy(update={"run": Config().run}) == Config()
    assert loaded.name == "empty"


# --- the fallback for a dataset that cannot be had -----------------------------------------------


def test_the_fallback_replaces_the_roots_values_but_no_delta() -> None:
    shapes = load_config(SHAPES).config
    loaded = load_config(ROOT / "ablations" / "adamw.yaml", ["train.batch=3"], fallback=SHAPES)
    config = loaded.config
    assert config.data == shapes.data
    assert (config.train.steps, config.train.epochs) == (None, shapes.train.epochs)
    assert (config.train.optimizer, config.train.lr, config.train.batch) == ("adamw", 0.002, 3)
    assert loaded.name == "adamw"
    assert "data.path: datasets/coco8.yaml -> datasets/shapes.yaml" in loaded.difference


def test_the_fallback_follows_the_deepest_file_that_chose_the_data() -> None:
    write("stand_in.yaml", "data: {path: b.yaml, image_size: 64}\ntrain: {batch: 8, lr: 0.5}\n")
    write("root.yaml", "train: {batch: 1}\n")
    write("middle.yaml", "base: root.yaml\ndata: {path: a.yaml}\ntrain: {batch: 2, lr: 0.1}\n")
    leaf = write("leaf.yaml", "base: middle.yaml\ntrain: {lr: 0.3}\n")
    config = load_config(leaf, ["data.path=c.yaml"], fallback=Path("stand_in.yaml")).config
    assert (config.data.path, config.data.image_size) == ("b.yaml", 64)
    assert (config.train.batch, config.train.lr) == (8, 0.3)

    # Nobody chose the data: everything written still wins over the fallback.
    config = load_config(Path("root.yaml"), fallback=Path("stand_in.yaml")).config
    assert (config.data.path, config.train.batch, config.train.lr) == ("b.yaml", 1, 0.5)


def test_the_fallback_leaves_the_model_alone_and_must_name_its_dataset() -> None:
    write("stand_in.yaml", "data: {path: b.yaml}\nmodel: {act: relu}\nrun: {name: other}\n")
    loaded = load_config(BASELINE, fallback=Path("stand_in.yaml"))
    assert (loaded.config.model.act, loaded.name) == ("silu", "baseline")
    with pytest.raises(UserError, match=r"nothing\.yaml: data\.path: a fallback must name its dataset"):
        load_config(BASELINE, fallback=write("nothing.yaml", "train: {lr: 1}\n"))


# --- mistakes in a file --------------------------------------------------------------------------

FILE_MISTAKES = {
    "unknown key": ("\nmodel:\n  norms: x", "x.yaml:3: model.norms: unknown key; did you mean model.norm"),
    "key of another section": ("model: {lr: 1}", "x.yaml:1: model.lr: unknown key; did you mean train.lr?"),
    "unlike any key": ("gradients: {q: 1}", "gradients.q: unknown key; the known ones are gradients.every"),
    "unknown section": ("modle: {act: relu}", "x.yaml:1: modle: unknown section; did you mean model?"),
    "key without its section": ("\nact: relu", "x.yaml:2: act: unknown section; did you mean model.act?"),
    "dotted key": ("train.lr: 1", "x.yaml:1: train.lr: in a file, write it as train: {lr: …}"),
    "section is no mapping": ("model: 3", "x.yaml:1: model: must be a mapping such as {key: value}, not 3"),
    "document is a list": ("- 1", "x.yaml:1: must be a mapping of sections (data, model, "),
    "document is a word": ("hello", "x.yaml:1: must be a mapping of sections"),
    "duplicate key": ("train:\n  lr: 1\n  lr: 2\n", "x.yaml:3: lr: given twice; the first is in line 2"),
    "duplicate section": ("train: {}\n\ntrain: {}\n", "x.yaml:3: train: given twice; the first is in line 1"),
    "alias": ("a: &a [x]\nb: *a\n", "x.yaml:2: aliases are not supported; write the value of *a out"),
    "merge key": ("train:\n  <<: {lr: 1}\n", "x.yaml:2: train.<<: unknown key"),
    "complex key": ("? [a]\n: 1", "x.yaml:1: a key must be a single word"),
    "tab": ("train:\n\tlr: 1", "x.yaml:2: found character tab (indent with spaces)"),
    "two documents": ("train: {lr: 1}\n---\n", "x.yaml:2: expected a single document"),
    "bracket left open": ("train: {lr: 1", "x.yaml:1: "),
    "control character": ("train: {}\nrun: \x07", "x.yaml:2: unprintable character U+0007"),
    "deep nesting": ("[" * 5000, "x.yaml: nested too deeply"),
    "python object": ("run: !!python/name:os", "x.yaml:1: tags are not supported; leave !!python/name"),
    "tagged value": ("train: {lr: !!int abc}", "x.yaml:1: tags are not supported; leave !!int out"),
    "terminal codes": ('{"\\e[31m\\n": 1}', r"x.yaml:1: \x1b[31m\n: unknown section; "),
    "endless number": ("train: {batch: " + "9" * 5000 + "}", "x.yaml:1: not a value that can be read"),
    "base is a number": ("base: 3", "x.yaml:1: base: must be the name of a file, not 3"),
    "base is empty": ("base:", "x.yaml:1: base: must be the name of a file, not nothing"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("text", "expected"), FILE_MISTAKES.values(), ids=FILE_MISTAKES)
def test_a_mistake_in_a_file_is_named_with_its_line(text: str, expected: str) -> None:
    assert message(write("x.yaml", text)).startswith(expected) or expected in message(Path("x.yaml"))


VALUE_MISTAKES = {
    "train.lr=-1": "train.lr: must be a number above 0, not -1",
    "train.lr=fast": "train.lr: must be a number above 0, not fast",
    "train.lr=.inf": "train.lr: must be a number above 0, not .inf",
    "train.lr=.nan": "train.lr: must be a number above 0, not .nan",
    "train.lr=true": "train.lr: must be a number above 0, not true",
    "train.lr=no": "train.lr: must be a number above 0, not no, which YAML reads as false",
    "train.lr=null": "train.lr: must be a number above 0, not null",
    "train.clip=none": "train.clip: must be a number above 0, or null, not none",
    "train.momentum=1": "train.momentum: must be a number at least 0 and below 1, not 1",
    "train.final_lr=1.5": "train.final_lr: must be a number at least 0 and at most 1, not 1.5",
    "train.batch=4.0": "train.batch: must be a whole number above 0 and at most 65536, not 4.0",
    "train.batch='4'": "train.batch: must be a whole number above 0 and at most 65536, not '4'",
    "train.batch=010": "train.batch: must be a whole number above 0 and at most 65536, not 010",
    "train.batch=1:30": "train.batch: must be a whole number above 0 and at most 65536, not 1:30",
    "train.batch=true": "train.batch: must be a whole number above 0 and at most 65536, not true",
    "train.seed=4294967296": "train.seed: must be a whole number at least 0 and below 4294967296",
    "train.device=gpu": "train.device: must be auto, cpu, cuda, cuda:N, mps, not gpu",
    "train.channels_last=1": "train.channels_last: must be true or false, not 1",
    "data.image_size=100": "must be a whole number at least 32, at most 16384 and a multiple of 32, not 100",
    "data.path=": "data.path: no value after '='",
    "data.path=''": "data.path: must be one line of text, not ''",
    'data.path="a\\0b"': "data.path: must be one line of text, not 'a\\x00b'",
    'data.path="\\ud800"': "data.path: must be one line of text",
    "data.path=no": "must be one line of text, not no, which YAML reads as false (put quotes around text)",
    "model.act=no": "tailored_tanh, not no, which YAML reads as false (put quotes around text)",
    "model.act=reluu": "not reluu; did you mean relu?",
    "model.norm=off": "not off, which YAML reads as false (put quotes around text); did you mean none?",
    "model.norm=null": "model.norm: must be one of batch, group, none, weight, not null; did you mean none?",
    "model.depths=[1, 2, 3]": "each a whole number above 0 and at most 1000, not [1, 2, 3]",
    "model.depths=[1, 2, 3, 4, 5]": "model.depths: must be a list of 4 values",
    "model.depths=[a, b, c, d]": "model.depths: must be a list of 4 values",
    "model.depths=4": "model.depths: must be a list of 4 values",
    "model.depths=!!set {1, 2, 3, 4}": "model.depths: tags are not supported; leave !!set out",
    "tracking.tags=a": "tracking.tags: must be a list of values, each one line of text, not a",
    "run.name=a/b": "run.name: must be text without slashes, or null, not a/b",
    "run.name=1e3": "run.name: must be text without slashes, or null, not 1e3",
    "run.name=a: b": "run.name: must be text without slashes, or null, not {'a': 'b'}",
    "run.name=#1": "run.name: YAML reads a comment from # on",
    "run.name=run #1": "run.name: YAML reads a comment from # on",
    "run.name=[": "run.name: expected the node content",
    "model.init_std=0.5": "model.init_std: only model.init=naive uses it, and model.init is he",
    "data.mosaic=1.5": "data.mosaic: must be a number at least 0 and at most 1, not 1.5",
    "data.shear=90": "data.shear: must be a number at least 0 and below 90, not 90",
    "data.close_mosaic=5": "data.close_mosaic: only data.mosaic and data.mixup use it, and both are 0",
    "train.steps=null": "train.steps: set exactly one of train.steps and train.epochs: both are null",
    "train.lr": "train.lr: expected section.key=value",
    "a/x.yaml": "a/x.yaml: expected section.key=value; to run that file: --config a/x.yaml",
    "trian.lr=1": "trian.lr: unknown key; did you mean train.lr?",
    "train.lrr=1": "train.lrr: unknown key; did you mean train.lr?",
    "lr=1": "lr: unknown key; did you mean train.lr?",
    "model=1": "model: is a section; write model.KEY=value",
    "model=yolov8n.pt": "write model.KEY=value; model.pretrained=yolo26n.pt fine-tunes one",
    "base=x.yaml": "base: unknown key",
    "lrf=0.01": "lrf: unknown key; train.final_lr",
    "resume=True": "resume: unknown key; --resume RUN_DIR",
    "train.lr0=0.1": "train.lr0: unknown key; did you mean train.lr?",
    "imgsz=63": "data.image_size: must be a whole number at least 32",
    "patience=0": "train.patience: must be a whole number above 0",
    "batch=-1": "train.batch: is a number; train.auto_batch=true finds the largest that a GPU holds",
    "device=0,1": "train.device: is one device; to train on 2 GPUs: torchrun",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        (["model.widths=[8,8,8,8,8]"], True),  # 8 channels of 8 groups, 1 pixel of 32 at stride 32
        (["model.widths=[8,8,8,8,12]"], False),  # 4 groups of 3 channels
        (["model.neck_width=4"], False),  # the neck has batch norm
        (["model.neck_width=4", "model.scope=all"], True),
        (["model.widths=[8,8,8,8,8]", "data.image_size=64"], False),
    ],
)
def test_a_group_of_one_value_is_refused_where_a_forward_pass_would_be(
    changes: list[str], refused: bool
) -> None:
    overrides = ["data.image_size=32", "model.depths=[1,1,1,1]", "model.norm=group", *changes]
    with pytest.raises(UserError, match="are a single value; take 64 pixels") if refused else nullcontext():
        load_config(BASELINE, overrides)
    told = dict(change.split("=") for change in [*overrides, "model.scope=trunk", *changes])
    size = int(told.pop("data.image_size"))
    model = ModelConfig(**{key.removeprefix("model."): yaml.safe_load(text) for key, text in told.items()})
    image = torch.zeros(1, 3, size, size)
    with pytest.raises(ValueError, match="Expected more than 1 value") if refused else nullcontext():
        build_network(model, 1).eval()(image)


@pytest.mark.parametrize(("override", "expected"), VALUE_MISTAKES.items(), ids=VALUE_MISTAKES)
def test_a_mistake_on_the_command_line_is_told_what_is_allowed(override: str, expected: str) -> None:
    text = message(BASELINE, override)
    assert text.startswith("command line: ")
    assert expected in text


def test_perspective_is_bounded_by_the_canvas_it_tilts() -> None:
    large = ["data.perspective=0.001", "data.image_size=640"]
    assert load_config(BASELINE, large).config.data.perspective == 0.001
    assert "data.perspective: must be below 0.00078 at this image_size" in message(
        BASELINE, *large, "data.mosaic=1.0"
    )


def test_a_wrong_value_is_blamed_on_the_file_and_line_that_wrote_it() -> None:
    write("root.yaml", "train:\n  lr: 1\n  batch: 0\n")
    child = write("ablations/child.yaml", "base: ../root.yaml\ntrain: {lr: 2}\n")
    assert (
        message(child) == "root.yaml:3: train.batch: must be a whole number above 0 and at most 65536, not 0"
    )
    both = write("both.yaml", "train:\n  steps: 3\n  epochs: 4\n")
    assert (
        message(both)
        == "both.yaml:3: train.epochs: set exactly one of train.steps and train.epochs, not both"
    )


def test_two_mistakes_are_both_told_and_more_are_counted() -> None:
    two = message(write("two.yaml", "train:\n  lr: 0\n  batch: 0\n"))
    assert "two.yaml:2: train.lr" in two
    assert "two.yaml:3: train.batch" in two
    many = message(write("many.yaml", "train: {lr: 0, batch: 0, clip: 0, ema: 2}\n"))
    assert many.endswith("\nand 3 more wrong values")


def test_a_missing_file_is_named_with_the_nearest() -> None:
    write("ablations/no_residual.yaml", "")
    assert message(Path("ablations/no_residul.yaml")) == (
        "ablations/no_residul.yaml: no such file; did you mean ablations/no_residual.yaml?"
    )
    assert message(Path("elsewhere/x.yaml")) == "elsewhere/x.yaml: no such file"
    assert message(Path("ablations")) == "ablations: is a folder; name a YAML file"


def test_a_missing_base_is_named_by_the_line_that_asks_for_it() -> None:
    write("configs/coco8.yaml", "")
    child = write("ablations/x.yaml", "# a comment\nbase: ../configs/coco.yaml\n")
    assert message(child) == (
        "ablations/x.yaml:2: base: configs/coco.yaml: no such file; did you mean ../configs/coco8.yaml?"
    )
    for base in ("a" * 5000, '"a\\0b"'):
        assert "no such file" in message(write("long.yaml", f"base: {base}\n"))


def test_a_circular_base_shows_the_circle() -> None:
    write("entry.yaml", "base: a.yaml\n")
    write("a.yaml", "base: b.yaml\n")
    write("b.yaml", "\nbase: ./a.yaml\n")
    assert message(Path("entry.yaml")) == "b.yaml:2: base: circular: a.yaml -> b.yaml -> a.yaml"
    assert message(write("self.yaml", "base: self.yaml")) == (
        "self.yaml:1: base: circular: self.yaml -> self.yaml"
    )


def test_a_file_that_is_no_text_is_refused_in_bounded_time() -> None:
    write("big.yaml", "#" * (safe_yaml.MAX_BYTES + 1))
    assert message(Path("big.yaml")) == "big.yaml: larger than 1000 kB; is this a YAML file?"
    Path("binary.yaml").write_bytes(b"train:\n  lr: \xff\xfe\n")
    assert message(Path("binary.yaml")) == "binary.yaml:2: not UTF-8 text; is this a YAML file?"
    if Path("/dev/zero").exists():
        assert message(Path("/dev/zero")) == "/dev/zero: no such file, or not a regular one"


def test_a_secret_under_an_unknown_key_is_not_repeated() -> None:
    assert "s3cret" not in message(write("x.yaml", "tracking: {api_key: s3cret}\n"))
    assert "s3cret" not in message(BASELINE, "tracking.api_key=s3cret")


# --- values --------------------------------------------------------------------------------------


def test_numbers_are_read_as_a_person_means_them() -> None:
    path = write(
        "x.yaml", "train: {lr: 1e-3, weight_decay: 5E-4, clip: 1, ema: .9}\nrun: {name: 2024-01-01}\n"
    )
    loaded = load_config(path)
    train = loaded.config.train
    assert (train.lr, train.weight_decay, train.clip, train.ema) == (0.001, 0.0005, 1.0, 0.9)
    assert isinstance(train.clip, float)
    assert loaded.name == "2024-01-01"


def test_an_override_can_be_a_list_quoted_text_or_null() -> None:
    overrides = ["tracking.tags=[a, 'no']", "run.name='#1'", "train.clip=null", " data.cache = off"]
    config = load_config(BASELINE, overrides).config
    assert config.tracking.tags == ("a", "no")
    assert config.run.name == "#1"
    assert config.train.clip is None
    assert config.data.cache is False


def test_a_config_survives_json_and_is_immutable() -> None:
    config = Config(model=ModelConfig(depths=(1, 2, 3, 4)), tracking=TrackingConfig(tags=("a",)))
    assert Config.model_validate(config.model_dump(mode="json")) == config
    with pytest.raises(ValueError, match="frozen"):
        config.model.act = "relu"


# Any line of text, with what YAML could take for something else made likely.
text = st.one_of(
    st.sampled_from(
        ["no", "null", "~", "1e3", "007", "0x10", "1:30", "2024-01-01", "- a", "# a", "a: b", "'", '"']
    ),
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20),
)
name = text.filter(lambda line: not set(line) & set("/\\"))
count = st.integers(1, 500)
rate = st.floats(0, 1e6, exclude_min=True)
configs = st.fixed_dictionaries(
    {
        "data": st.fixed_dictionaries({"path": text, "image_size": count.map(lambda n: 32 * n)}),
        "model": st.fixed_dictionaries({"depths": st.tuples(*[count] * 4), "norm": st.just("none")}),
        "train": st.fixed_dictionaries({"lr": rate, "clip": st.none() | rate, "epochs": st.none() | count}),
        "tracking": st.fixed_dictionaries({"tags": st.lists(text, max_size=3), "entity": st.none() | text}),
        "run": st.fixed_dictionaries({"name": name, "dir": text}),
    }
)


@pytest.mark.slow
@given(configs)
def test_what_is_saved_is_what_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    config = Config.model_validate(values)
    path = tmp_path_factory.getbasetemp() / "saved.yaml"
    save(config, path)
    loaded = load_config(path)
    assert loaded.config == loaded.base == config
    assert (loaded.name, loaded.difference) == (config.run.name, [])
    # Other tools read the file with the usual loader: text must stay text there too.
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["path"] == config.data.path


@pytest.mark.slow
@given(text)
def test_quoted_text_reaches_the_config_unchanged(value: str) -> None:
    assert load_config(BASELINE, [f"data.path={safe_yaml.dump([value])[2:]}"]).config.data.path == value


@pytest.mark.slow
@given(st.sampled_from(KEYS), st.text(max_size=30) | st.text(string.punctuation + "ae1 \n", max_size=30))
def test_any_override_is_accepted_or_explained(key: str, value: str) -> None:
    try:
        config = load_config(BASELINE, [f"{key}={value}"]).config
    except UserError as error:
        assert str(error).startswith(f"command line: {key}: ")
    else:
        assert Config.model_validate(config.model_dump()) == config


@given(st.text(max_size=60) | st.text(string.punctuation + "ae1 \n", max_size=60))
def test_any_file_is_accepted_or_explained(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(content, encoding="utf-8", errors="replace")
    try:
        load_config(path)
    except UserError as error:
        assert str(error).startswith(str(path))


# --- the cost of importing -----------------------------------------------------------------------


def test_loading_a_config_imports_no_heavy_library() -> None:
    code = (
        "import sys, detector.config.loading\n"
        "heavy = {'torch', 'numpy', 'cv2', 'ultralytics', 'wandb', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_cap_on_skipped_steps_without_skipping_is_an_error() -> None:
    with pytest.raises(UserError, match=r"train\.max_skipped: only train\.on_nonfinite=skip uses it"):
        load_config(BASELINE, ["train.max_skipped=3"])
    assert (
        load_config(BASELINE, ["train.max_skipped=3", "train.on_nonfinite=skip"]).config.train.max_skipped
        == 3
    )


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("no_residual", ROOT / "ablations/no_residual.yaml"),
        ("coco8", ROOT / "configs/coco8.yaml"),
        ("coco8.yaml", ROOT / "configs/coco8.yaml"),
        ("ablations/no_residual.yaml", ROOT / "ablations/no_residual.yaml"),
    ],
)
def test_the_projects_files_are_found_by_name_from_anywhere(
    written: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_config(Path(written))
    assert (loaded.sources[-1], loaded.name) == (file, load_config(file).name)
    Path("ablations").mkdir()
    Path("ablations", "no_residual.yaml").write_text("model: {act: relu}\n")
    found = load_config(Path(written)).sources[-1]
    assert found == (Path("ablations/no_residual.yaml") if "residual" in written else file)  # one's own first
    Path(written).parent.mkdir(exist_ok=True)
    Path(written).write_text("model: {act: tanh}\n")
    assert load_config(Path(written)).sources[-1] == Path(written)  # a path before a name


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("no_residaul", "no_residaul: no such file; did you mean no_residual?"),
        ("ablations/no_residaul.yaml", "did you mean ablations/no_residual.yaml?"),
        ("elsewhere/no_residual.yaml", "elsewhere/no_residual.yaml: no such file"),
        ("suites/factorial", "suites/factorial: no such file"),
    ],
)
def test_a_name_like_one_of_the_projects_files(
    written: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message(Path(written)).endswith(hint)


def test_what_ultralytics_calls_it_is_understood_where_it_means_one_thing() -> None:
    """Each name is one of ultralytics' own, and does what the key here does."""
    from ultralytics.utils import DEFAULT_CFG_DICT

    assert {*SAME, *SIMILAR} - {"cfg", "weights"} <= DEFAULT_CFG_DICT.keys()
    assert not SAME.keys() & SIMILAR.keys() and {*SAME.values()} <= {*KEYS}
    theirs = "imgsz=64", "epochs=3", "batch=2", "lr0=0.1", "device=1", "patience=4", "freeze=2", "data=a.yaml"
    ours = ("data.image_size=64", "train.epochs=3", "train.batch=2", "train.lr=0.1", "train.device=cuda:1",
            "train.patience=4", "model.freeze=2", "data.path=a.yaml")  # fmt: skip
    assert load_config(BASELINE, theirs).config == load_config(BASELINE, ours).config
    assert load_config(BASELINE, ["device=mps"]).config.train.device == "mps"


def test_patience_needs_evaluations() -> None:
    assert "train.patience: needs evaluations" in message(
        BASELINE, "train.patience=3", "train.eval_every=null"
    )
