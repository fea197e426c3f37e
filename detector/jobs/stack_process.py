"""A stack's process: `python -m detector.jobs.stack_process PLUGINS RUN…`, as `StackedProcesses` calls it.

PLUGINS is a JSON list of files, each RUN one of its directory and the arguments that `train.py` would get.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from detector.runtime.interrupts import handle_interrupts
from detector.runtime.process import main_process


def main(arguments: Sequence[str]) -> int:
    """Train the runs together; return the exit code of `train_together`."""
    # Imported late, so that Ctrl-C meanwhile ends in one line.
    from detector.jobs.together import train_together
    from detector.registry import load_plugins

    plugins, *runs = map(json.loads, arguments)
    load_plugins([Path(file) for file in plugins])
    return train_together({Path(directory): call for directory, *call in runs})


if __name__ == "__main__":
    handle_interrupts()
    sys.exit(main_process(lambda: main(sys.argv[1:])))
