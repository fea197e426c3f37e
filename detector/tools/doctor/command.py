"""`detector doctor`: the checks, in order, until one names the cause."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from detector.errors import UserError

if TYPE_CHECKING:
    from detector.tools.doctor.case import Case
    from detector.tools.doctor.checks import Check, Diagnosis

SECONDS = 30.0


def doctor(
    target: Path,
    /,
    *overrides: str,
    seconds: float = SECONDS,
    all: bool = False,
    config: Path | None = None,
    json: bool = False,
    plugin: tuple[Path, ...] = (),
) -> Diagnosis:
    """Why is my mAP low? Look at a run, or at data before there is one, and name the first cause.

    Looks in this order, and stops at a cause: labels, memorising one batch, loss, learning rate, targets,
    evaluation mode, the trunk's signal, gradient, steps, overfitting, kinds of errors. Writes nothing.
    Exit code 0: no check fails; 1: a cause is named; 2: there is nothing to look at.

    Args:
        target: a run's directory, or a data YAML.
        overrides: section.key=value, for a data YAML alone.
        seconds: how long memorising one batch may take.
        all: make every check, also behind a cause.
        config: what would train on a data YAML: a file, or a name such as shapes.
        json: print one JSON document.
        plugin: a Python file that registers parts of one's own; may be repeated.

    Raises:
        UserError: no such run or data; a run that has not ended; data without objects.
    """
    from detector.registry import load_plugins
    from detector.runtime.allocator import keep_freed_memory
    from detector.tools.doctor.checks import Diagnosis
    from detector.tools.doctor.history import score
    from detector.tools.doctor.memorise import IMAGES
    from detector.tools.doctor.report import answer, line, title, to_json

    if not seconds > 0:
        raise UserError(f"--seconds: must be above 0, not {seconds:g}")
    began = time.monotonic()
    load_plugins(plugin)
    keep_freed_memory()
    case = _case(target, config, overrides)
    if not case.is_run:
        _say(
            f"no run yet: trains a new network on {IMAGES} of the images for at most {seconds:g} s "
            "(--seconds), to see whether it can memorise them; nothing of it is kept"
        )
    elif case.checkpoint is None:
        _say(f"the trained network is not looked at: {case.unreadable}")
    checks: list[Check] = []
    if not json:
        print(title(str(target), score(case)), flush=True)
    for check in _checks(case, seconds, checks, all):
        if json:
            _say(f"{check.name}: {check.verdict}")
        else:  # each as it is made: memorising takes its time
            print("\n".join(line(check)), flush=True)
        checks.append(check)
    found = Diagnosis(str(target), score(case), tuple(checks), time.monotonic() - began)
    print(to_json(found) if json else "\n".join(answer(found)))
    return found


def _case(target: Path, config: Path | None, overrides: tuple[str, ...]) -> Case:
    from detector.config.loading import load_config
    from detector.tools.doctor.case import of_data, of_run

    if target.is_dir() or not target.suffix:
        if config is not None or overrides:
            raise UserError(f"{target}: a run brings its configuration; --config and settings are for data")
        return of_run(target)
    return of_data(str(target), load_config(config or Path("coco8"), overrides).config)


def _checks(case: Case, seconds: float, made: list[Check], every: bool) -> Iterator[Check]:
    """Each check in turn; what comes behind a cause is not looked at."""
    from detector.tools.doctor import checks

    for name, look in _looks(case, seconds).items():
        if checks.decided(made) and not every:
            yield checks.unknown(name, "not looked at: the cause comes first; --all looks")
        else:
            yield look()


def _looks(case: Case, seconds: float) -> dict[str, Callable[[], Check]]:
    """What makes each check, by name; data alone has the network of the trial, and not much of a run."""
    from functools import cache

    from detector.tools.doctor import generalise, history, labels, memorise, passes
    from detector.tools.doctor.case import assign_all
    from detector.tools.doctor.checks import unknown

    trial = cache(lambda: memorise.memorise(case, seconds))
    mistakes = cache(lambda: generalise.Mistakes(case))
    trained = case.checkpoint is not None

    def needs_run(name: str, look: Callable[[], Check], weights: bool = False) -> Callable[[], Check]:
        if not case.is_run:
            return lambda: unknown(name, "there is no run")
        if weights and not trained:
            return lambda: unknown(name, case.unreadable)
        return look

    def targets() -> Check:
        model = case.model if trained else trial().model
        return passes.check_targets(assign_all(case, model), model.strides, case.config, case.learnt)

    def signal() -> Check:
        return passes.check_signal(case, case.signal if trained else None, trial().signal)

    return {
        "labels": lambda: labels.check_labels(case),
        "memorising": lambda: memorise.check_memorising(trial(), seconds, case.learnt),
        "loss": needs_run("loss", lambda: history.check_loss(case)),
        "learning rate": needs_run("learning rate", lambda: history.check_learning_rate(case)),
        "targets": targets,
        "evaluation mode": needs_run(
            "evaluation mode", lambda: passes.check_evaluation_mode(case.lag, case.config), True
        ),
        "signal": signal,
        "gradient": needs_run("gradient", lambda: history.check_gradient(case)),
        "steps": needs_run("steps", lambda: history.check_steps(case, lambda: memorise.train_on(case)), True),
        "overfitting": needs_run("overfitting", lambda: generalise.check_overfitting(case, mistakes()), True),
        "errors": needs_run("errors", lambda: generalise.check_errors(case, mistakes()), True),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
