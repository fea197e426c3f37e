"""Where and in which precision a network computes."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from detector.errors import UserError

# In oneDNN's names of instruction sets: those that multiply in bf16.
_WITH_BF16 = "BF16", "FP16", "AMX", "AVX10"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str, setting: str = "train.device=") -> torch.device:
    """`auto` is the first CUDA GPU where there is one, else the CPU.

    Args:
        name: auto, cpu, cuda, cuda:N or N.
        setting: what the user wrote before the name, for the error.

    Raises:
        UserError: the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(f"cuda:{name}" if name.isdecimal() else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{setting}{name} cannot be used ({reason}); try auto or cpu") from error
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """`auto` is bf16 where the hardware multiplies in it, else fp32.

    Raises:
        UserError: fp16 on a CPU.
    """
    if name == "fp16" and device.type != "cuda":
        raise UserError("train.precision=fp16 needs a CUDA GPU; on a CPU use bf16 or fp32")
    if name != "auto":
        return name
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere; before, bf16 is emulated
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()  # oneDNN then emulates what is above it
        fast = fast and (allowed in ("", "DEFAULT") or any(isa in allowed for isa in _WITH_BF16))
    return "bf16" if fast else "fp32"


def device_name(device: torch.device) -> str:
    """`cpu`, or `cuda:0 (NVIDIA H100 80GB HBM3)`."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[None]:
    """Run a forward pass in this precision; with float32 it changes nothing."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


def preprocess(images: Tensor, device: torch.device, channels_last: bool) -> Tensor:
    """(B, 3, S, S) uint8 -> the same in [0, 1], on the device, in the model's memory format."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return images.to(device, non_blocking=True).to(torch.float32, memory_format=layout) / 255
