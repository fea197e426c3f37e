"""Apple's GPU has no float64. None is here, so its tensors are PyTorch's fake ones, which have its device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from detector.errors import UserError
from detector.gradients.norms import joint_norm, norm
from detector.gradients.signal import moments
from detector.runtime.device import choose_device


class NoDoubles(TorchDispatchMode):
    """Raises as that device does."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else [out]:
            if isinstance(one, torch.Tensor) and one.device.type == "mps" and one.dtype == torch.float64:
                raise TypeError("the MPS framework doesn't support float64")
        return out


def test_what_is_measured_of_it_is_measured_on_the_cpu() -> None:
    with FakeTensorMode(), NoDoubles():
        x = torch.empty(4, 3, 8, 8, device="mps")
        with pytest.raises(TypeError, match="float64"):
            x.double()
        for found in (norm(x), joint_norm([x, x]), moments(x)):
            assert (found.device.type, found.dtype) == ("cpu", torch.float64)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="it is there")
def test_without_one_it_is_said() -> None:
    with pytest.raises(UserError, match=r"train\.device=mps cannot be used .*; try auto or cpu"):
        choose_device("mps")
