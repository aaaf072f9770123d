"""Fresh processes in milliseconds: a server that has imported everything forks a child for each question.

A forked child counts as fresh because the server has only imported modules: it has used no device, run no operation of PyTorch,
started no thread (except OpenBLAS's, which OpenBLAS stops for a fork), drawn no random number, and imported no external layer.
`tests/test_forks.py` checks that, and `python -m bench.fork_agreement` compares rounds in forked and in started processes.

The parent does not import torch. Run as `python -m lipbench.run.forks PARENT`, this module is the server. It answers one
question at a time, in lines of JSON: a question on stdin; on stdout the child's process id and, after it ended, its exit code.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

from lipbench.run import child

IMPORTED = (
    "lipbench.run.measure",
    "torch._dynamo",  # here and below: modules that PyTorch, lipbench and their libraries import lazily
    "torch.profiler",
    "torch.utils.flop_counter",
)
"""modules that every round needs"""
IMPORTED_IF_THERE = ("fvcore.nn",)
"""optional: gives a second count of MACs"""
START_TIMEOUT_S = 300.0
END_TIMEOUT_S = 10.0


class ServerEndedError(RuntimeError):
    """The server could not be started, or has ended."""


# ------------------------------------------------------------------------------------------------------------- the parent


class Server:
    """A process that forks children, each of which answers one question of `child.answer`."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        """Start the server with `settings` added to its environment. Raises `ServerEndedError` if its imports fail."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lipbench.run.forks", str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, **settings, "PYTHONSAFEPATH": "1"},
            bufsize=0,  # so that no line is left in a buffer here while `select` waits for the pipe
        )  # fmt: skip
        self.is_closed = self.is_stopped = False
        try:
            self._read(START_TIMEOUT_S)
        except TimeoutError as error:
            self.close()
            raise ServerEndedError("the server was not ready in time") from error
        except BaseException:
            self.close()
            raise

    def ask(self, question: dict[str, Any], answer: Path, stderr: Path, scratch: Path, timeout_s: float) -> tuple[int, bool]:
        """Have a child write its answer to a file; returns its exit code, negative for a signal, and whether it timed out.

        The child's stderr goes to the file `stderr`; `scratch` is its folder for temporary files. Processes that the child
        started are killed when it ends. Raises `ServerEndedError` if the server ends meanwhile.
        """
        request = {"question": question, "answer": str(answer), "stderr": str(stderr), "scratch": str(scratch)}
        try:
            self._send(request)
            process_id = self._read(START_TIMEOUT_S)["pid"]
        except TimeoutError as error:
            self.close()
            raise ServerEndedError("the server forked no child in time") from error
        try:
            return self._read(timeout_s)["code"], False
        except TimeoutError:
            return self._end_child(process_id), True
        except BaseException as error:
            _kill(process_id)
            self.close()
            if isinstance(error, ServerEndedError) and not self.is_stopped:
                return -signal.SIGKILL, False  # a layer may kill the server, which is its parent
            raise

    def _end_child(self, process_id: int) -> int:
        """Kill a child and return its exit code. If it does not end soon, as in a driver call, close the server too."""
        _kill(process_id)
        try:
            code: int = self._read(END_TIMEOUT_S)["code"]
            return code
        except (TimeoutError, ServerEndedError):
            self.close()
            return -signal.SIGKILL

    def kill(self) -> None:
        """Kill the server and its child; a thread that waits for an answer gets `ServerEndedError`."""
        self.is_stopped = True
        self._process.kill()

    def close(self) -> None:
        """Kill the server and release its pipes."""
        self.is_closed = True
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        self._process.wait()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ServerEndedError("the server accepts no questions") from error

    def _read(self, timeout_s: float) -> dict[str, Any]:
        """Read the next line. Raises `TimeoutError` if none comes in time."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        if not ready:
            raise TimeoutError
        line = self._process.stdout.readline()
        if not line:
            raise ServerEndedError("the server has ended")
        message: dict[str, Any] = json.loads(line)
        return message


def _kill(process_id: int) -> None:
    """Kill a child and the processes that it started."""
    for end in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            end(process_id, signal.SIGKILL)


# ------------------------------------------------------------------------------------------------------------- the server


def _serve() -> None:
    parent = int(sys.argv[1])
    child.end_with(parent)
    child.adopt_orphans()
    questions, answers = sys.stdin, sys.stdout
    prepare()
    _say(answers, {"ready": True})
    for line in questions:
        request = json.loads(line)
        server = os.getpid()
        process_id = os.fork()
        if process_id == 0:
            _become_a_child(request, server)
        _say(answers, {"pid": process_id})
        os.waitid(os.P_PID, process_id, os.WEXITED | os.WNOWAIT)
        _kill(process_id)  # kills what it has started; its process id is not reused before waitpid
        _, status = os.waitpid(process_id, 0)
        _end_orphans()
        _say(answers, {"code": os.waitstatus_to_exitcode(status)})


def _end_orphans() -> None:
    """Kill what a child has started in sessions of their own: as it ended, the server became their parent."""
    with contextlib.suppress(OSError, ChildProcessError):
        while True:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            for process_id in map(int, children):
                _kill(process_id)
            os.waitpid(-1, 0)


def _say(answers: IO[str], message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def prepare() -> None:
    """Import everything that a round needs, and exclude it from garbage collection in the children.

    The environment is restored: PyTorch's compiler, when imported, would set one cache folder there for all children.
    """
    environment = dict(os.environ)
    for name in IMPORTED:
        importlib.import_module(name)
    for name in IMPORTED_IF_THERE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    os.environ.clear()
    os.environ.update(environment)
    child.set_imports_aside()


def _become_a_child(request: dict[str, Any], server: int) -> NoReturn:
    """Answer, and exit without cleanup handlers: those belong to the server."""
    code = 1
    try:
        os.setsid()
        child.end_with(server)
        _redirect(request["stderr"])
        os.environ["TMPDIR"] = request["scratch"]
        tempfile.tempdir = None
        sys.argv = ["lipbench", request["answer"], str(server)]
        _reseed()
        child.answer(request["question"], child.writer(Path(request["answer"])))
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def _redirect(stderr: str) -> None:
    """Redirect stderr to a file, stdin and stdout to /dev/null: the server uses its own streams to talk to the parent."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    errors = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((nowhere, 0), (nowhere, 1), (errors, 2)):
        os.dup2(source, target)
    sys.stdin = os.fdopen(0, closefd=False)  # the server's stdin object has read ahead
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, errors="replace", closefd=False) for number in (1, 2))


def _reseed() -> None:
    """Reseed generators that the case's seed does not set, so that children differ as separately started processes do."""
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


if __name__ == "__main__":
    _serve()
