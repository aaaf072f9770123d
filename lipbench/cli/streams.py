"""Standard streams that are closed, full, a broken pipe, or of an encoding that lacks characters: never a traceback."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys

UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""error codes of a stream that accepts nothing more"""
BROKEN_PIPE = 141
"""the exit code of a program that SIGPIPE ended, as a shell reports it"""
_UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""control characters but line feeds, also those that turn the direction of text, and lone surrogates"""


def prepare() -> bool:
    """Give closed standard streams to /dev/null, and have characters that an encoding lacks written as escapes.

    Returns whether stdout is open. The descriptors 0 to 2 are in use afterwards, so that no file gets one of them.
    """
    is_open = sys.stdout is not None
    for number, mode in enumerate("rww"):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
        if (sys.stdin, sys.stdout, sys.stderr)[number] is None:
            stream = open(number, mode, closefd=False)  # noqa: SIM115  # open until the process ends
            setattr(sys, ("stdin", "stdout", "stderr")[number], stream)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return is_open


def shown(text: str) -> str:
    """A text for a terminal: control characters other than line feeds are written as escapes, such as `\\x1b`."""
    return _UNPRINTABLE.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode(), text)


def complain(text: str) -> None:
    """Print on stderr, if that is possible."""
    with contextlib.suppress(OSError, ValueError):
        print(shown(text), file=sys.stderr, flush=True)


def broken() -> OSError | None:
    """The error of an output stream that could not write everything; None if all is written. A broken stream is given up."""
    found = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            found = found or error
            with contextlib.suppress(OSError, ValueError):  # what is left in the stream is written to /dev/null at the end
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
    return found


def is_pipe(error: OSError) -> bool:
    """Whether a stream broke because its reader, such as `head`, has ended."""
    return error.errno == errno.EPIPE
