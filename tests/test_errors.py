"""What a stranger wrote, as a message shows it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.errors import (
    describe_error,
    display_path,
    escape_control,
    for_spreadsheet,
    for_terminal,
    has_control,
    shorten,
)


@given(st.text(max_size=200))
def test_no_text_moves_the_cursor(text: str) -> None:
    for shown in (escape_control(text), shorten(text), for_terminal(text).replace("\n", "")):
        assert not has_control(shown)
    if not has_control(text):
        assert escape_control(text) == text
    assert len(shorten(text.replace("\n", "x"), 10)) <= 10 or has_control(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\nerror: b", r"a\nerror: b"),
        ("half \udcff", r"half \udcff"),
        ("gnp.\u202egpj", r"gnp.\u202egpj"),  # a terminal would write gnp.jpg
        ("Жук 猫 é\u200d", "Жук 猫 é\u200d"),
    ],
)
def test_what_is_spelt_out(text: str, shown: str) -> None:
    assert escape_control(text) == shown


def test_a_formula_is_text_to_a_spreadsheet() -> None:
    for name in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"):
        assert for_spreadsheet(name) == f"'{name}"
    for name in ("cat", "a=b", "", "1", "'"):
        assert for_spreadsheet(name) == name


def test_a_path_is_as_a_user_would_write_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert display_path(tmp_path / "a" / "b.yaml") == os.path.join("a", "b.yaml")
    assert display_path(Path("ablations/../configs/a.yaml")) == os.path.join("configs", "a.yaml")
    assert display_path(tmp_path.parent / "c.yaml") == str(tmp_path.parent / "c.yaml")
    assert display_path(f"{tmp_path}2/c.yaml") == f"{tmp_path}2/c.yaml"  # beside it, not below
    assert display_path("../c.yaml") == os.path.join("..", "c.yaml")
    assert display_path(tmp_path) == "."
    assert display_path(tmp_path / "a\x1bb") == r"a\x1bb"


@pytest.mark.skipif(os.name == "nt", reason="Windows does not delete a folder in use")
def test_a_path_without_a_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert display_path(tmp_path / "a.yaml") == str(tmp_path / "a.yaml")


def test_an_error_is_one_line() -> None:
    assert describe_error(ValueError("a\n  b\x07")) == r"ValueError: a b\x07"
    assert describe_error(KeyError()) == "KeyError"
    assert len(describe_error(OSError("x" * 1000))) == len("OSError: ") + 200
