"""Questions about external layers and networks, each answered in a fresh process with a time limit.

Verbs that do not time anything run external code here, so that a layer that exits, crashes or hangs loses its own answer and
nothing else. Such a process is no sandbox: it may do whatever its user may do.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from lipbench import external
from lipbench.cases import ExternalNetworkSpec, Limits, Spec
from lipbench.cores import usable_cores
from lipbench.run import isolate
from lipbench.run.executor import Place, Wanted
from lipbench.run.processes import Processes, usual_start

TIMEOUT_S = Limits().timeout_s
"""seconds for one answer, unless the user gives another number"""


class EndedError(RuntimeError):
    """The process ended without an answer, or the layer raised. The text is the reason."""

    def __init__(self, reason: str, traceback: str = "") -> None:
        super().__init__(reason)
        self.traceback = traceback


class Apart:
    """Asks questions in fresh processes, one at a time; a context manager, since a server may be running."""

    def __init__(self, timeout_s: float | None = None) -> None:
        self._timeout_s = TIMEOUT_S if timeout_s is None else timeout_s
        self._processes = Processes(usual_start())
        self._ended: dict[str, EndedError] = {}
        """names that ended the process which loaded them"""
        self._checked: set[str] = set()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._processes.renew()

    def stop(self) -> None:
        """End the question of another thread, which raises `StoppedError`, and accept no more; callable from any thread."""
        self._processes.stop()

    @staticmethod
    def is_for(spec: Spec) -> bool:
        """Whether building a spec runs external code."""
        return external.is_external(spec.method)

    def check(self, spec: Spec) -> None:
        """Load the callable of a spec. Raises `LipbenchError` if it cannot be loaded or called.

        If loading ends the process, `ask` gives that as the answer to every question about the name.
        """
        name = spec.method
        if name in self._checked:
            return
        self._checked.add(name)
        wanted = {"networks": (name,)} if isinstance(spec, ExternalNetworkSpec) else {"methods": (name,)}
        try:
            self._asked({"methods": (), "implementations": (), "device": "cpu", **wanted}, "device")
        except EndedError as error:
            self._ended[name] = error

    def survey(self, wanted: Wanted) -> Place:
        """The device that 'auto' means here, and the cores. Raises `LipbenchError` as `Executor.survey` does."""
        return isolate.survey(self._processes, wanted)

    def ask(
        self, module: str, spec: Spec, question: dict[str, Any], threads: int | None = None, timeout_s: float | None = None
    ) -> Any:
        """What the function `answer` of a module returns for a question about a spec.

        `threads` are by default one for each core, and `timeout_s` is that of all questions. Raises the `LipbenchError` that it
        raises, and `EndedError` for all else that happens in the process.
        """
        if spec.method in self._ended:
            raise self._ended[spec.method]
        return self._asked({**question, "module": module}, "answer", threads, timeout_s)

    def _asked(self, question: dict[str, Any], wanted: str, threads: int | None = None, timeout_s: float | None = None) -> Any:
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        killed_before = isolate.killed_for_memory()
        ending = self._processes.ask(question, limit_s, threads or usable_cores())
        ending.raise_refusal()
        answer = ending.answer or {}
        said = {name: text for name, text in answer.items() if isinstance(text, str)}
        if "failed" in said:
            raise EndedError(said["failed"], said.get("traceback", ""))
        if wanted not in answer:
            raise EndedError(isolate.death(ending, limit_s, isolate.killed_for_memory() > killed_before).reason)
        return answer[wanted]
