"""One run of several: what it changes in a configuration, and how `train.py` is called for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detector.config.loading import Layer, merge, read_chain
from detector.config.safe_yaml import written
from detector.config.schema import Config


@dataclass(frozen=True)
class Cell:
    """One run: an ablation with a seed."""

    ablation: str
    seed: int
    base: Path
    overrides: tuple[str, ...]  # section.key=value on top of `base`; all but where and with how many threads
    config: Config  # what they come to

    @property
    def name(self) -> str:
        """The name of its directory."""
        return f"{self.ablation}-s{self.seed}"

    def arguments(self, directory: Path, threads: int) -> list[str]:
        """What `train.py` is called with. A thread count in the suite or on the command line wins."""
        if self.config.train.threads is not None:
            threads = self.config.train.threads
        own = (f"run.dir={written(str(directory))}", f"train.threads={threads}")
        return ["--config", str(self.base), *self.overrides, *own]

    @property
    def work(self) -> float:
        """How long it takes compared with other cells of its suite, roughly: for the time left."""
        data, model, train = self.config.data, self.config.model, self.config.train
        convolutions = 5 + 2 * sum(model.depths) + 20  # the last: neck and head, in trunk convolutions
        length = train.steps or train.epochs or 1
        return float(convolutions * length * train.batch * train.accumulate * data.image_size**2)


def changes_of(ablation: Path) -> Layer | None:
    """What a file changes in the root of its `base:` chain, its `run` section aside; None without a base."""
    chain = read_chain(ablation)
    if len(chain) == 1:
        return None
    layer = merge(layer for _, layer in chain[1:])
    return {key: value for key, value in layer.items() if not key.startswith("run.")}
