"""The thread in which W&B lives, so that whatever happens to it costs the training loop nothing."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from detector.errors import describe_error, display_path
from detector.loggers import wandb_session

if TYPE_CHECKING:
    import wandb

    Job = Callable[[wandb.Run], None]

_MOST_WAITING = 5_000  # rows: about 50 MB; W&B takes 2,000 a second, so it is dead by then
_GRACE = 5.0  # seconds beyond W&B's own time limits before it is given up


class WandbThread:
    """Opens a W&B run and does jobs with it, one after the other; only `stop` waits, for a bounded time.

    A dead network, a killed service process or a full disk ends in one line, and the rest is quiet.
    """

    def __init__(self, open_run: Callable[[], wandb.Run], first: Job, report: Callable[[str], None]) -> None:
        """Only prepare: what is submitted starts it, or `start`.

        Args:
            open_run: gives the run; called in the thread, as the jobs are.
            first: is done with it before all else.
            report: gets the lines a human should see, from the thread.
        """
        self.run: wandb.Run | None = None  # once it is open
        self._open, self._first, self._report = open_run, first, report
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._opened = threading.Event()  # or failed to
        self._quiet = threading.Event()
        self._exit_code = 0
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)

    def start(self) -> None:
        """Open the run, if nothing has done so yet."""
        if self._thread.ident is None:
            self._thread.start()

    def submit(self, job: Job) -> None:
        """Do something with the run, later; nothing once it was given up."""
        if self._quiet.is_set():
            return
        if self._jobs.qsize() >= _MOST_WAITING:
            self._give_up("stopped: it does not keep up with the rows")
            return
        self._jobs.put(job)
        self.start()

    def wait_opened(self, timeout: float) -> bool:
        """Open the run, and wait until that is done or given up; False if neither happened in time."""
        self.start()
        return self._opened.wait(timeout)

    def say(self, text: str) -> None:
        """Tell the human a line, unless it was given up."""
        if not self._quiet.is_set():
            self._report(text)

    def stop(self, exit_code: int) -> None:
        """End the run, waiting at most for W&B's time limits to start and to upload."""
        self.start()  # a run that failed before its first row is to be seen there, too
        self._exit_code = exit_code
        self._jobs.put(None)
        self._thread.join(2.0)
        if self._thread.is_alive():
            self._report(f"W&B: {self._waits_for()}; the run itself has ended.")
        # An unreachable server costs wandb twice its limit, and the offline run after it starts once more.
        if self._opened.wait(3 * wandb_session.INIT_TIMEOUT + _GRACE):
            self._thread.join(wandb_session.FINISH_TIMEOUT + 2 * _GRACE)
        if self._thread.is_alive():
            hint = f". {how_to_sync(self.run)}" if self.run is not None else ""
            self._give_up(f"given up: it did not end in time{hint}")
            if not wandb_session.end_work(self):
                return  # the others need the service process
            wandb_session.kill_service()
            self._thread.join(_GRACE)  # it now fails quickly, and clears what would complain at exit
            if self._thread.is_alive():  # else wandb would do that at exit, with a traceback
                clearing = threading.Thread(target=wandb_session.reset, name="wandb reset", daemon=True)
                clearing.start()
                clearing.join(_GRACE)

    def _waits_for(self) -> str:
        """What `stop` waits for: most of it only where there is a server."""
        if self.run is None:
            return "waiting for it to start"
        return "waiting for its file" if self.run.offline else "waiting for the upload"

    def _give_up(self, why: str) -> None:
        self.say(f"W&B {why} (nothing local is lost)")
        self._quiet.set()

    def _work(self) -> None:
        wandb_session.at_work.add(self)
        try:
            self.run = self._open()
            self._first(self.run)
        except (Exception, SystemExit) as error:  # wandb exits its caller where its service process died
            self._give_up(f"not started: {describe_error(error)}")
        self._opened.set()
        while (job := self._jobs.get()) is not None:
            if self.run is None or self._quiet.is_set():
                continue
            try:
                job(self.run)
            except (Exception, SystemExit) as error:
                self._give_up(f"stopped: {describe_error(error)}")
        if self.run is not None:
            try:
                self.run.finish(exit_code=self._exit_code)
            except TimeoutError:
                self._give_up(f"not all was uploaded in time. {how_to_sync(self.run)}")
            except (Exception, SystemExit) as error:
                self._give_up(f"not finished: {describe_error(error)}")
        if wandb_session.end_work(self) and self.run is not None:
            wandb_session.reset()


def how_to_sync(run: wandb.Run) -> str:
    """How to look at an offline run, and to upload it."""
    folder = Path(run.settings.sync_dir)
    return f"Look: wandb leet {display_path(folder.parent)}   Upload: wandb sync {display_path(folder)}"
