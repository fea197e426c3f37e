"""The words of a configuration's errors: what a key takes, and the nearest that is known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from detector.config.names import UNSUITABLE
from detector.config.safe_yaml import Value
from detector.config.schema import Config
from detector.config.section import Section
from detector.config.ultralytics_names import SAME, SIMILAR
from detector.errors import shorten

COMMAND_LINE = "command line"

SECTIONS: dict[str, type[Section]] = {
    name: type(field.default)
    for name, field in Config.model_fields.items()
    if isinstance(field.default, Section)
}
KEYS = tuple(f"{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields)

OWNER = {key.partition(".")[2]: key for key in KEYS}  # "shortcut" -> "model.shortcut"


def wrong_value(dotted: str, setting: Value) -> str:
    """The message for a value that its key does not take: what it takes, and the nearest."""
    section, _, key = dotted.partition(".")
    schema = SECTIONS[section].model_json_schema()["properties"][key]
    choices = schema.get("enum", [])
    problem = f"must be {_allowed(schema)}, not {setting}"
    if dotted == "train.optimizer" and (why := UNSUITABLE.get(str(setting.value))):
        return (
            f"{setting.value} is in torch.optim, but cannot train here: {why}; choose another such as AdamW"
        )
    if isinstance(setting.value, bool) and setting.typed and setting.typed.lower() not in ("true", "false"):
        problem += f", which YAML reads as {str(setting.value).lower()}"
        if schema.get("anyOf", [schema])[0].get("type") == "string":
            problem += " (put quotes around text)"
    if setting.value in (None, False) and "none" in choices:
        match: str | None = "none"
    else:
        match = near(str(setting.value), choices)
    if match:
        problem += f"; did you mean {match}?"
    kind = schema.get("items", schema).get("kind")
    if kind and not isinstance(setting.value, bool | int | float | None):
        problem += f" (a plugin's {kind} needs --plugin FILE.py)"
    return problem


def _allowed(schema: dict[str, Any]) -> str:
    """A field's JSON schema in words: "a number above 0, or null"."""
    if "anyOf" in schema:  # every optional field is [type, null]
        return f"{_allowed(schema['anyOf'][0])}, or null"
    if "kind" in schema:
        return str(schema["description"])
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if schema["type"] == "array":
        items = schema.get("prefixItems") or [schema["items"]]
        count = f"{len(items)} values" if "prefixItems" in schema else "values"
        return f"a list of {count}, each {_allowed(items[0])}"
    if schema["type"] == "boolean":
        return "true or false"
    if "description" in schema:
        return str(schema["description"])
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
        "multipleOf": "a multiple of",
    }
    limits = [f"{word} {schema[key]}" for key, word in words.items() if key in schema]
    kind = {"integer": "a whole number", "number": "a number", "string": "text"}[schema["type"]]
    return " ".join([kind, " and ".join([*filter(None, [", ".join(limits[:-1])]), *limits[-1:]])]).strip()


def unknown(key: str, where: str) -> str:
    """The message for a key or section that does not exist, with the nearest that does."""
    section, _, last = key.rpartition(".")
    if key in KEYS:
        return f"{where}: {key}: in a file, write it as {section}: {{{last}: …}}"
    if key in SECTIONS:
        hint = f"; {SIMILAR[key]}" if key in SIMILAR else ""
        return f"{where}: {key}: is a section; write {key}.KEY=value{hint}"
    if section in SECTIONS:
        siblings = {known: f"{section}.{known}" for known in SECTIONS[section].model_fields}
    else:
        siblings = {known: known for known in SECTIONS}
    if not section and key in SIMILAR:
        return f"{where}: {key}: unknown {'key' if where == COMMAND_LINE else 'section'}; {SIMILAR[key]}"
    match = OWNER.get(last) or SAME.get(last)  # the right key in the wrong section, or without one
    for table in (siblings, OWNER):
        alike = near(last, table)
        match = match or (table[alike] if alike else None)
    kind = "key" if section or where == COMMAND_LINE else "section"
    key = shorten(key)
    advice = f"did you mean {match}?" if match else f"the known ones are {', '.join(siblings.values())}"
    return f"{where}: {key}: unknown {kind}; {advice}"


def near(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word that is most like this one; None if none is so much like it (1: the same)."""
    by_lower = {name.lower(): name for name in reversed(list(known))}  # of two alike, the first
    found = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None
