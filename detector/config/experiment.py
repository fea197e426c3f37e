"""Which keys make a run the experiment that it is: what suites, the comparison and stored evidence go by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detector.config.schema import Config
from detector.config.section import NotTheExperiment

WATCHED = "watch.model"  # a key that only the configuration of a watched training loop has


def markers() -> dict[str, NotTheExperiment | None]:
    """Of every key, such as `train.lr`, why it is not the experiment; None where it is."""
    found: dict[str, NotTheExperiment | None] = {}
    for section, outer in Config.model_fields.items():
        for key, field in type(outer.default).model_fields.items():
            marks = [mark for mark in field.metadata if isinstance(mark, NotTheExperiment)]
            found[f"{section}.{key}"] = marks[0] if marks else None
    return found


def flat(config: Config) -> dict[str, Any]:
    """Every key, such as `train.lr`, with its value in the types of YAML."""
    dumped = config.model_dump(mode="json")
    return {f"{section}.{key}": value for section, keys in dumped.items() for key, value in keys.items()}


def experiment(config: Config | Mapping[str, Any], *but: NotTheExperiment) -> dict[str, Any]:
    """The keys that make a run the experiment that it is, such as `train.lr`, with their values.

    Args:
        config: of the run. Where another version of this schema may have written it, in the form of `flat`:
            a key that it did not have yet has its default, and one that is not known here counts. Of another
            training loop (see `detector.watch`) only what it said of itself is known: no default holds there.
        but: kinds of marked keys that count all the same.
    """
    if isinstance(config, Config):
        values = flat(config)
    else:
        values = ({} if WATCHED in config else flat(Config())) | dict(config)
    return {k: v for k, v in values.items() if (mark := MARKERS.get(k)) is None or mark in but}


def edited(then: Mapping[str, Mapping[str, Any]], now: Config) -> list[str]:
    """In what a run's configuration is not what its checkpoint remembers, one line a key.

    Where and how it is computed and watched may change on the way, and where the data is, whose content is
    compared by itself. How often it is measured may not: its history would have two rhythms.

    Args:
        then: the sections as a checkpoint holds them; a key that it did not have yet is not compared.
        now: of the run that goes on.
    """
    there = {f"{section}.{key}": value for section, keys in then.items() for key, value in keys.items()}
    here = experiment(now, NotTheExperiment.MEASUREMENT) | {"train.seed": now.train.seed}
    changed = [key for key, value in here.items() if key in there and there[key] != value]
    return [f"{key} was {there[key]}, and is {here[key]}" for key in changed]


MARKERS = markers()
