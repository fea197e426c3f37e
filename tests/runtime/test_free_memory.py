"""What a container allows, by files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from detector.runtime import free_memory as module
from detector.runtime.free_memory import free_memory

MACHINE = 64_000


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 64,000 bytes left, whose control groups are here."""
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: SimpleNamespace(available=MACHINE))
    monkeypatch.setattr(module, "_PROCESS", tmp_path / "process")
    monkeypatch.setattr(module, "_GROUPS", tmp_path / "groups")
    return tmp_path


def group(folder: Path, most: object, taken: int, returned: int = 0, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    limit, usage, inactive = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    (folder / limit).write_text(f"{most}\n")
    (folder / usage).write_text(f"{taken}\n")
    (folder / "memory.stat").write_text(f"anon 12\nfile 400\n{inactive} {returned}\nactive_file 3\n")


def test_without_control_groups_it_is_the_machine_s(kernel: Path) -> None:
    assert free_memory() == MACHINE
    (kernel / "process").write_text("0::/\n")
    assert free_memory() == MACHINE


def test_a_container_has_what_its_limit_leaves_and_what_is_only_cached(kernel: Path) -> None:
    (kernel / "process").write_text("0::/\n")
    group(kernel / "groups", 10_000, 4_000, returned=1_500)
    assert free_memory() == 10_000 - 4_000 + 1_500
    group(kernel / "groups", 10_000, 11_000)
    assert free_memory() == 0
    group(kernel / "groups", "max", 4_000)
    assert free_memory() == MACHINE


def test_a_group_inside_others_has_what_the_tightest_leaves(kernel: Path) -> None:
    (kernel / "process").write_text("0::/jobs/mine\n")
    group(kernel / "groups" / "jobs", 9_000, 5_000)
    group(kernel / "groups" / "jobs" / "mine", 8_000, 1_000)
    assert free_memory() == 4_000


def test_the_first_version_of_control_groups(kernel: Path) -> None:
    (kernel / "process").write_text("12:cpu,cpuacct:/\n4:memory:/docker/abc\n1:name=systemd:/docker/abc\n")
    group(kernel / "groups" / "memory", 0x7FFF_FFFF_FFFF_F000, 5_000, version=1)  # its word for no limit
    assert free_memory() == MACHINE
    group(kernel / "groups" / "memory" / "docker" / "abc", 7_000, 5_000, returned=100, version=1)
    assert free_memory() == 2_100


def test_a_group_that_cannot_be_read_does_not_count(kernel: Path) -> None:
    (kernel / "process").write_text("0::/\n")
    group(kernel / "groups", "what", 4_000)
    assert free_memory() == MACHINE


def test_runs_of_a_suite_that_run_at_once_share_it(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.SHARED_BY, "4")
    assert free_memory() == MACHINE // 4
    for nonsense in ("", "0", "-3", "many"):
        monkeypatch.setenv(module.SHARED_BY, nonsense)
        assert free_memory() == MACHINE
