"""`detector <command>`: a command line made of typed functions, which are at the same time the Python API.

Each tool has a public function, `detector.tools.NAME.command.NAME`: its signature is the command line, its
docstring the help, and from Python it is called as any other function, for its result. On the command line
the exit code follows from what comes out of it:

    an int                        the exit code itself
    a result with `exit_code`     that: such a result knows what it means to a script, as 1 for problems found
    any other result, or None     0
    UserError, or a bad argument  2, after `error: …` on stderr (this and the next: `main_process`)
    KeyboardInterrupt             130
    BrokenPipeError               0: the reader, such as `head`, has seen enough

Functions are imported late, so that --help answers at once; those of a tool import heavy things when called.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from inspect import getdoc, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector import __version__
from detector.errors import UserError
from detector.runtime import streams
from detector.runtime.allocator import collect_less_often, leave_garbage
from detector.runtime.files import PROJECT
from detector.runtime.interrupts import expect_no_more, handle_interrupts
from detector.runtime.process import main_process

if TYPE_CHECKING:
    from cyclopts import App

Function = Callable[..., Any]

COMMANDS = (
    "train", "info", "check", "convert", "ablate", "compare", "val", "predict", "export", "theory", "replay",
    "reproduce", "dashboard", "report", "why", "doctor", "init",
)  # fmt: skip
_MODULES = {"ablate": "suites.command", "report": "compare.report"}  # the others': NAME.command


def main(argv: Sequence[str] | None = None) -> int:
    """The command `detector`; return the exit code. `argv`: as in `run`."""
    if argv is None:
        handle_interrupts()
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] in COMMANDS:
        app = _app(f"detector {arguments[0]}", _function(arguments[0]))
        return _start(app, arguments[1:], whole_process=argv is None)
    app = _app("detector")
    for place, command in enumerate(COMMANDS):
        app.command(_typed(_function(command)), name=command, sort_key=place)
    return _start(app, arguments, whole_process=argv is None)


def run(function: Function, argv: Sequence[str] | None = None, name: str | None = None) -> int:
    """Call a typed function as a command line says; return the exit code.

    Args:
        function: positional-only parameters become arguments, keyword-only ones options `--like-this`.
        argv: the arguments. None takes this process's, and looks after its stdout and stderr to the end.
        name: of the program, for help and errors; None takes the file's.
    """
    if argv is None:
        handle_interrupts()
    app = _app(name or Path(sys.argv[0]).name, function)
    return _start(app, sys.argv[1:] if argv is None else argv, whole_process=argv is None)


def _function(command: str) -> Function:
    """The function of a command: a tool's, usually in the folder of its name, or train.py's."""
    module = f"detector.tools.{_MODULES.get(command, f'{command}.command')}"
    if command == "train":
        module = "train"
        sys.path.insert(0, str(PROJECT))
    function: Function = getattr(import_module(module), command)
    return function


def _app(name: str, function: Function | None = None) -> App:
    """As argparse had it: no --no-FLAG beside each --FLAG, and of an option given twice the last counts."""
    try:
        from cyclopts import App, Parameter
    except ModuleNotFoundError:
        print(
            f"error: the project is not installed for {sys.executable}; in a clone: make setup, then "
            "source .venv/bin/activate",
            file=sys.stderr,
        )
        raise SystemExit(2) from None

    app = App(
        name=name,
        version=f"detector {__version__}",
        help=_description(function) if function else "Train a detector, and see where its gradients die.",
        help_format="plaintext",
        group_parameters="Options",
        default_parameter=Parameter(negative=(), allow_repeating=True, show_default=_shown),
    )
    if function:
        app.default(_typed(function))
        app["--help"].group = app["--version"].group = "Options"
        kinds = signature(function).parameters.values()
        words = [p.name.upper() for p in kinds if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)]
        if any(p.kind is p.VAR_POSITIONAL for p in kinds):  # cyclopts calls them ARGS, in this line alone
            words[-1] = f"[{words[-1]}...]"
            app.usage = f"Usage: {name} [OPTIONS] {' '.join(words)}"
    return app


def _description(function: Function) -> str:
    """A function's docstring before its arguments, a line a paragraph: a terminal has its own width."""
    text = re.split(r"\n(?:Args|Returns|Raises):\n", getdoc(function) or "")[0]
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n")).strip()


def _shown(default: object) -> str | None:
    """A default that help mentions."""
    return None if default in (None, ()) or default is False else str(default)


def _typed(function: Function) -> Function:
    """The function for cyclopts, which need not know what it returns: that may be a type checker's import."""

    @wraps(function)
    def command(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    annotations = function.__annotations__
    command.__annotations__ = {name: kind for name, kind in annotations.items() if name != "return"}
    return command


def _start(app: App, argv: Sequence[str], *, whole_process: bool) -> int:
    """Parse and call; see `run`."""
    if whole_process:
        collect_less_often()
        streams.open_missing()
        streams.ignore_broken_backend()
    streams.accept_any_text()
    code = main_process(lambda: _call(app, argv))
    if whole_process:
        expect_no_more()
        streams.flush()
        leave_garbage()
    return code


def _call(app: App, argv: Sequence[str]) -> int:
    from cyclopts.exceptions import CycloptsError

    try:
        if not argv and app.default_command is None:
            raise UserError(f"which command? See {app.name[0]} --help")
        command, bound, _ = app.parse_args(_spelled_out(app, argv), exit_on_error=False, print_error=False)
        result = command(*bound.args, **bound.kwargs)
    except CycloptsError as error:
        raise UserError(f"{' '.join(str(error).split())}\nsee {app.name[0]} --help") from error
    except BrokenPipeError:  # nothing may be flushed to it at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else int(getattr(result, "exit_code", 0))


def _spelled_out(app: App, argv: Sequence[str]) -> list[str]:
    """The arguments as cyclopts takes them.

    Options are in full (`--image` is --image-size; but --seed, which one, is not --seeds, how many), `-` is
    tied to its option, and `--section.key=value`, as W&B sweeps write it, is section.key=value.
    """
    arguments = app.assemble_argument_collection() if app.default_command else []
    names = ["--help", "--version", *(name for argument in arguments for name in argument.names)]
    tokens: list[str] = []
    for index, token in enumerate(argv):
        option, equals, value = token.partition("=")
        meant = [name for name in names if name.startswith(option)]
        if token == "--":
            return [*tokens, *argv[index:]]
        if token == "-" and tokens and tokens[-1] in names:
            tokens[-1] += "=-"
        elif re.match(r"--\w+\.\w+=", token):
            tokens.append(token[2:])
        elif option.startswith("--") and option not in names and len(meant) == 1 and meant != [f"{option}s"]:
            tokens.append(meant[0] + equals + value)
        else:
            tokens.append(token)
    return tokens
