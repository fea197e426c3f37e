"""The exceptions whose message is all a person needs: it is printed without a traceback."""

from __future__ import annotations

import re
import sys
from contextlib import suppress

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_KEPT = 1000  # characters at both ends of a line: what is wrong, and the fix


class UserError(Exception):
    """A mistake in a file, a key or an argument.

    The message names the file, line or key, and the fix, in one or two lines.
    The command lines print it on stderr and exit with code 2.
    """


class InterruptedRunError(Exception):
    """Something outside the run ended it: a full disk, a lost process. It can go on once that is mended.

    The message is one or two lines, as a UserError's. train.py exits with code 4.
    """


def say(text: str) -> None:
    """Print a line on stderr. Where that is a closed terminal or a pipe that nobody reads, nobody is told."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def spelt_out(text: str) -> str:
    r"""Text on one line, with control characters as `\x1b`: a stranger's name cannot move the cursor.

    Halves of characters, which undecodable file names have, are spelt out too: no terminal takes them.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def has_control(text: str) -> bool:
    """Whether `spelt_out` would change the text."""
    return _CONTROL.search(text) is not None


def for_terminal(message: object) -> str:
    """A message as it is printed: its lines spelt out, and none of them endless."""
    lines = (spelt_out(line) for line in str(message).split("\n"))
    return "\n".join(
        line if len(line) <= 2 * _KEPT else f"{line[:_KEPT]} … {line[-_KEPT:]}" for line in lines
    )
