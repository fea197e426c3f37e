"""One run, assembled: data, model, state, callbacks → train → summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from detector.config.loading import LoadedConfig
from detector.gradients.ledger import Ledger
from detector.gradients.points import points_inside
from detector.gradients.recorder import GradientRecorder
from detector.models.loss import DetectionLoss
from detector.registry import with_plugins
from detector.runtime.allocator import give_freed_memory_back, keep_freed_memory
from detector.runtime.distributed import SingleProcess, init_process_group
from detector.runtime.failures import checkpoint_on_error, explain_errors
from detector.runtime.launch import Launch
from detector.runtime.lock import FolderLock
from detector.runtime.signals import StopRequest
from detector.training import callbacks as cb
from detector.training.engine import Status, train
from detector.training.impose import interventions
from detector.training.nonfinite_guard import NonFiniteGuard
from detector.training.prepare import build_state, load_data, memory_advice, training_batches
from detector.training.probing import ProbeTrunk
from detector.training.run import FinishedRun, finished_before, open_run
from detector.training.schedule import Schedule


def fit(
    loaded: LoadedConfig,
    *,
    resume: Path | None = None,
    callbacks: Sequence[cb.Callback] = (),
    loop: Callable[..., Status] = train,
) -> FinishedRun:
    """Train one model as configured, and leave its run directory behind.

    >>> from detector import fit, load_config
    >>> short = ["data.image_size=64", "train.steps=4", "run.dir=runs/baseline"]
    >>> run = fit(load_config("coco8", short))
    >>> run.status, run.exit_code
    ('finished', 0)

    Args:
        loaded: what `load_config` returns.
        resume: the directory of a run to resume; `loaded` is then its own config.yaml.
        callbacks: of your own, called after the project's, but before a row is logged.
        loop: the engine: another one is called as `detector.training.engine.train` is.

    Raises:
        UserError: something that the user can fix: a file, a key, too little memory.
        InterruptedRunError: something outside ended the run; it can be resumed.
    """
    launch, advice = Launch.from_environment(), memory_advice(loaded.config)
    with (
        init_process_group(launch, loaded.config.train.timeout) as dist,
        explain_errors(advice),
        FolderLock() as lock,
    ):
        return fit_process(loaded, resume, callbacks, launch, dist, lock, loop)


def fit_process(
    loaded: LoadedConfig,
    resume: Path | None,
    callbacks: Sequence[cb.Callback],
    launch: Launch,
    dist: SingleProcess,
    lock: FolderLock,
    loop: Callable[..., Status] = train,
) -> FinishedRun:
    """See `fit`. This is one of the processes `dist`, and usually the only one."""
    own = cb.OwnCallbacks(callbacks)
    keep_freed_memory()
    if restarted := dist.broadcast_object(launch.lookup("directory")):
        resume = Path(restarted)  # torchrun started new processes after one was lost

    # Data.
    dataset, loaders, loaded = load_data(loaded, dist)
    config = loaded.config
    schedule = Schedule.from_config(config, loaders["train"].batches_per_epoch(config.train.batch))

    # Model, optimizer and loss: new, or as the checkpoint says.
    state, saved, weights_note = build_state(config, dataset, resume, dist, lock)
    if resume is not None and (finished := finished_before(resume, saved, schedule, dist)):
        return finished
    loss_fn = DetectionLoss(state.model, config.train, schedule.epochs)
    dist.prepare_loss(loss_fn.heads)
    inside = points_inside(state.model, config.gradients.points)

    # The run's directory and loggers, and everything that happens besides fitting.
    run = open_run(loaded, dataset, schedule, state, saved, resume, dist, lock)
    layers, stop = state.model.backbone_layers(), StopRequest(dist.all_reduce_max)
    recorder = GradientRecorder(layers, dist.all_gather, levels=state.model.level_ends(), inside=inside)
    probe = ProbeTrunk(state, schedule, loaders["train"], config.train.batch)
    guard = NonFiniteGuard(state, loss_fn, config.train, dist, run.save_nonfinite_step)
    checkpoints = run.checkpointing(state, schedule)
    early = cb.StopEarly(state, schedule, config.train.patience, dist, run.logger.message)
    callback = cb.CallbackList([
        cb.StopOnRequest(state, stop),
        early,
        *interventions(state, schedule, config, dist.all_gather),
        cb.RecordGradients(state, schedule, recorder, config.train),
        cb.RecordLedger(schedule, Ledger(layers, dist.all_gather), run.write_ledger),
        guard,
        cb.Evaluate(state, schedule, dataset, loaders, config, run.logger, dist),
        *([probe] if config.gradients.probe and dist.world_size == 1 else ()),
        own,
        cb.Log(state, run.logger),
        checkpoints,
    ])  # fmt: skip

    command = with_plugins(f"{launch.launcher} --resume {run.files}")
    with checkpoint_on_error(checkpoints.save, checkpoints.last, command, memory_advice(config)), run:
        if saved is None:
            checkpoints.save()  # whatever happens from here on, there is something to resume from
            launch.publish("directory", str(run.files.path.resolve()))
        run.announce(state, schedule, loaders, weights_note)
        run.show_first_batch(state, schedule, loaders["train"], dist)
        callback.on_train_begin(state)
        batches = dist.prepare_batches(training_batches(loaders["train"], config, schedule, state))
        with stop:
            status = loop(state, loss_fn, batches, schedule, config.train, callback, guard, dist)
        if early.stopped:
            status = "finished"
        callback.on_train_end()
        give_freed_memory_back()
        return run.finish(status, state, schedule, guard.origin, checkpoints, command, stop.exit_code)
