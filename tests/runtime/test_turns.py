"""Threads that take turns."""

from __future__ import annotations

import io
import random
import sys
import threading
from contextlib import redirect_stdout

import torch

from detector.runtime.turns import Turns


def test_each_thread_finds_what_it_left() -> None:
    turns, cpu = Turns(), torch.device("cpu")
    printed, drawn, inside, most = [io.StringIO(), io.StringIO()], [[], []], [0], [0]  # type: ignore[var-annotated]

    def work(seed: int) -> None:
        with turns, redirect_stdout(printed[seed]):
            sys.argv = [f"run {seed}"]
            torch.manual_seed(seed)
            random.seed(seed)
            for _ in range(3):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                drawn[seed].append((torch.rand(()).item(), random.random()))
                print(sys.argv[0])
                inside[0] -= 1
                turns.wake()
                if any(len(own) < 3 for own in drawn):  # else nobody is left to wake it
                    turns.wait(cpu)
            turns.wake()

    before = sys.stdout, sys.argv
    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert (sys.stdout, sys.argv) == before and most[0] == 1
    for seed in (0, 1):
        torch.manual_seed(seed)
        random.seed(seed)
        assert drawn[seed] == [(torch.rand(()).item(), random.random()) for _ in range(3)]
        assert printed[seed].getvalue().split("\n")[:3] == [f"run {seed}"] * 3
