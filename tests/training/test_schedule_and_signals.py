"""When things happen, and how a run is asked to stop."""

import os
import signal
import threading
import time

import pytest

from detector.config.schema import Config, GradientsConfig, TrainConfig
from detector.runtime.signals import StopRequest
from detector.training.schedule import Schedule


def config(every: int = 5, **train: object) -> Config:
    return Config(train=TrainConfig(**train), gradients=GradientsConfig(every=every))


def test_epochs_become_steps() -> None:
    schedule = Schedule.from_config(config(steps=None, epochs=3, accumulate=2), batches_per_epoch=5)
    assert schedule.steps == 8  # 15 batches, two a step, the last with one
    assert [schedule.epoch(step) for step in range(8)] == [0, 0, 0, 1, 1, 2, 2, 2]
    assert schedule.epochs == 3


def test_what_is_recorded_and_evaluated() -> None:
    schedule = Schedule.from_config(config(every=4, steps=10, eval_every=3), batches_per_epoch=1)
    assert [s for s in range(10) if schedule.should_evaluate(s)] == [2, 5, 8, 9]
    assert [s for s in range(10) if schedule.should_record(s)] == [0, 2, 4, 5, 8, 9]


def test_without_an_interval_only_the_end_is_evaluated() -> None:
    schedule = Schedule.from_config(config(steps=10, eval_every=None), batches_per_epoch=1)
    assert [s for s in range(10) if schedule.should_evaluate(s)] == [9]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_asks_politely(number: signal.Signals, code: int) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        with StopRequest() as stop:
            assert not stop()
            assert stop.exit_code == 0
            os.kill(os.getpid(), number)
            assert stop()
            assert stop.exit_code == code
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_that_comes_while_processes_agree_counts_from_the_next_step_on() -> None:
    """Else this process would stop, and the others would wait for it."""
    stop = StopRequest()

    def agree(mine: int) -> int:
        if not mine:
            os.kill(os.getpid(), signal.SIGTERM)
        return mine

    stop._agree = agree
    with stop:
        assert not stop()
        assert stop()


def test_ctrl_c_is_heard_in_the_background_of_a_script() -> None:
    """A shell starts such a process with the signal ignored; `kill -INT` is meant all the same."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_breaks_off() -> None:
    with StopRequest(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_thread_stops_with_the_main_one() -> None:
    heard: list[tuple[bool, bool, int]] = []

    def ask(main: StopRequest) -> None:
        with StopRequest() as stop:  # only the main thread may take over signals
            before = stop()
            os.kill(os.getpid(), signal.SIGTERM)
            while main.signal is None:
                time.sleep(0.001)
            heard.append((before, stop(), stop.exit_code))

    with StopRequest() as main:
        thread = threading.Thread(target=ask, args=(main,))
        thread.start()
        thread.join()
    assert heard == [(False, True, 143)]
    with StopRequest() as later:
        assert not later()
