"""External layers that attack the process that measures them, one way each; given as `hostile_layers:Class`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn


class _Attacks(nn.Module):
    """A layer that is harmless but for its attack."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        self.attack()
        kernel = self.kernel / self.kernel.abs().sum()
        return nn.functional.conv2d(x, kernel, padding=self.kernel.shape[-1] // 2)

    def attack(self) -> None:
        raise NotImplementedError


ANSWER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("answer.json")


# --------------------------------------------------------------------------------- something else in the place of the answer


class LeavesAPipe(_Attacks):
    def attack(self) -> None:
        ANSWER.unlink(missing_ok=True)
        os.mkfifo(ANSWER)
        os._exit(0)


class LeavesALinkToADevice(_Attacks):
    def attack(self) -> None:
        ANSWER.unlink(missing_ok=True)
        ANSWER.symlink_to("/dev/zero")
        os._exit(0)


class LeavesAHugeFile(_Attacks):
    """10 GB that take no space."""

    def attack(self) -> None:
        with ANSWER.open("wb") as file:
            file.truncate(10 * 2**30)
        os._exit(0)


class LeavesADirectory(_Attacks):
    def attack(self) -> None:
        ANSWER.unlink(missing_ok=True)
        ANSWER.mkdir()
        os._exit(0)


class LeavesAPipeForItsErrors(_Attacks):
    """Replaces the file that its stderr goes to."""

    def attack(self) -> None:
        path = os.readlink("/proc/self/fd/2")
        os.unlink(path)
        os.mkfifo(path)
        os._exit(0)


class NestsAnswers(_Attacks):
    def attack(self) -> None:
        ANSWER.write_text("[" * 10**6)
        os._exit(0)


class ForgesAnAnswer(_Attacks):
    def attack(self) -> None:
        ANSWER.write_text(json.dumps({"answer": [{"method": 3}], "round": {"status": []}, "doing": None, "left": []}))
        os._exit(0)


class LinksItsFolder(_Attacks):
    """Replaces the folder of its answer by a link to one that is not its own."""

    def attack(self) -> None:
        victim = Path(os.environ["LIPBENCH_TEST_VICTIM"])
        shutil.rmtree(ANSWER.parent)
        ANSWER.parent.symlink_to(victim)
        os._exit(0)


# -------------------------------------------------------------------------------------------------------------- exceptions


class HasASurrogate(_Attacks):
    def attack(self) -> None:
        raise ValueError("half a character: \ud800 \x1b[2J")


class TalksAtLength(_Attacks):
    def attack(self) -> None:
        raise ValueError(10_000_000 * "x")


class _NoTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class CannotBePrinted(_Attacks):
    def attack(self) -> None:
        raise _NoTextError


class HasAStrangeName(_Attacks):
    def attack(self) -> None:
        raise type("\ud800" + 10**6 * "N", (Exception,), {})("named")


# ---------------------------------------------------------------------------------------------------------------- processes


class KillsItsParent(_Attacks):
    def attack(self) -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)


class InterruptsItsParent(_Attacks):
    def attack(self) -> None:
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(600)


class KillsItsGroup(_Attacks):
    def attack(self) -> None:
        os.killpg(0, signal.SIGKILL)


class KillsItsParentsGroup(_Attacks):
    def attack(self) -> None:
        os.killpg(os.getpgid(os.getppid()), signal.SIGKILL)
        time.sleep(600)


class StopsItself(_Attacks):
    def attack(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)


class LeavesProcesses(_Attacks):
    """One in its session and one in a session of its own; both hold its files open. Their numbers are in a file."""

    def attack(self) -> None:
        if not (numbers := Path(os.environ["LIPBENCH_TEST_PIDS"])).exists():
            command = [sys.executable, "-c", "import time; time.sleep(600)"]
            started = [subprocess.Popen(command, start_new_session=apart).pid for apart in (False, True)]
            numbers.write_text(" ".join(map(str, started)))


class IgnoresSignals(_Attacks):
    def attack(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


class Exits(_Attacks):
    def attack(self) -> None:
        raise SystemExit(0)


class ExitsAtOnce(_Attacks):
    def attack(self) -> None:
        os._exit(0)


class Crashes(_Attacks):
    def attack(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(600)


class Hangs(_Attacks):
    def attack(self) -> None:
        time.sleep(600)


# ---------------------------------------------------------------------------------------------------------- its own process


class ClosesItsStreams(_Attacks):
    def attack(self) -> None:
        for number in range(3):
            with contextlib.suppress(OSError):
                os.close(number)


class Floods(_Attacks):
    """100 MB to each stream, as it is built."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        for number in (1, 2):
            for _ in range(100):
                os.write(number, 250_000 * b"\x1b[2J")

    def attack(self) -> None:
        pass


class ChangesTheFolder(_Attacks):
    def attack(self) -> None:
        os.chdir("/")


class EmptiesItsFolders(_Attacks):
    def attack(self) -> None:
        for folder in (ANSWER.parent, Path(tempfile.gettempdir())):
            shutil.rmtree(folder, ignore_errors=True)


class Traces(_Attacks):
    def attack(self) -> None:
        sys.settrace(lambda *_: None)


class StopsTheClock(_Attacks):
    def attack(self) -> None:
        time.perf_counter = lambda: 0.0
        time.perf_counter_ns = lambda: 0


class BreaksJson(_Attacks):
    def attack(self) -> None:
        json.dump = json.dumps = lambda *_, **__: "[]"
