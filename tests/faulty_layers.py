"""Layers of somebody else's that go wrong, one way each; given as `faulty_layers:Class`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn


class Plain(nn.Module):
    """Nothing wrong with it."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x)  # type: ignore[no-any-return]


class Raises(Plain):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("first line\nthe tensor is of no use")


class Exits(Plain):
    def forward(self, x: Tensor) -> Tensor:
        raise SystemExit("enough")


class EndsAtOnce(Plain):
    def forward(self, x: Tensor) -> Tensor:
        print("written before the end", file=sys.stderr, flush=True)
        os._exit(7)


class Segfaults(Plain):
    def forward(self, x: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGSEGV)
        return x


class NotFinite(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 0


class Allocates(Plain):
    """Asks for 4 GiB and touches none of it."""

    def forward(self, x: Tensor) -> Tensor:
        torch.empty(2**32, dtype=torch.uint8)
        return super().forward(x)


class Sleeps(Plain):
    """Starts a process of its own, writes both process ids to the file in LIPBENCH_TEST_PIDS, and waits."""

    def forward(self, x: Tensor) -> Tensor:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        path = Path(os.environ["LIPBENCH_TEST_PIDS"])
        path.with_suffix(".tmp").write_text(f"{os.getpid()} {child.pid}")
        path.with_suffix(".tmp").rename(path)
        time.sleep(600)
        return x


class LargeOnesAllocate(Plain):
    """Asks for more memory than there is from 3 channels on."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] >= 3:
            torch.empty(2**50, dtype=torch.uint8)
        return super().forward(x)
