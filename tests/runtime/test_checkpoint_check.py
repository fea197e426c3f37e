"""The schema of a checkpoint: what a run writes, what docs/checkpoint.md says, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch

from detector.errors import UserError
from detector.runtime.checkpoint_check import (
    CheckpointState,
    FailureState,
    Metadata,
    RandomState,
    check_archive,
    check_state,
    check_stored,
)
from detector.runtime.checkpoint_file import read, write
from tests.support import ROOT, Run

SECTIONS = {
    "## last.pt and best.pt": CheckpointState,
    "### extra: Metadata": Metadata,
    "### rng: RandomState": RandomState,
    "## failure/state.pt": FailureState,
}
PAGE = (ROOT / "docs" / "checkpoint.md").read_text(encoding="utf-8")


def table(heading: str) -> dict[str, str]:
    """The first column of the table under a heading, and the second."""
    text = PAGE.split(f"\n{heading}\n")[1].split("\n#")[0]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {key.strip("| `"): kind.strip("`") for key, kind, *_ in rows}


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_page_has_every_key_with_its_type(heading: str) -> None:
    declared = {key: hint.__forward_arg__ for key, hint in SECTIONS[heading].__annotations__.items()}
    plain = {"Steps": "int", "RunId": "str"}
    assert table(heading) == {k: plain.get(v, v).replace(" | ", " or ") for k, v in declared.items()}


@pytest.mark.slow
def test_a_run_writes_what_the_schema_says(train_py: Callable[..., Run]) -> None:
    short = ("data.image_size=64", "train.steps=2", "train.eval_every=null", "tracking.plots=false")
    run = train_py(*short, "train.ema=0.9", "train.optimizer=adamw")
    for name in ("last.pt", "best.pt"):
        state = torch.load(run.directory / "checkpoints" / name, weights_only=True)
        assert state.keys() == get_type_hints(CheckpointState).keys()
        assert state["extra"].keys() == get_type_hints(Metadata).keys()
        assert state["rng"].keys() == get_type_hints(RandomState).keys()
    breaks = ("train.lr=1e30", "train.clip=null", "train.warmup_steps=0", "train.steps=5")
    broken = train_py(*short, *breaks, name="broken", check=False)
    state = torch.load(broken.directory / "failure" / "state.pt", weights_only=True)
    assert state.keys() == get_type_hints(FailureState).keys()


GOOD: dict[str, Any] = {"format": 1, "step": 3, "model": {"w": torch.zeros(2)}}


def test_weights_are_enough() -> None:
    check_state(GOOD)
    check_state(
        GOOD | {"somebody's": object(), "extra": {"names": ("a",), "more": 1}, "best": [1, float("nan")]}
    )


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("step", {"step": True}), ("step", {"step": 10**12}), ("step", {"step": 2.0}),
        ("model", {"model": [1]}), ("model", {"model": {"w": 3}}), ("model", {"model": {3: torch.zeros(1)}}),
        ("ema", {"ema": 3}),
        ("best", {"best": "x"}), ("best", {"best": [True]}), ("seconds", {"seconds": "1"}),
        ("extra", {"extra": 3}), ("extra", {"extra": {"config": {"a": [torch.zeros(1)]}}}),
        ("names", {"extra": {"names": "abc"}}), ("names", {"extra": {"names": [1]}}),
        *(("wandb_id", {"extra": {"wandb_id": text}}) for text in ("", ".", "..", "a/b", "a b", "x" * 129)),
        ("rng", {"rng": []}), ("indices", {"failure": {}, "indices": 3}), ("failure", {"failure": 3}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(key: str, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"its {key!r} "):
        check_state(GOOD | change)


def test_a_bit_that_flips_is_noticed_or_harmless(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """In the numbers, in the pickle, in the archive's own tables: anywhere in the file."""
    path = tmp_path / "last.pt"
    weights = {str(number): torch.randn(40) for number in range(3)}
    write(GOOD | {"model": weights, "best": [0.5]}, path)
    whole, state = path.read_bytes(), read(path)
    harmless = noticed = 0
    for bit in np.random.default_rng(0).permutation(8 * len(whole))[:300].tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = read(path)
        except UserError as error:
            assert "not a readable checkpoint" in str(error)
            noticed += 1
            continue
        harmless += 1
        assert all(torch.equal(found["model"][key], tensor) for key, tensor in weights.items())
        assert {**found, "model": None} == {**state, "model": None}
    assert harmless < 300  # padding between records
    for name, count in (("noticed", noticed), ("harmless", harmless)):
        record_property(name, count)  # for scripts/reliability.py


def test_an_archive_that_only_torch_would_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    write(GOOD, path)
    data = bytearray(path.read_bytes())
    for entry in (match.start() for match in re.finditer(rb"PK\x01\x02", data)):
        data[entry + 6 : entry + 8] = (99).to_bytes(2, "little")  # "version needed"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"its archive is damaged: zip file version 9\.9"):
        check_archive(path)
    path.write_bytes(b"PK\3\4 no archive")
    with pytest.raises(ValueError, match="its archive is damaged"):
        check_archive(path)


def test_tensors_that_are_not_in_the_file_are_refused(tmp_path: Path) -> None:
    """Also of a module, and one storage that many tensors share: whoever copies them would fill memory."""
    check_stored({"a": torch.zeros(100), "b": [torch.zeros(25)]}, 500)
    with pytest.raises(ValueError, match="more than the whole file"):
        check_stored({"a": torch.zeros(1).expand(101)}, 400)
    net, shared = torch.nn.Module(), torch.zeros(50)
    for name in "ab":
        net.register_buffer(name, shared.view(50))
    check_stored(net, 400)
    with pytest.raises(ValueError, match="more than the whole file"):
        check_stored(net, 300)


@pytest.mark.parametrize("key", ["step", "model"])
def test_nothing_goes_without_weights_and_step(key: str) -> None:
    with pytest.raises(ValueError, match=f"its {key!r} is wrong"):
        check_state({k: v for k, v in GOOD.items() if k != key})


def test_a_failure_has_weights_but_no_average(tmp_path: Path) -> None:
    from detector.runtime.checkpoint_file import evaluated_weights

    write(GOOD | {"failure": {}, "indices": [[0]]}, tmp_path / "state.pt")
    assert evaluated_weights(read(tmp_path / "state.pt")).keys() == {"w"}
