"""The exceptions whose message is all a person needs, and how text of strangers is put into messages."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_KEPT = 1000  # characters at both ends of a line: what is wrong, and the fix


class UserError(Exception):
    """A mistake in a file, a key or an argument.

    The message names the file, line or key, and the fix, in one or two lines.
    The command lines print it on stderr and exit with code 2.
    """


class InterruptedRunError(Exception):
    """Something outside the run ended it: a full disk, a lost process. It can be resumed once that is fixed.

    The message is one or two lines, as a UserError's. train.py exits with code 4.
    """


def say(text: str) -> None:
    """Print a line on stderr. Where that is a closed terminal or a pipe that nobody reads, nobody is told."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def escape_control(text: str) -> str:
    r"""Text on one line, with control characters as `\x1b`: a stranger's name cannot move the cursor.

    So are halves of characters, which undecodable file names have and no terminal takes, and what turns
    the direction of writing around.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def has_control(text: str) -> bool:
    """Whether `escape_control` would change the text."""
    return _CONTROL.search(text) is not None


def shorten(text: str, most: int = 60) -> str:
    """What a stranger wrote, fit for a message: on one line, without control characters, not endless."""
    return escape_control(text if len(text) <= most else f"{text[: most - 1]}…")


def for_spreadsheet(text: str) -> str:
    """A name for a CSV file: after an apostrophe where a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def display_path(path: str | os.PathLike[str]) -> str:
    """A path as a user would write it: without `..`, relative where it lies below the working directory."""
    text = os.path.normpath(path)
    with suppress(OSError, ValueError):  # there may be no working directory any more
        if os.path.isabs(text) and os.path.commonpath([text, os.getcwd()]) == os.getcwd():
            text = os.path.relpath(text)
    return escape_control(text)


def describe_error(error: BaseException) -> str:
    """An error on one line, short enough to read in a log."""
    text = shorten(" ".join(str(error).split()), 200)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def for_terminal(message: object) -> str:
    """A message as it is printed: its lines spelt out, and none of them endless."""
    lines = (escape_control(line) for line in str(message).split("\n"))
    return "\n".join(
        line if len(line) <= 2 * _KEPT else f"{line[:_KEPT]} … {line[-_KEPT:]}" for line in lines
    )
