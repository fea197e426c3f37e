"""How many small mistakes in the code the tests notice: mutation testing of the parts that make the numbers.

python scripts/mutation.py                   # a random 6 % of all mutants, into scripts/mutation.json
python scripts/mutation.py --share 1 --only 'detector/gradients/*' --out /tmp/gradients.json

mutmut changes one operator, number, argument or text of a function at a time and runs the tests that reach
this function. It works on a copy in a temporary folder: nothing in the working tree is ever altered. PyTorch
is imported once, and each mutant is tried in a fork of that process.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTICED = {"killed", "timeout", "segfault"}  # the tests failed, never ended, or the process died


def copy_of_tree(target: Path) -> None:
    """Copy every file that git knows of, as it is in the working tree."""
    for name in git("ls-files", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def git(*arguments: str) -> str:
    """What a git command prints, stripped."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def narrow(only: str) -> None:
    """Leave in the copy's settings only the files to mutate that match, and the tests of their packages."""
    from mutmut.configuration import config, reset_config
    from mutmut.utils.file_utils import walk_mutatable_files

    files = [str(path) for path in sorted(walk_mutatable_files()) if fnmatch.fnmatch(str(path), only)]
    if not files:
        raise SystemExit(f"no file to mutate matches {only}: {config().only_mutate}")
    packages = {Path(file).parts[1] for file in files}
    tests = [
        argument
        for argument in config().pytest_add_cli_args_test_selection
        if not argument.startswith("tests/") or "::" in argument or Path(argument).parts[1] in packages
    ]
    settings = Path("pyproject.toml")
    text = settings.read_text()
    for key, value in (("only_mutate", files), ("pytest_add_cli_args_test_selection", tests)):
        text = re.sub(rf"^{key} = \[.*?\]$", f"{key} = {json.dumps(value)}", text, flags=re.M | re.S)
    settings.write_text(text)
    reset_config()


def mutants_by_file() -> dict[str, list[str]]:
    """The names of all mutants of each file to mutate; the current folder is the copy."""
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.file_utils import walk_mutatable_files
    from mutmut.utils.format_utils import get_mutant_name

    found = {}
    for path in sorted(walk_mutatable_files()):
        mutated = mutate_file_contents(str(path), path.read_text())
        found[str(path)] = [get_mutant_name(path, name) for name in mutated.mutant_names]
    return found


def outcomes(names: set[str]) -> dict[str, str]:
    """What became of each mutant: killed, timeout, segfault, survived, no tests or suspicious."""
    from mutmut.stats import status_by_exit_code

    results: dict[str, str] = {}
    for file in Path("mutants").rglob("*.py.meta"):
        codes = json.loads(file.read_text())["exit_code_by_key"]
        results |= {name: status_by_exit_code[code] for name, code in codes.items() if name in names}
    return results


def describe(name: str, file: str) -> dict[str, object]:
    """The line a mutant changes, what stood there and what it put there."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    body = get_diff_for_mutant(name, path=file).splitlines()[2:]
    hunk = body[0].split()[1]  # "-12,7": where the hunk begins, counted from the function's first line
    offset = next(i for i, line in enumerate(body[1:]) if line[:1] in "-+")
    old = [line[1:].strip() for line in body if line.startswith("-")]
    new = [line[1:].strip() for line in body if line.startswith("+")]
    context = [line[1:] for line in body[1:] if line[:1] in " -"]
    line = abs(int(hunk.split(",")[0])) + offset
    return {
        "file": file,
        "line": line_in_file(Path(file), context, offset) or line,
        "change": f"{' '.join(old)} -> {' '.join(new)}",
        "mutant": name.rpartition(".")[2],
    }


def line_in_file(path: Path, context: list[str], offset: int) -> int | None:
    """Where a hunk's lines stand in the file, counted from 1: a mutant's own lines are the function's."""
    wanted = [line.strip() for line in context]
    lines = [line.strip() for line in path.read_text().splitlines()]
    for start in range(len(lines) - len(wanted) + 1):
        if lines[start : start + len(wanted)] == wanted:
            return start + offset + 1
    return None


def run(only: str, share: float, seed: int, children: int) -> dict[str, object]:
    """Try a share of the mutants in the current folder, a copy; CalledProcessError if mutmut itself fails."""
    narrow(only)
    files = mutants_by_file()
    everything = [name for names in files.values() for name in names]
    chosen = set(random.Random(seed).sample(everything, round(share * len(everything))))
    print(f"{len(chosen)} of {len(everything)} mutants in {len(files)} files", flush=True)

    began = time.monotonic()
    command = [str(Path(sys.executable).parent / "mutmut"), "run", "--max-children", str(children)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with open("mutmut.log", "wb") as log:
        subprocess.run(
            [
                *command,
                *sorted(chosen),
            ],  # by name also when it is all of them: only their tests are run first
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )

    results = outcomes(chosen)
    if len(results) < len(chosen) or "not checked" in results.values():
        raise SystemExit("stopped before every mutant was tried: no score")
    counts = Counter(results.values())
    per_module = {}
    survivors = []
    for file, names in files.items():
        tried = sorted(chosen.intersection(names))
        missed = [name for name in tried if results[name] not in NOTICED]
        if tried:
            killed = len(tried) - len(missed)
            score = round(killed / len(tried), 4)
            per_module[file] = {"mutants": len(tried), "killed": killed, "score": score}
        survivors += [describe(name, file) | {"status": results[name]} for name in missed]
    noticed = sum(counts[status] for status in NOTICED)
    return {
        "tool": "mutmut",
        "version": version("mutmut"),
        "mutants": len(chosen),
        "killed": noticed - counts["timeout"],
        "timeouts": counts["timeout"],
        "survived": len(chosen) - noticed,
        "untested": counts["no tests"],  # of the survived: no fast test reaches their function
        "score": round(noticed / len(chosen), 4),
        "sample": None if share == 1 else {"share": share, "seed": seed, "of": len(everything)},
        "minutes": round((time.monotonic() - began) / 60, 1),
        "per_module": per_module,
        "survivors": survivors,
    }


def main() -> None:
    """Copy, mutate, test, write the result and print one line of it."""
    parser = argparse.ArgumentParser(description="Mutation testing.")
    parser.add_argument("--share", type=float, default=0.06, help="how many to draw (default: 0.06 of all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--only", default="*", metavar="GLOB", help="of the files that pyproject.toml names")
    parser.add_argument("--children", type=int, default=os.cpu_count(), help="processes (default: all cores)")
    parser.add_argument("--out", type=Path, default=ROOT / "scripts" / "mutation.json")
    chosen = parser.parse_args()
    out = chosen.out.resolve()
    state = {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy_of_tree(Path(folder))
        os.chdir(folder)
        try:
            result = run(chosen.only, chosen.share, chosen.seed, chosen.children)
        except subprocess.CalledProcessError:
            raise SystemExit(Path("mutmut.log").read_text(errors="replace")[-4000:]) from None
        finally:
            os.chdir(ROOT)
    out.write_text(json.dumps(result | state, indent=1, ensure_ascii=False) + "\n")
    print(f"{result['score']:.1%} of {result['mutants']} mutants noticed, {result['minutes']} min: {out}")


if __name__ == "__main__":
    main()
