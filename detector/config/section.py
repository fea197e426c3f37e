"""What a section of the configuration is made of: a strict model, kinds of values, markers, broken rules."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

Positive = Annotated[int, Field(gt=0, le=10**9)]  # no float loses a digit of it
Fraction = Annotated[float, Field(ge=0, le=1)]
# A pattern's description is what an error says the value must be.
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", description="one line of text")]
Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f/\\]{1,100}$", description="text without slashes")]

Checks = tuple[Callable[[Any], None], ...]


class NotTheExperiment(Enum):
    """Marks a key whose value does not make a run another experiment; every unmarked key does.

    It stands on the field, so that everything that compares runs (suites, the comparison, the stored
    evidence) has one answer: see `experiment`.
    """

    RUNTIME = "where and how it is computed, watched and kept: no result changes but for rounding"
    MEASUREMENT = "what is recorded of it, and how often"
    COMPARED_OTHERWISE = "the seed by pairing runs, the data by the fingerprint of its content"


RUNTIME, MEASUREMENT, COMPARED_OTHERWISE = NotTheExperiment


def broken_rule(key: str, problem: str) -> PydanticCustomError:
    """A rule between several keys is broken; `key` is the one to blame, so that its line can be named."""
    return PydanticCustomError("broken_rule", "{key}: {problem}", {"key": key, "problem": problem})


class Section(BaseModel):
    """Strict and immutable: a typo fails at once, and no code can change what the user wrote."""

    checks: ClassVar[Checks] = ()  # of values that are right by themselves: see `detector.config.rules`

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _lists_are_tuples(cls, value: Any) -> Any:
        # YAML and JSON know only lists; everything else about a value stays strict (no "4" for 4).
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _checked(self) -> Self:
        for check in self.checks:
            check(self)
        return self
