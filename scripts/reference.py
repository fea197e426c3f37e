"""The reference pages of the documentation, made from the code, so that they cannot go stale.

`mkdocs_hook.py` puts them into the site; `python -m scripts.reference configuration` prints one.
"""

from __future__ import annotations

import ast
import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any, get_args
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SUMMARY = {
    "ablation": "the run's name: the ablation's, or `baseline`",
    "seed": "`train.seed`",
    "dataset": "what it was trained on; `shapes` where COCO8 could not be had",
    "status": "`finished`, `stopped` by Ctrl-C, or `diverged`",
    "steps, epochs, seconds": "taken by all of the run together, also where it was resumed",
    "steps_skipped": "left out because they were not finite (`train.on_nonfinite=skip`)",
    "processes, threads, cpu, cpus, device, platform": "what it was computed on",
    "parameters": "of the network",
    "data_fingerprint, pixel_fingerprint": "of the labels and of the images: equal data have equal ones",
    "data/repaired, data/skipped, data/warnings, data/notes": "what was found in the labels, counted",
    "precision": "fp32, bf16 or fp16, also where `auto` was asked for",
    "plugins": "files that were named by `--plugin`, and the digest of each",
    "versions, commit, dirty, code, command": "what made it: dirty is with changes that were not committed, "
    "code a digest of all of the package's",
    "gradient/worst_blocks, gradient/decades_lost": "the stretch of blocks that loses the most, and how much",
    "gradient/worst_operation, gradient/worst_operation_decades_lost": "the operation that loses the most",
    "gradient/other_operations_decades_lost": "what all others lose, or gain where it is negative",
    "gradient/identity_share": "how much of the gradient comes through the shortcuts there",
    "gradient/cause": "what the measured controls allow to say of a gradient that is not healthy",
    "control/": "the controls: the baseline, and the baseline with a frozen trunk, with n",
    "remedy/, cure/": "the change to try first, and what was measured of it, with n",
    "theory/factor, theory/measured_factor, theory/difference": "a layer's backward factor: expected, "
    "measured at initialisation, and by how much they differ",
}


def api() -> str:
    """A section a public name, for mkdocstrings to fill."""
    import detector

    parts = [
        "# Python\n\n`from detector import …`, one of these: each is imported when it is first used, so "
        "that `import detector` is instant. All else may change from one version to the next.\n"
    ]
    for name in sorted(detector.__all__, key=str.lower):
        thing = getattr(detector, name)
        if not isinstance(thing, type | FunctionType):
            thing = type(thing)  # `register` is an object
        path = f"{thing.__module__}.{thing.__qualname__}"
        parts.append(f"::: {path}\n    options: {{heading: {name}, toc_label: {name}}}\n")
    return "\n".join(parts)


def commands() -> str:
    """What --help says, of each command, and the exit codes."""
    from detector.cli import COMMANDS, main

    text = ["# Commands\n\n`detector COMMAND` is also `python -m detector COMMAND`, and `detector train` is "
            "`python train.py`.\n\n## Exit codes\n\n| code | means |\n|--:|---|\n| 0 | done |\n"
            "| 1 | done, and a problem found that the command is there to find |"]  # fmt: skip
    for module in ("detector.runtime.process", "detector.runtime.interrupts"):
        text += [f"| {value} | {comment} |" for value, comment, _ in constants(module, "EXIT_")]
    text.append("")
    for name in COMMANDS:
        shown = io.StringIO()
        with redirect_stdout(shown), patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1"}):
            main([name, "--help"])
        text.append(f"## `detector {name}`\n\n```text\n{shown.getvalue().rstrip()}\n```\n")
    return "\n".join(text)


def constants(module: str, prefix: str = "", inside: str = "") -> Iterator[tuple[Any, str, str]]:
    """Of each constant of a module or class its value, the comment behind it, and that in the lines above.

    `A, B = …` gives two.
    """
    loaded = import_module(module)
    holder = getattr(loaded, inside) if inside else loaded
    source = Path(str(loaded.__file__)).read_text(encoding="utf-8")
    lines, body = source.splitlines(), ast.parse(source).body
    if inside:
        (body,) = (node.body for node in body if isinstance(node, ast.ClassDef) and node.name == inside)
    for node in body:
        if not isinstance(node, ast.Assign):
            continue
        behind = lines[int(node.end_lineno or 1) - 1][node.end_col_offset :]
        above, at = [], node.lineno - 2
        while lines[at].strip().startswith("#"):
            above.insert(0, lines[at].strip().lstrip("# "))
            at -= 1
        for name in (each for target in node.targets for each in ast.walk(target)):
            if isinstance(name, ast.Name) and name.id.startswith(prefix):
                yield getattr(holder, name.id), behind.partition("#")[2].strip(), " ".join(above)


def keys() -> str:
    """The vocabulary of history.jsonl and summary.json."""
    text = ["# History and summary\n\nThe keys of a row of `history.jsonl`, which are those on W&B, and of "
            "`summary.json`. A key that ends in `/` has a layer's name behind it, such as "
            "`activation_grad/07_p3.2`; one that begins with `_` stands behind another.\n\n"
            "| key | is |\n|---|---|"]  # fmt: skip
    last = ""
    for value, comment, above in constants("detector.rows", inside="Key"):
        if isinstance(value, str):
            if above and above != last:
                text.append(f"| | *{above}* |")
            text.append(f"| `{value}` | {comment} |")
            last = above
    text.append("\n## Only in `summary.json`\n\n| key | is |\n|---|---|")
    for names, meaning in SUMMARY.items():
        text.append(f"| {', '.join(f'`{name}`' for name in names.split(', '))} | {meaning} |")
    return "\n".join(text) + "\n"


def configuration() -> str:
    """Every key: its values, its default, and what configs/coco8.yaml says of it."""
    from detector.config.schema import Config
    from detector.config.section import NotTheExperiment

    meanings = comments(ROOT / "configs" / "coco8.yaml")
    text = [
        "# Configuration\n\nAn experiment is one YAML file with these sections; `base:` names the file it "
        "builds on, and `section.key=value` on the command line wins over all. "
        "[`configs/coco8.yaml`](../../configs/coco8.yaml) has them all. A key marked † does not make a run "
        f"another experiment: {'; '.join(kind.value for kind in NotTheExperiment)}.\n"
    ]  # fmt: skip
    for section, field in Config.model_fields.items():
        model: Any = field.annotation
        summary = str(model.__doc__).split("\n\n")[0].replace("\n    ", " ")
        text += [f"## `{section}`\n\n{summary}\n", "| key | values | default | is |", "|---|---|---|---|"]
        schema = model.model_json_schema()
        for key, own in model.model_fields.items():
            mark = " †" if any(isinstance(m, NotTheExperiment) for m in markers(own)) else ""
            cells = values(schema["properties"][key]), shown(own.default), meanings[f"{section}.{key}"]
            text.append(f"| `{key}`{mark} | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        text.append("")
    return "\n".join(text)


def markers(field: Any) -> tuple[Any, ...]:
    """What is attached to a field's type."""
    return (*field.metadata, *get_args(field.annotation))


def values(schema: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(values(part) for part in schema["anyOf"]))
    if "description" in schema:
        return str(schema["description"])
    if "enum" in schema or "const" in schema:
        return " ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "")
    if kind == "boolean":
        return "`true` `false`"
    if kind == "null":
        return "`null`"
    if kind == "array":
        inner = schema.get("prefixItems") or [schema["items"]]
        count = f"{len(inner)} of: " if "prefixItems" in schema else "a list of: "
        return count + values(inner[0])
    if kind not in ("integer", "number"):
        raise ValueError(f"no words for {schema}")
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[name]:,}" for name, sign in signs.items() if name in schema]
    if "multipleOf" in schema:
        bounds.append(f"a multiple of {schema['multipleOf']}")
    return ", ".join([kind, *bounds])


def shown(default: Any) -> str:
    """A default as YAML writes it."""
    if default is None or isinstance(default, bool):
        return f"`{'null' if default is None else str(default).lower()}`"
    return f"`{list(default)}`" if isinstance(default, tuple) else f"`{default}`"


def comments(file: Path) -> dict[str, str]:
    """The comment of each `section.key` of a YAML file; lines that go on stand to the right of the keys."""
    found: dict[str, str] = {}
    section = key = above = ""
    for line in file.read_text(encoding="utf-8").splitlines():
        code, _, comment = line.partition("#")
        if line.startswith("#") or not line.strip():
            continue
        if not code.strip():  # goes on, or stands above the next key
            if len(code) > 4:
                found[key] += f" {comment.strip()}"
            else:
                above = f"{comment.strip()} "
        elif not code.startswith(" "):
            section = code.split(":")[0]
        else:
            key = f"{section}.{code.strip().split(':')[0]}"
            found[key], above = above + comment.strip(), ""
    return found


PAGES = {"api": api, "commands": commands, "configuration": configuration, "keys": keys}

if __name__ == "__main__":
    print(PAGES[sys.argv[1]]())
