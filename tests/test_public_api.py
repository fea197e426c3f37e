"""What `from detector import …` gives: instantly, typed, and as its docstrings say."""

from __future__ import annotations

import ast
import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import detector
from tests.support import ROOT

# In this order, since a run that one example trains is what the next ones read.
EXAMPLES = (
    "load_config", "fit", "", "load_run", "compare", "Predictor", "Detector", "build_model",
    "GradientRecorder", "Callback", "register", "strip",
    "watch",
)  # fmt: skip


class Results(doctest.OutputChecker):
    """Compares what an expression is worth; what is printed on the way, such as a table, is free."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got.splitlines()[-1] + "\n", optionflags)


@pytest.mark.slow
@pytest.mark.usefixtures("own_names", "coco8")
def test_every_name_has_an_example_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(EXAMPLES) - {""} == set(detector.__all__)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for name in EXAMPLES:
        text = (getattr(detector, name) if name else detector).__doc__
        parser, names = doctest.DocTestParser(), {"__name__": "example"}
        example = parser.get_doctest(text, names, name or "detector", None, 0)
        assert example.examples, name
        failures: list[str] = []

        doctest.DocTestRunner(Results()).run(example, out=failures.append)
        assert not failures, "".join(failures)
    assert (tmp_path / "report.html").exists()


def test_to_import_it_is_instant() -> None:
    code = """
import sys, detector
assert not {"torch", "numpy", "pydantic"} & sys.modules.keys()
from detector import compare, load_config, load_run, register
assert not {"torch", "numpy"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_names_are_listed_once_for_people_and_once_for_type_checkers() -> None:
    (checked,) = (
        node
        for node in ast.parse((ROOT / "detector" / "__init__.py").read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    imported = [alias.name for node in checked.body for alias in node.names]  # type: ignore[attr-defined]
    assert sorted(imported) == detector.__all__
    assert set(detector.__all__) <= set(dir(detector))
    assert (ROOT / "detector" / "py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(detector, "nothing")  # noqa: B009
    assert detector.fit.__name__ == "fit"  # the function, though there is a module of that name


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    from detector import load_run
    from detector.errors import UserError

    with pytest.raises(UserError, match="is not a run's directory"):
        load_run(tmp_path)
