"""External layers that go wrong, one way each; given as `faulty_layers:Class`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipbench.errors import UnsupportedError


class Plain(nn.Module):
    """Nothing wrong with it: no kernel whose entries' absolute values sum up to 1 lengthens anything."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel / self.kernel.abs().sum()
        return nn.functional.conv2d(x, kernel, padding=self.kernel.shape[-1] // 2)


# --------------------------------------------------------------------------------------------------------------- exceptions


class Raises(Plain):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("first line\nthe tensor is of no use")


class RaisesAtOnce(Plain):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        raise RuntimeError(f"{in_channels} channels are none that this layer likes")


class RaisesOnTheWayBack(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return _NoWayBack.apply(super().forward(x))  # type: ignore[no-any-return]


class _NoWayBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise ArithmeticError("there is no way back")


class Refuses(Plain):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        raise UnsupportedError("this layer takes a million channels; give it a million")


class Interrupts(Plain):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyboardInterrupt


class Recurses(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.forward(x)


class ReturnsText(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return "a tensor"  # type: ignore[return-value]


class Talks(Plain):
    def forward(self, x: Tensor) -> Tensor:
        for stream in (sys.stdout, sys.stderr):
            stream.write("not to the point\n" * 2**17)
        raise ValueError("the point")


class Exits(Plain):
    def forward(self, x: Tensor) -> Tensor:
        raise SystemExit("enough")


class EndsAtOnce(Plain):
    def forward(self, x: Tensor) -> Tensor:
        print("written before the end", file=sys.stderr, flush=True)
        os._exit(7)


class EndsWell(Plain):
    """With the exit code of success, and no result."""

    def forward(self, x: Tensor) -> Tensor:
        os._exit(0)


class Forges(Plain):
    """Writes an answer of its own where the result belongs."""

    def forward(self, x: Tensor) -> Tensor:
        Path(sys.argv[1]).write_text('{"status": "splendid"}')
        os._exit(0)


class Destroys(Plain):
    """Removes the directory that the result is to be written to."""

    def forward(self, x: Tensor) -> Tensor:
        shutil.rmtree(Path(sys.argv[1]).parent, ignore_errors=True)
        return super().forward(x)


# ------------------------------------------------------------------------------------------------------------------ signals


class _Signals(Plain):
    number = signal.SIGTERM

    def forward(self, x: Tensor) -> Tensor:
        os.kill(os.getpid(), self.number)
        time.sleep(600)
        return x


class Segfaults(_Signals):
    number = signal.SIGSEGV


class SegfaultsInTraining(Plain):
    """Works in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(600)
        return super().forward(x)


class Aborts(_Signals):
    number = signal.SIGABRT


class DividesByZero(_Signals):
    number = signal.SIGFPE


class IsKilled(_Signals):
    number = signal.SIGKILL


# ------------------------------------------------------------------------------------------------------------------ numbers


class NotFinite(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 0


class NotFiniteOnTheWayBack(Plain):
    """The root of 0 is 0, and its derivative there infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (0 * x).sqrt()


class NotFiniteInEvaluation(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (1 if self.training else 0)


class _Scales(nn.Module):
    factor = 1.0

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(out_channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x + self.bias


class Doubles(_Scales):
    factor = 2.0


class IsALittleTooSteep(_Scales):
    factor = 1.001


# ------------------------------------------------------------------------------------------------------------------- memory


class AllocatesBitByBit(Plain):
    """Takes 16 MiB more, and writes to all of it, until it is stopped."""

    def forward(self, x: Tensor) -> Tensor:
        taken = []
        while True:
            taken.append(torch.ones(2**22))


class AllocatesInNumpy(Plain):
    def forward(self, x: Tensor) -> Tensor:
        np.ones(2**36)
        return super().forward(x)


class AllocatesInPython(Plain):
    def forward(self, x: Tensor) -> Tensor:
        bytearray(2**38)
        return super().forward(x)


class AllocatesInTraining(Plain):
    """Asks for 4 GiB in training alone."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            torch.empty(2**30)
        return super().forward(x)


class Allocates(Plain):
    """Asks for 4 GiB and touches none of it."""

    def forward(self, x: Tensor) -> Tensor:
        torch.empty(2**32, dtype=torch.uint8)
        return super().forward(x)


class LargeOnesAllocate(Plain):
    """Asks for more memory than there is from 3 channels on."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] >= 3:
            torch.empty(2**50, dtype=torch.uint8)
        return super().forward(x)


# --------------------------------------------------------------------------------------------------------------------- time


def _start_a_process() -> None:
    """Start a process that outlives this one, and write the numbers of both to the file in LIPBENCH_TEST_PIDS."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    path = Path(os.environ["LIPBENCH_TEST_PIDS"])
    path.with_suffix(".tmp").write_text(f"{os.getpid()} {child.pid}")
    path.with_suffix(".tmp").rename(path)


class Sleeps(Plain):
    """Starts a process of its own, and waits."""

    def forward(self, x: Tensor) -> Tensor:
        _start_a_process()
        time.sleep(600)
        return x


class LeavesAProcess(Plain):
    """Nothing wrong with it but what it leaves behind."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        _start_a_process()


class Oversleeps(Plain):
    def forward(self, x: Tensor) -> Tensor:
        time.sleep(600)
        return x


class OversleepsInTraining(Plain):
    """Answers at once in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            time.sleep(600)
        return super().forward(x)


class Deadlocks(Plain):
    def forward(self, x: Tensor) -> Tensor:
        lock = threading.Lock()
        with lock, lock:
            return x
