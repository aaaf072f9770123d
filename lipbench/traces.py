"""An exception as text: one line that names the place in the user's code, and the traceback.

External layers may raise anything: exceptions whose text cannot be read, has 10 MB, or characters that are no text. What is
returned here is always short and can be written as UTF-8.
"""

from __future__ import annotations

import linecache
import os
import sys
import sysconfig
import traceback
from types import FrameType

from lipbench import errors

LINE_CHARACTERS = 500
TRACEBACK_CHARACTERS = 8000
_PACKAGES = ("lipbench", "lipbench_kernels", "torch", "triton", "fvcore", "runpy")
"""packages whose frames are never the user's code"""
_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep
_INSTALLED = ("site-packages", "dist-packages")
_STANDARD = tuple({os.path.abspath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib")})


def line(error: BaseException, first: bool = False) -> str:
    """`TypeError: the last line of the message (layers.py:42)`, or its `first` line; without a place where no frame is the
    user's code."""
    lines = _lines(message(error))
    text = lines[0 if first else -1] if lines else ""
    said = f"{plain(type(error).__name__)[:LINE_CHARACTERS]}: {text}".removesuffix(": ")
    return placed(said, error)


def placed(text: str, error: BaseException) -> str:
    """A text about an error, with the place in the user's code added: `… (layers.py:42)`."""
    where = place(error)
    return f"{text} ({where})" if where else text


def place(error: BaseException) -> str:
    """File and line of the user's code that raised an error, such as `layers.py:42`; "" if there is none.

    It is the innermost frame that belongs neither to lipbench, nor to PyTorch, nor to the standard library. Where the error has
    no such frame, its cause may have one.
    """
    found = _place(error)
    return f"{plain(os.path.basename(found[0]))}:{found[1]}" if found else ""


def source_line(error: BaseException) -> str:
    """The text of that line; "" if it is not known."""
    found = _place(error)
    return linecache.getline(*found).strip() if found else ""


def _place(error: BaseException) -> tuple[str, int] | None:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        if isinstance(one, SyntaxError) and one.filename and one.lineno:
            return one.filename, one.lineno
        found = [(frame, number) for frame, number in traceback.walk_tb(one.__traceback__) if _is_the_users(frame, number)]
        if found:
            frame, number = found[-1]
            return frame.f_code.co_filename, number
        one = one.__cause__ or one.__context__
    return None


def text(error: BaseException) -> str:
    """The traceback of an error as Python prints it; a long one without its middle."""
    try:
        lines = "".join(traceback.format_exception(error, limit=-40))
    except Exception:  # an exception may have parts that cannot be printed
        lines = "".join(traceback.format_tb(error.__traceback__, limit=-40)) + type(error).__name__
    return _shortened(plain(lines))


def of_cause(error: errors.LipbenchError) -> str:
    """The traceback of the exception that a `LipbenchError` reports, in this process or in a child; "" if there is none."""
    return error.traceback or (text(error.__cause__) if error.__cause__ else "")


def _shortened(lines: str) -> str:
    if len(lines) <= TRACEBACK_CHARACTERS:
        return lines
    half = TRACEBACK_CHARACTERS // 2
    return f"{lines[:half]}\n  [{len(lines) - 2 * half} characters are left out]\n{lines[-half:]}"


def message(error: BaseException) -> str:
    """The text of an error, which its own `__str__` may fail to give."""
    try:
        return plain(str(error))
    except BaseException as problem:
        return f"its message cannot be read, because __str__ raised {plain(type(problem).__name__)}"


def last_line(text: str) -> str:
    """The last line with a letter or digit, cut to `LINE_CHARACTERS`; "" if there is none."""
    return next(reversed(_lines(text)), "")


def _lines(text: str) -> list[str]:
    return [line.strip()[:LINE_CHARACTERS] for line in text.splitlines() if any(map(str.isalnum, line))]


def plain(text: str) -> str:
    """A text with lone surrogates written as escapes, so that it can be written as UTF-8."""
    return str.encode(text, "utf-8", "backslashreplace").decode()


def _is_the_users(frame: FrameType, number: int) -> bool:
    path, module = frame.f_code.co_filename, str(frame.f_globals.get("__name__", ""))
    if path.startswith(_OWN) or module.partition(".")[0] in _PACKAGES:
        return False
    if path.startswith("<"):  # a cell of a notebook has source lines, generated code has none
        return bool(linecache.getline(path, number))
    is_standard = path.startswith(_STANDARD) and not any(f"{os.sep}{name}{os.sep}" in path for name in _INSTALLED)
    return not is_standard and module.partition(".")[0] not in sys.stdlib_module_names
