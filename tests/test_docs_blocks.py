"""Every code block of the documentation is run, or says why not: see docs_blocks.py."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from cyclopts.exceptions import CycloptsError, MissingArgumentError

import train
from detector.config import safe_yaml
from detector.config.loading import load_config
from detector.rows import layers_in
from detector.rundir import RunDir
from tests import docs_blocks
from tests.docs_blocks import QUICK, SHELL, Block, blocks
from tests.support import ROOT

PAGES = ["README.md", "CONTRIBUTING.md", "benchmarks/README.md",
         *sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md"))]  # fmt: skip
BLOCKS = [block for page in PAGES for block in blocks(page)]
# Run by tests of their own.
ELSEWHERE = ("docs/any_", "docs/doctor.md", "docs/extending.md", "docs/lesson/", "docs/wandb.md")
RUN = [b for b in BLOCKS if b.kind != "not run" and (b.language in SHELL or b.language == "python")
       and not b.page.startswith(ELSEWHERE)]  # fmt: skip


def name(block: Block) -> str:
    return f"{block.page}:{block.line}"


def test_every_block_says_what_it_is_in() -> None:
    known = (*SHELL, "python", "pycon", "yaml", "json", "csv", "text")
    assert [name(block) for block in BLOCKS if block.language not in known] == []
    fences = sum((ROOT / page).read_text(encoding="utf-8").count("\n```") for page in PAGES)
    assert fences == 2 * len(BLOCKS)  # none is written in another way
    marker = re.compile(r"^<!-- (?:not run|run with):", re.MULTILINE)
    markers = sum(len(marker.findall((ROOT / page).read_text(encoding="utf-8"))) for page in PAGES)
    assert markers == sum(bool(block.kind) for block in BLOCKS)  # none stands apart from its block


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in SHELL], ids=name)
def test_every_command_line_is_one_that_the_program_takes(block: Block) -> None:
    for command in block.commands:
        for words in docs_blocks.simple(command):
            if words != ["python", "my_run.py"]:  # a file of docs/extending.md
                docs_blocks.parse(words)


INLINE = re.compile(r"`((?:detector|python|make|torchrun|pip) [^`<]+)`")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_in_the_text_too(page: str) -> None:
    text = docs_blocks.BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
    for command in INLINE.findall(text):
        for words in docs_blocks.simple(" ".join(command.split())):
            with suppress(MissingArgumentError):  # a command that is only named
                docs_blocks.parse(words)


@pytest.mark.parametrize(
    "command", ["detector chek x", "detector check x --sheeet y", "python train.py train.lrr=1", "make trian",
                "python train.py --config ablations/none.yaml", "python scripts/why.py --reprot",
                "pip install '.[rays]'"],
)  # fmt: skip
def test_a_wrong_command_line_is_noticed(command: str) -> None:
    (words,) = docs_blocks.simple(command)
    with pytest.raises((AssertionError, CycloptsError, SystemExit)):
        docs_blocks.parse(words)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in ("yaml", "json")], ids=name)
def test_every_file_is_one_that_is_read(block: Block, tmp_path: Path) -> None:
    if block.language == "json":
        json.loads(block.text)
        return
    path = tmp_path / "ablations" / "x.yaml"
    path.parent.mkdir()
    path.write_text(block.text)
    content = safe_yaml.read(path, "x").value
    assert isinstance(content, dict)
    if "base" in content and "cells" not in content and not block.page.startswith(ELSEWHERE):
        (tmp_path / "configs").symlink_to(ROOT / "configs")
        (path.parent / "suites").symlink_to(ROOT / "ablations" / "suites")
        assert load_config(path).difference
    if "names" in content:
        assert {"train", "val", "names"} <= content.keys()


# --- what the pages take for granted ---------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, coco8: Path) -> Path:
    """A folder `runs` with two short runs."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("WANDB_MODE", "disabled")
        for ablation in ("baseline", "no_residual"):
            directory = folder / "runs" / f"{ablation}-s0-20260101-120000"
            assert train.main(["--ablation", ablation, *QUICK, f"run.dir={directory}"]) == 0
    return folder / "runs"


def images(coco8: Path, folder: Path) -> None:
    """`photos/`, and `mydata/`, a data set in the YOLO format."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            shutil.copytree(coco8 / "coco8" / kind / split, folder / "mydata" / kind / split)
    shutil.copytree(folder / "mydata" / "images" / "val", folder / "photos")
    names = yaml.safe_load((ROOT / "datasets" / "coco8.yaml").read_text())["names"]
    data = {"train": "images/train", "val": "images/val", "names": names}
    (folder / "mydata" / "data.yaml").write_text(yaml.safe_dump(data))


def exported(coco8: Path, folder: Path) -> None:
    """`export/` as an annotation tool leaves it, in COCO's format, and `photos/`."""
    images(coco8, folder)
    names = yaml.safe_load((folder / "mydata" / "data.yaml").read_text())["names"]
    listed, annotated = [], []
    for image in sorted((folder / "mydata" / "images").rglob("*.jpg")):
        height, width = cv2.imread(str(image)).shape[:2]  # type: ignore[union-attr]
        target = folder / "export" / image.parent.name / image.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, target)
        number = len(listed) + 1
        listed.append({"id": number, "file_name": image.name, "width": width, "height": height})
        labels = image.parents[2] / "labels" / image.parent.name / f"{image.stem}.txt"
        for kind, x, y, w, h in (line.split() for line in labels.read_text().splitlines()):
            box = np.array([float(x) - float(w) / 2, float(y) - float(h) / 2, float(w), float(h)])
            annotated.append(
                {
                    "id": len(annotated) + 1,
                    "image_id": number,
                    "category_id": int(kind),
                    "iscrowd": 0,
                    "bbox": (box * [width, height, width, height]).tolist(),
                }
            )
    categories = [{"id": number, "name": each} for number, each in enumerate(names.values())]
    for split in ("train", "val"):
        own = [each for each in listed if (folder / "export" / split / str(each["file_name"])).exists()]
        ids = {each["id"] for each in own}
        content = {"images": own, "categories": categories,
                   "annotations": [each for each in annotated if each["image_id"] in ids]}  # fmt: skip
        (folder / "export" / split / "_annotations.coco.json").write_text(json.dumps(content))
    shutil.rmtree(folder / "mydata")


def curves(coco8: Path, folder: Path) -> None:
    """`runs/plain_silu-s0` and a profile, for an imposed gradient."""
    assert train.main(["--ablation", "plain_silu", *QUICK, "run.dir=runs/plain_silu-s0"]) == 0
    layers = layers_in(RunDir("runs/plain_silu-s0").read_history(), "activation_grad/")
    (folder / "mine.json").write_text(json.dumps(dict.fromkeys(layers, 0.5)))


PREPARED: dict[str, Callable[[Path, Path], None]] = {
    "docs/check.md": images,
    "docs/predict_export.md": images,
    "docs/own_data.md": exported,
    "docs/why.md": curves,
}


@pytest.mark.slow
@pytest.mark.usefixtures("forked_cells")
@pytest.mark.parametrize("page", sorted({block.page for block in RUN}))
def test_the_blocks_of_a_page_run_one_after_the_other(
    page: str, trained: Path, coco8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ("configs", "ablations", "datasets"):
        (tmp_path / each).symlink_to(ROOT / each)
    shutil.copytree(trained, tmp_path / "runs")
    shutil.copytree(trained, tmp_path / "runs" / "factorial") if page == "docs/ablations.md" else None
    shutil.copytree(trained / "baseline-s0-20260101-120000", tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("DETECTOR_DATASETS", str(coco8))
    if page in PREPARED:
        PREPARED[page](coco8, tmp_path)
    for block in (block for block in RUN if block.page == page):
        docs_blocks.run(block)
