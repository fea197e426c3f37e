"""Devices, precisions and seeds."""

from collections.abc import Callable

import pytest
import torch

from detector.errors import UserError
from detector.runtime.device import choose_device, choose_precision
from detector.runtime.random_state import seed_everything


def test_auto_takes_the_gpu_where_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "abc"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(UserError, match=f"train.device={name}"):
        choose_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 works on a GPU")
def test_fp16_needs_a_gpu(make_state: Callable[..., object]) -> None:
    with pytest.raises(UserError, match=r"train\.precision=fp16 needs a CUDA GPU"):
        make_state(precision="fp16")


def test_images_become_fractions_in_the_model_s_layout(make_state: Callable[..., object]) -> None:
    state, _ = make_state(channels_last=True)
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    out = state.preprocess(images)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(out, images.float() / 255)


def test_a_seed_fixes_the_draws() -> None:
    seed_everything(3)
    first = torch.rand(4)
    seed_everything(3)
    assert torch.equal(first, torch.rand(4))


@pytest.mark.parametrize(
    ("flags", "expected"), [((True, False), "bf16"), ((False, True), "bf16"), ((False, False), "fp32")]
)
def test_auto_is_bf16_where_the_cpu_multiplies_in_it(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[bool, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: flags[0])
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: flags[1])
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert choose_precision("auto", torch.device("cpu")) == expected
    assert choose_precision("fp32", torch.device("cpu")) == "fp32"


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ("AVX2", "fp32"),
        ("AVX512_CORE", "fp32"),
        ("AVX512_CORE_BF16", "bf16"),
        ("amx", "bf16"),
        ("default", "bf16"),
    ],
)
def test_auto_is_fp32_where_onednn_may_not_multiply_in_bf16(
    monkeypatch: pytest.MonkeyPatch, allowed: str, expected: str
) -> None:
    """With ONEDNN_MAX_CPU_ISA=AVX2 a bf16 convolution took five times as long as one in fp32."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert choose_precision("auto", torch.device("cpu")) == expected
