"""Starting and stopping a W&B run so that neither asks, hangs nor tells too much.

Everything here may be slow or raise: `wandb_thread` calls it from its own thread.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from detector.config.schema import Config
from detector.errors import describe_error

if TYPE_CHECKING:
    import wandb

Mode = Literal["auto", "online", "offline", "disabled"]

_ENVIRONMENT_MODES: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
INIT_TIMEOUT = 30.0  # seconds to wait for the server before recording offline
FINISH_TIMEOUT = 60.0  # seconds to wait at the end for uploads
_REQUEST_RETRIES = 3  # W&B's own default is 20, with growing pauses
# Runs that train together share W&B's service process. Usually there is one.
at_work: set[object] = set()  # who has begun with W&B and not ended
_opened: set[str] = set()  # ids of runs that were opened since there was nobody at work
_opening = threading.Lock()
_unreachable = ""  # why an online run could not be started since then: others do not try


@dataclass(frozen=True)
class Start:
    """What a W&B run is started with. The API key is not part of it: wandb alone reads that."""

    directory: Path  # the run's; wandb writes into `wandb/` in it
    config: Config  # the resolved one; all of it is recorded
    ablation: str  # names the run and, unless `tracking.group` says otherwise, its group
    dataset: str  # the data's name, a tag
    job_type: str = "train"  # what W&B files the run under, within its group
    resume_id: str | None = None  # of the run to continue

    @property
    def mode(self) -> Mode:
        """The configured mode; where that is `auto`, what WANDB_MODE says, if it says anything known."""
        configured = self.config.tracking.wandb
        if configured != "auto":
            return configured
        return _ENVIRONMENT_MODES.get(os.environ.get("WANDB_MODE", "").strip().lower(), "auto")

    @property
    def name(self) -> str:
        """The run's name."""
        return f"{self.ablation}-s{self.config.train.seed}"


def open_run(start: Start, run_id: str, report: Callable[[str], None]) -> wandb.Run:
    """A run in the best mode there is: online if wanted and possible, else offline.

    Raises:
        Exception: not even an offline run could be started.
    """
    with _opening:
        run = _open(start, run_id, report)
        _opened.add(run_id)
        return run


def end_work(user: object) -> bool:
    """Note that somebody has ended; return whether it was the last, to whom the service process is left."""
    global _unreachable
    at_work.discard(user)
    if not at_work:
        _opened.clear()
        _unreachable = ""
    return not at_work


def _open(start: Start, run_id: str, report: Callable[[str], None]) -> wandb.Run:
    global _unreachable
    # Crash reports to W&B's own error logger carry paths and stack contents; a user may turn them on.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    mode = start.mode
    # Before login: a run that logs in loudly asks the server, unbounded, whom to greet.
    wandb.setup(settings=wandb.Settings(silent=True))
    if mode != "offline":
        why = _no_key() or _unreachable or None
        if why is None:
            try:
                return _init(start, run_id, "online")
            except (Exception, SystemExit) as error:
                why = _unreachable = f"online failed: {describe_error(error)}"
                if not _opened:  # else what is below fails, too, and leaves those alone
                    reset()  # the failed start may still be retrying in the background
                    wandb.setup(settings=wandb.Settings(silent=True))
        if mode == "online" or not why.startswith("no API key"):
            report(f"W&B: {why}. Recording offline instead.")
    return _init(start, run_id, "offline")


def set_aside_earlier(run: wandb.Run) -> bool:
    """Move the earlier parts of a resumed offline run to superseded/, where `wandb sync` does not look.

    W&B adds what is synced to what it has, so that rows in two files would be there twice; and the file of
    a killed run can be cut off, which stops the upload of them all.

    Returns:
        Whether the new file must hold the whole run. Not if the server has some of an earlier part (which
        part, it cannot be asked): then nothing is moved.
    """
    current = Path(run.settings.sync_dir)
    earlier = [path for path in current.parent.glob(f"*run-*-{escape(run.id)}") if path.name != current.name]
    if any(path.name.startswith("run-") or any(path.glob("*.synced")) for path in earlier):
        return False
    for path in earlier:
        with suppress(OSError):
            (current.parent / "superseded").mkdir(exist_ok=True)
            path.rename(current.parent / "superseded" / path.name)
    return True


def reset() -> None:
    """Stop the service process, which completes the run's file: until then its last rows may be missing."""
    import wandb

    with suppress(Exception, SystemExit):  # it exits the caller if the service process was killed
        wandb.teardown()


def kill_service() -> None:
    """Kill W&B's service process, for when it does not answer: at exit Python would wait for it for ever."""
    with suppress(Exception):  # no public way leads to it
        import wandb

        connection: Any = wandb.setup()._connection
        os.kill(connection._proc._process.pid, signal.SIGKILL)


def _no_key() -> str | None:
    """None if W&B knows a key (environment, netrc, settings), else why not. Asks no server and no human."""
    import wandb

    try:
        known = wandb.login(prompt=False, verify=False)
    except Exception as error:  # e.g. a key that is too short, or two kinds of credentials at once
        return f"the API key is not usable: {describe_error(error)}"
    return None if known else "no API key is known (`wandb login`, or WANDB_API_KEY)"


def _init(start: Start, run_id: str, mode: Literal["online", "offline"]) -> wandb.Run:
    import wandb

    tracking, seed = start.config.tracking, start.config.train.seed
    facts = {"ablation": start.ablation, "seed": seed, "dataset": start.dataset}
    tags = dict.fromkeys((start.ablation, start.dataset, *tracking.tags))
    return wandb.init(
        mode=mode,
        # W&B's service process, where something else started it, may stand in another folder than we do.
        dir=os.path.abspath(start.directory),
        id=run_id,
        project=tracking.project,
        entity=tracking.entity,
        group=tracking.group or start.ablation,
        job_type=start.job_type,
        name=start.name,
        tags=[tag[:64] for tag in tags],  # W&B refuses the whole run for one longer tag
        config=facts | start.config.model_dump(mode="json"),
        # Offline there is no server to ask whether the run exists: the same id is enough.
        resume="allow" if start.resume_id is not None and mode == "online" else None,
        settings=wandb.Settings(**_settings(tracking.system_metrics)),
    )


def _settings(system_metrics: bool) -> dict[str, Any]:
    """Bounded waits, and nothing sent that the user did not ask to send.

    Names beginning with x_ are W&B's internal ones: those a version does not know are left out.
    """
    import wandb

    chosen: dict[str, Any] = {
        "init_timeout": INIT_TIMEOUT,
        "finish_timeout": FINISH_TIMEOUT,
        "finish_timeout_raises": True,
        "login_timeout": 1,
        "x_service_wait": INIT_TIMEOUT,
        "x_graphql_retry_max": _REQUEST_RETRIES,
        "x_graphql_retry_wait_max_seconds": 2.0,
        "x_file_stream_retry_max": _REQUEST_RETRIES * 10,  # an outage of minutes mid-run is survived
        "reinit": "create_new",  # leaves wandb.run, the notebook user's own run, alone
        "silent": True,  # the logger reports what matters, in one line
        "use_dot_wandb": False,
        "symlink": False,  # a run's directory can be copied and zipped as it is
        # What could leak: source code and uncommitted changes, the terminal's text, installed packages,
        # the machine's name, user and hardware, the repository's address. Versions, commit and command
        # are in the summary, chosen by `provenance`.
        "save_code": False,
        "disable_code": True,
        "disable_git": True,
        "disable_job_creation": True,
        "console": "off",
        "host": "",
        "x_save_requirements": False,
        "x_disable_machine_info": not system_metrics,  # or nothing is sampled
        "x_disable_meta": True,
        "x_disable_stats": not system_metrics,  # also: what samples the machine disturbs step times
    }
    known = wandb.Settings.model_fields
    return {key: value for key, value in chosen.items() if key in known}
