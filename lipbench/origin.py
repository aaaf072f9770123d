"""Where in the user's code an exception arose."""

from __future__ import annotations

import linecache
import sysconfig
from pathlib import Path
from types import TracebackType

_OWN = str(Path(__file__).parent)
_TORCH = ("torch", "functorch", "torchgen")
"""packages beside each other in one folder, whose frames are not the user's"""


def where(error: BaseException) -> str:
    """File name and line of the innermost frame that is neither PyTorch's, Python's nor lipbench's; "" if there is none.

    An exception without such a frame has the place of its cause.
    """
    found = _place(error)
    return f"{Path(found[0]).name}:{found[1]}" if found else ""


def source_line(error: BaseException) -> str:
    """The text of that line; "" if it is not known."""
    found = _place(error)
    return linecache.getline(*found).strip() if found else ""


def described(error: BaseException) -> str:
    """An exception in one line: its type, the first line of its text, and its place in the user's code."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    place = where(error)
    return f"{type(error).__name__}: {text}".removesuffix(": ") + (f" ({place})" if place else "")


def _place(error: BaseException) -> tuple[str, int] | None:
    seen: list[BaseException] = []
    while error not in seen:
        seen.append(error)
        if isinstance(error, SyntaxError) and error.filename and error.lineno:
            return error.filename, error.lineno
        if found := _innermost(error.__traceback__):
            return found
        error = error.__cause__ or error.__context__ or error
    return None


def _innermost(traceback: TracebackType | None) -> tuple[str, int] | None:
    found = None
    while traceback is not None:
        path = traceback.tb_frame.f_code.co_filename
        if _is_users(path):
            found = path, traceback.tb_lineno
        traceback = traceback.tb_next
    return found


def _is_users(path: str) -> bool:
    """Whether a file is not part of Python, PyTorch or lipbench. Code without a file is nobody's, except that of a notebook."""
    if path.startswith("<") and not path.startswith("<ipython"):
        return False
    place = Path(path)
    installed = [
        place.parts[index + 1] for index, part in enumerate(place.parts[:-1]) if part in ("site-packages", "dist-packages")
    ]
    if installed:
        return installed[-1] not in _TORCH
    return not any(place.is_relative_to(folder) for folder in (_OWN, sysconfig.get_path("stdlib")))
