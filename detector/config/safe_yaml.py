"""YAML from a stranger: read with bounds, without surprises, and with the line of every key.

Differences from `yaml.safe_load`, each of which has cost somebody an afternoon:
a key given twice is an error (PyYAML keeps the last), `1e-3` is a number (PyYAML reads text),
`010` and `1:30` are text (PyYAML reads 8 and 90), dates stay text, tags such as `!!set` are refused,
and so are aliases, with which a short file could expand to gigabytes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer

from detector.errors import UserError, shorten

MAX_BYTES = 1_000_000

_NUMBERS = (
    ("tag:yaml.org,2002:int", r"[-+]?(?:0|[1-9][0-9]*)$"),
    ("tag:yaml.org,2002:float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$"),
    ("tag:yaml.org,2002:float", r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
)


class _Strict(Composer):
    """Composes what a parser reads without aliases, tags and duplicate keys."""

    peek_event: Any  # the parser's
    check_event: Any

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if self.check_event(yaml.AliasEvent):
            problem = f"aliases are not supported; write the value of *{event.anchor} out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        if getattr(event, "tag", None) is not None:  # !!python/object, but also !!set and !!timestamp
            problem = f"tags are not supported; leave {event.tag.replace('tag:yaml.org,2002:', '!!')} out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> Any:
        mapping = super().compose_mapping_node(anchor)
        first_line: dict[str, int] = {}
        for key, _ in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a single word", problem_mark=key.start_mark)
            if key.value in first_line:
                problem = f"{shorten(key.value)}: given twice; the first is in line {first_line[key.value]}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            first_line[key.value] = key.start_mark.line + 1
        return mapping


class _Loader(_Strict, yaml.SafeLoader):
    """SafeLoader without these, and without YAML 1.1's exotic numbers."""


_Parser: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class _FastLoader(_Strict, _Parser):  # type: ignore[misc]
    """The same on libyaml's parser, which takes a fifth of the time, but whose messages help less."""

    def __init__(self, text: str) -> None:
        _Parser.__init__(self, text)
        Composer.__init__(self)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes whatever `_Loader` would not read back as text; tuples stay on one line."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag.endswith((":bool", ":null"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FastLoader.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers
for _tag, _regexp in _NUMBERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(_regexp), list("-+.0123456789"))
_Dumper.add_representer(
    tuple, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)


@dataclass(frozen=True)
class Value:
    """What a document says in one place. A mapping is a dict whose values are Values again."""

    value: Any
    where: str  # "file:line", for messages
    typed: str | None = None  # an unquoted scalar as it was typed: `off` where the value is False

    def plain(self) -> Any:
        """The value without its places: dicts, lists, text and numbers."""
        return _plain(self.value)

    def __str__(self) -> str:
        return shorten(self.typed or ("nothing" if self.value is None else repr(_plain(self.value))))


def _plain(value: Any) -> Any:
    return {key: _plain(item.value) for key, item in value.items()} if isinstance(value, dict) else value


def parse(text: str, source: str, *, numbered: bool = True) -> Value:
    """The document in `text`; an empty one has the value None.

    `source` names it in messages, followed by the line if `numbered`. Raises UserError.
    """

    def where(line: int) -> str:
        return f"{source}:{line + 1}" if numbered else source

    def build(node: yaml.Node, line: int) -> Value:
        if isinstance(node, yaml.MappingNode):
            items = {key.value: build(item, key.start_mark.line) for key, item in node.value}
            return Value(items, where(line))
        typed = node.value if isinstance(node, yaml.ScalarNode) and not node.style else None
        try:
            return Value(loader.construct_object(node, deep=True), where(line), typed)
        except ValueError as error:  # a number of 5,000 digits
            raise UserError(f"{where(line)}: not a value that can be read: {node.value!r:.60}") from error

    try:
        try:
            loader: Any = _FastLoader(text)
            node = loader.get_single_node()
        except (yaml.YAMLError, UnicodeEncodeError):  # no UTF-8: a folder's name from the command line
            loader = _Loader(text)
            node = loader.get_single_node()
        return build(node, node.start_mark.line) if node else Value(None, where(0))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line if error.problem_mark else 0
        problem = (error.problem or "not valid YAML").replace("'\\t'", "tab (indent with spaces)")
        if problem.startswith("but"):  # the second half of a sentence: "expected …, but found …"
            problem = f"{error.context} {problem}"
        raise UserError(f"{where(line)}: {problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        raise UserError(f"{where(line)}: unprintable character U+{error.character:04X}") from error
    except RecursionError as error:
        raise UserError(f"{source}: nested too deeply to be a configuration") from error


def read(path: Path, source: str) -> Value:
    """The document in a file of at most 1 MB of UTF-8. Raises UserError."""
    try:
        if path.is_dir():
            raise UserError(f"{source}: is a folder; name a YAML file")
        if not path.is_file():  # a pipe or a device may never end
            raise UserError(f"{source}: no such file, or not a regular one")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise UserError(f"{source}: larger than {MAX_BYTES // 1000} kB; is this a YAML file?")
        return parse(raw.decode("utf-8-sig"), source)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{source}:{line}: not UTF-8 text; is this a YAML file?") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UserError(f"{source}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def dump(value: Any) -> str:
    """YAML that `parse` reads back to the same value, with keys in their given order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def written(value: object) -> str:
    """A value as it is typed after `section.key=`: plain where YAML reads that back, else as JSON."""
    if isinstance(value, str):
        try:
            if parse(value, "").value == value and "#" not in value:
                return value
        except UserError:
            pass
    return json.dumps(value, ensure_ascii=False)
