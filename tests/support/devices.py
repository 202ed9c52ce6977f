"""The devices that tests of the device's code run on: CPU tensors always, a GPU where there is one."""

from __future__ import annotations

import needs
import pytest
import torch

CPU = torch.device("cpu")
DEVICES = [
    pytest.param(CPU, id="cpu"),
    pytest.param(
        torch.device("cuda", 0),
        id="cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason=needs.GPU)],
    ),
]
