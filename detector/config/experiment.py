"""Which keys make a run the experiment that it is: what suites, the comparison and stored evidence go by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detector.config.schema import Config
from detector.config.section import NotTheExperiment


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
            a key that it did not have yet has its default, and one that is not known here counts.
        but: kinds of marked keys that count all the same.
    """
    values = flat(config) if isinstance(config, Config) else flat(Config()) | dict(config)
    return {k: v for k, v in values.items() if (mark := MARKERS.get(k)) is None or mark in but}


MARKERS = markers()
