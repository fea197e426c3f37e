"""Names of one's own: what may be registered, how a plugin is loaded, and what is said when it is not."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from detector.config import names
from detector.config.loading import load_config
from detector.config.schema import ModelConfig
from detector.data.own import READERS
from detector.errors import UserError
from detector.loggers.build import LOGGERS
from detector.models.blocks import ACTIVATIONS, BLOCKS, NORMS, SHORTCUTS
from detector.models.build import MODELS
from detector.models.init import SCHEMES
from detector.models.tailored import tailored
from detector.registry import load_plugin, lookup, plugin_arguments, register
from detector.training.metrics import METRICS
from detector.training.optimizer import OPTIMIZERS
from tests.support import ROOT

BASELINE = ROOT / "configs" / "coco8.yaml"
pytestmark = pytest.mark.usefixtures("own_names")

TABLES = {
    "activation": [*ACTIVATIONS, *tailored(ModelConfig())],  # the latter need the configuration's depth
    "norm": NORMS,
    "shortcut": SHORTCUTS,
    "init": [*SCHEMES, "naive"],  # which needs the configuration's deviation
    "block": [*BLOCKS, "fixup"],  # which needs the number of blocks
    "model": MODELS,
    "dataset": [*READERS, "yolo"],
    "optimizer": OPTIMIZERS,
    "metric": METRICS,
    "logger": LOGGERS,
}


@pytest.mark.parametrize("kind", names.BUILT_IN)
def test_the_names_are_those_of_the_tables(kind: str) -> None:
    assert set(names.BUILT_IN[kind]) == set(TABLES[kind])
    assert callable(getattr(register, kind))


def test_the_activations_are_torch_s_that_need_no_argument_and_work_on_each_number() -> None:
    def fits(name: str) -> bool:
        try:
            module = getattr(nn, name)().eval()
            x = torch.linspace(-2, 2, 24).reshape(1, 4, 2, 3)
            out, alone = module(x), module(x[:, :1, :1, :1])
        except (TypeError, RuntimeError, ValueError):
            return False
        return out.shape == x.shape and torch.equal(out[:, :1, :1, :1], alone)

    with warnings.catch_warnings(action="ignore"):  # a softmax wants to be told of what
        listed = {name for name in nn.modules.activation.__all__ if fits(name)}
    assert set(names.TORCH["activation"]) == listed | {"Identity"}


def test_the_optimizers_are_torch_s_that_train_a_convolution_step_by_step() -> None:
    classes = {
        name
        for name, found in vars(torch.optim).items()
        if inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)
    }
    # These want a closure, sparse gradients, and matrices.
    assert set(names.TORCH["optimizer"]) == classes - {"Optimizer", "LBFGS", "SparseAdam", "Muon"}


def test_a_registered_name_is_as_good_as_a_built_in_one() -> None:
    with pytest.raises(UserError, match=r"model\.act: .* not snake"):
        load_config(BASELINE, ["model.act=snake"])

    @register.activation("snake")
    class Snake(nn.Module):
        pass

    assert load_config(BASELINE, ["model.act=snake"]).config.model.act == "snake"
    assert lookup("activation", "snake", ACTIVATIONS, nn) is Snake
    assert lookup("activation", "relu", ACTIVATIONS, nn) is nn.ReLU
    assert lookup("activation", "GELU", ACTIVATIONS, nn) is nn.GELU
    with pytest.raises(UserError, match=r"one of .*, tailored_tanh, snake, not snak; did you mean snake\?"):
        load_config(BASELINE, ["model.act=snak"])


@pytest.mark.parametrize("name", ["silu", "GELU", "identity"])
def test_a_name_that_is_taken_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="there is one of that name already"):
        register.activation(name)


@pytest.mark.parametrize("name", ["no", "ON", "null", "1e3", "a b", "", "a/b", "-x", "x" * 101])
def test_a_name_that_yaml_would_not_read_as_a_word_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a name is a letter"):
        register.block(name)


def test_the_same_part_may_be_registered_again_and_another_may_not() -> None:
    def make(qualname: str) -> type:
        return type("Mine", (nn.Module,), {"__qualname__": qualname})

    first, again, other = make("Mine"), make("Mine"), make("Other")
    register.norm("mine")(first)
    register.norm("mine")(again)  # a notebook's cell, run twice
    assert lookup("norm", "mine", NORMS) is again
    assert names.added["norm"].count("mine") == 1
    with pytest.raises(ValueError, match=r"Mine has that name already"):
        register.norm("mine")(other)


def test_a_model_is_not_called_yolo() -> None:
    with pytest.raises(ValueError, match="that name already"):  # the word for ultralytics'
        register.model("yolo")


# --- plugins -------------------------------------------------------------------------------------


def plugin(tmp_path: Path, text: str, name: str = "mine.py") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_plugin_is_run_once(tmp_path: Path) -> None:
    path = plugin(tmp_path, "from detector import register\nregister.init('mine')(lambda weight: None)\n")
    load_plugin(path)
    load_plugin(tmp_path / "." / "mine.py")
    assert load_config(BASELINE, ["model.init=mine"]).config.model.init == "mine"
    assert plugin_arguments() == ["--plugin", str(path)]
    assert sys.modules["detector_plugin_mine"].register is register


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import detector\n1 / 0\n", r"mine\.py:2: ZeroDivisionError: division by zero"),
        ("x = (\n", r"mine\.py:1: SyntaxError: '\(' was never closed"),
        ("\nimport no_such_module_at_all\n", r"mine\.py:2: ModuleNotFoundError: No module named"),
        (
            "from detector import register\n\n@register.activation('silu')\ndef f(): ...\n",
            r"mine\.py:3: ValueError: activation 'silu': there is one of that name",
        ),
        ("def f():\n    raise ValueError('a\\nb')\n\nf()\n", r"mine\.py:2: ValueError: a$"),
    ],
)
def test_an_error_in_a_plugin_is_one_line_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_plugin(plugin(tmp_path, text))
    assert "detector_plugin_mine" not in sys.modules


def test_a_plugin_that_is_not_there_or_no_python_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.py", tmp_path, plugin(tmp_path, "", "mine.yaml")):
        with pytest.raises(UserError, match="there is no such Python file"):
            load_plugin(path)


def test_two_plugins_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    load_plugin(plugin(tmp_path, ""))
    with pytest.raises(UserError, match="rename one of them"):
        load_plugin(plugin(tmp_path / "other", ""))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.act=gelu", "did you mean GELU?"),
        ("model.act=Relu", "did you mean relu?"),
        ("model.act=HardSwish", "did you mean Hardswish?"),
        ("train.optimizer=SGDD", "did you mean sgd?"),
        ("train.optimizer=radam", "did you mean RAdam?"),
        ("train.optimizer=LBFGS", "LBFGS is in torch.optim, but cannot train here: it needs a closure"),
        ("train.optimizer=RAdm", "did you mean RAdam?"),
        (
            "model.block=mine",
            "must be one of basic, fixup, not mine (a plugin's block needs --plugin FILE.py)",
        ),
        ("model.name=mine", "must be one of compact, not mine (a plugin's model needs --plugin FILE.py)"),
        ("train.metrics=[mine]", "not ['mine'] (a plugin's metric needs --plugin FILE.py)"),
        ("tracking.loggers=[mine]", "each a logger that a plugin brings, not ['mine']"),
        ("train.monitor=mine", "must be one of mAP50-95, mAP50, not mine"),
        ("data.format=voc", "must be one of yolo, not voc (a plugin's dataset needs --plugin FILE.py)"),
    ],
)
def test_a_name_that_nobody_knows_is_answered_with_the_nearest_or_the_plugin(
    override: str, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_config(BASELINE, [override])
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_name_in_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("model:\n  norm: batch\n  act: gelu\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.yaml:3: model\.act: .* not gelu; did you mean GELU\?"):
        load_config(tmp_path / "x.yaml")


def test_a_monitored_metric_is_a_measured_one() -> None:
    register.metric("recall")(lambda result: 0.0)
    with pytest.raises(UserError, match=r"train\.monitor: recall is not measured; add it to train\.metrics"):
        load_config(BASELINE, ["train.monitor=recall"])
    train = load_config(BASELINE, ["train.monitor=recall", "train.metrics=[recall]"]).config.train
    assert (train.monitor, train.metrics) == ("recall", ("recall",))


def test_a_metric_does_not_take_the_key_of_a_loss() -> None:
    for name in ("loss", "lr", "grad_norm", "loss_box", "skipped", "clip_factor_trunk"):
        with pytest.raises(ValueError, match=f"a run's history has train/{name} already"):
            register.metric(name)(lambda result: 0.0)


def test_the_registry_needs_no_torch() -> None:
    code = "import detector.registry, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
