"""The table of reliability is counted from what tests report."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import reliability
from scripts.pages import write_between


@pytest.mark.slow
def test_counts_are_those_of_the_tests(tmp_path: Path) -> None:
    file = tmp_path / "test_some.py"
    file.write_text(
        "import pytest\n"
        "from hypothesis import given, settings, strategies as st\n"
        "@pytest.mark.parametrize('n', range(5))\n"
        "def test_one(n, record_property):\n"
        "    record_property('megabytes', n)\n"
        "    assert n != 3\n"
        "def test_two(): pytest.skip('not here')\n"
        "@pytest.fixture\n"
        "def broken(): raise OSError\n"
        "def test_three(broken): pass\n"
        "@settings(max_examples=40, database=None)\n"
        "@given(st.integers())\n"
        "def test_four(n): pass\n"
    )
    arguments = str(file), "--rootdir", str(tmp_path), "-c", "/dev/null", "--hypothesis-show-statistics"
    outcome = reliability.pytest(*arguments)
    assert outcome.passed == 5
    assert {name.rpartition("::")[2] for name in outcome.failures} == {"test_one[3]", "test_three"}
    assert sorted(outcome.recorded["megabytes"]) == [0, 1, 2, 3, 4]
    figure = outcome.figure()
    assert figure.shown == "5/7, 1 skipped"
    assert not figure.met
    assert reliability.examples(outcome.output)[:2] == (40, 0)


@pytest.mark.slow
def test_what_cannot_be_run_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="could not be run"):
        reliability.pytest(str(tmp_path / "missing.py"), "-c", "/dev/null")
    with pytest.raises(SystemExit, match="no statistics"):
        reliability.examples("3 passed")


def test_the_table_goes_between_its_marks(tmp_path: Path) -> None:
    made = {"commit": "a" * 40, "dirty": True, "cpus": 2, "versions": {"python": "3.11", "torch": "2.9"}}
    rows = {
        "layers": {"shown": "20/20", "met": True, "seconds": 90, "made": made},
        "resumes": {"shown": "19/20", "met": False, "seconds": 600, "made": made},
    }
    text = reliability.table(rows)
    assert "| killed runs that resume exactly | **19/20** | 10.0 | aaaaaaa+ |" in text
    assert "right layer named | 20/20 | 1.5 | aaaaaaa+ |" in text
    assert text.endswith("Measured with Python 3.11, torch 2.9, 2 cores.")
    page = tmp_path / "page.md"
    begin, end = "<!-- table: reliability -->", "<!-- /table: reliability -->"
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n", encoding="utf-8")
    for _ in range(2):
        write_between(page, reliability.MARKER, text)
        assert page.read_text(encoding="utf-8") == f"before\n{begin}\n{text}\n{end}\nafter\n"
    assert reliability.PAGE.read_text(encoding="utf-8").count(begin) == 1
