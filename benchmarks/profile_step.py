"""Where the time of one training step goes, operation by operation: yolov8n, 4 images of 320 px, one core.

    python benchmarks/profile_step.py     # ten seconds; writes the table into benchmarks/README.md

The profiler itself takes about a tenth, so the column of shares is what to read.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from benchmarks.speed.step import BATCH, SIZE, STEPS, our_steps  # noqa: E402
from scripts.pages import write_between  # noqa: E402

PAGE = ROOT / "benchmarks" / "README.md"
# What the profiler calls an operation -> what it is to a reader; everything else is summed up.
PARTS = {
    "convolutions, backward": ("aten::convolution_backward", "aten::_slow_conv2d_backward"),
    "convolutions, forward": ("aten::mkldnn_convolution", "aten::_slow_conv2d_forward"),
    "SiLU, both ways": ("aten::silu", "aten::silu_backward"),
    "batch norm, both ways": ("aten::native_batch_norm", "aten::native_batch_norm_backward"),
    "copies: casts to bf16 and back, the images": ("aten::copy_",),
    "log-sigmoid and sigmoid of the loss": ("aten::log_sigmoid_forward", "aten::sigmoid"),
    "sums and products, most of the loss and its backward": ("aten::mul", "aten::add", "aten::add_"),
    "concatenations": ("aten::cat",),
    "optimiser and average": ("aten::_fused_adamw_", "aten::lerp_"),
}


def main() -> None:
    """Profile some steps in bf16 and in fp32 and write the table."""
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    columns = [measured("bf16"), measured("fp32")]
    lines = ["| part | bf16, ms | share | fp32, ms | share |", "|---|--:|--:|--:|--:|"]
    for part in (*PARTS, "the rest", "together"):
        cells = [f"{times[part]:.1f} | {100 * times[part] / times['together']:.0f} %" for times in columns]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    text = "\n".join(lines)
    write_between(PAGE, "table: profile", text)
    print(text)


def measured(precision: str) -> dict[str, float]:
    """Milliseconds of a step, by part."""
    steps = our_steps(STEPS, f"train.precision={precision}")
    steps()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        steps()
    own = {event.key: event.self_cpu_time_total / 1000 / STEPS for event in profiler.key_averages()}
    times = {part: sum(own.pop(key, 0.0) for key in keys) for part, keys in PARTS.items()}
    times["the rest"] = sum(own.values())
    times["together"] = sum(times.values())
    return times


if __name__ == "__main__":
    print(f"yolov8n, {BATCH} x {SIZE} px, {STEPS} steps each", file=sys.stderr)
    main()
