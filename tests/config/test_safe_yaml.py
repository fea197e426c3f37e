"""YAML is read by one of two parsers, and nobody is to notice which one it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detector.config import safe_yaml
from detector.errors import UserError
from tests.support import ROOT

FOLDERS = "ablations", "configs", "datasets", "detector", "tests"
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.yaml"))
# What means something in YAML, so that few examples are plain words.
CHARACTERS = st.sampled_from("ab01 \n\t:-[]{}#,\"'|>&*!%@`?.~=é\x07\\")


def read_by(loader: type, text: str) -> safe_yaml.Value | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safe_yaml, "_FastLoader", loader)
        try:
            return safe_yaml.parse(text, "file")
        except UserError as error:
            return str(error)


def test_the_parsers_are_two() -> None:
    assert yaml.__with_libyaml__ and issubclass(safe_yaml._FastLoader, yaml.CSafeLoader)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_of_the_project(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    fast = read_by(safe_yaml._FastLoader, text)
    assert isinstance(fast, safe_yaml.Value)
    assert fast == read_by(safe_yaml._Loader, text)


@given(st.text(CHARACTERS, max_size=30))
@settings(max_examples=500)
@example("a: [1, 2\nb: 3\n")
@example("a: 1\na: 2\n")
@example("a: &x [1]\nb: *x\n")
@example("a: !!set {b}\n")
@example("a:\n\t- b\n")
@example("a: 'off'\nb: off\nc: 010\nd: 1e-3\ne: .inf\n")
@example("a: |\n  text\n  more\n")
def test_whatever_is_written(text: str) -> None:
    """libyaml reads a little more, such as tabs after a word; where both can, they read the same."""
    fast, plain = read_by(safe_yaml._FastLoader, text), read_by(safe_yaml._Loader, text)
    if isinstance(plain, str):
        assert fast == plain or isinstance(fast, safe_yaml.Value)
    elif plain.value is None:  # an empty document has no line
        assert isinstance(fast, safe_yaml.Value) and fast.value is None
    else:
        assert fast == plain


def test_a_folder_s_name_that_is_no_utf_8() -> None:
    """As the command line hands it on; libyaml's parser cannot be given it."""
    with pytest.raises(UserError, match=r"file:1: unprintable character U\+DCE9"):
        safe_yaml.parse("/tmp/caf\udce9.yaml", "file")
    assert safe_yaml.written("caf\udce9") == '"caf\udce9"'
