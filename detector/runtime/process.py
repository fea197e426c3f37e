"""How a training process begins and ends: exit codes, one-line errors, and restarts by torchrun."""

from __future__ import annotations

from collections.abc import Callable

from detector.errors import InterruptedRunError, UserError, for_terminal, say
from detector.runtime.interrupts import EXIT_INTERRUPTED
from detector.runtime.launch import Launch, LostContactError

EXIT_LOST_CONTACT = 1  # a process of a distributed run lost the others
EXIT_USER_ERROR = 2  # a mistake that the message names, with the fix
EXIT_DIVERGED = 3  # a run's numbers stopped being finite: `detector replay` repeats the step
EXIT_INTERRUPTED_BY_SYSTEM = 4  # something outside ended a run, such as a full disk; --resume goes on


def main_process(body: Callable[[], int]) -> int:
    """Run the body of a training process and return its exit code.

    An end that was intended is published to torchrun's agent, so that a restart does not begin the run again.
    """
    try:
        launch = Launch.from_environment()
    except UserError as error:
        say(f"error: {for_terminal(error)}")
        return EXIT_USER_ERROR
    if (ended := launch.lookup("end")) is not None:
        return int(ended)
    try:
        exit_code = body()
    except UserError as error:
        launch.say_once(f"error: {for_terminal(error)}")
        exit_code = EXIT_USER_ERROR
    except KeyboardInterrupt as error:
        # Before the first step or after the last; in between, training stops after a step.
        launch.say_once(for_terminal(str(error) or "interrupted"))
        exit_code = EXIT_INTERRUPTED
    except InterruptedRunError as error:
        launch.say_once(f"error: {for_terminal(error)}")
        return EXIT_INTERRUPTED_BY_SYSTEM  # nothing is published: torchrun may try again
    except LostContactError as error:
        say(f"error: rank {launch.rank}: lost connection to the other processes: {for_terminal(error)}")
        return EXIT_LOST_CONTACT
    launch.publish("end", str(exit_code))
    return exit_code
