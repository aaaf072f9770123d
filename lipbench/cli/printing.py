"""What leaves the program as files, or as bytes on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd

from lipbench import errors
from lipbench.analysis.rows import measured_rows
from lipbench.store.files import write_file
from lipbench.store.records import Run


def export(run: Run, kind: str, output: Path | None) -> None:
    """Write `measured_rows` as csv, parquet or json; without a file, to stdout. Raises `LipbenchError` where that cannot be."""
    content = _encoded(measured_rows(run), kind)
    if output is not None:
        _write(output, content)
    elif kind == "parquet" and sys.stdout.isatty():
        raise errors.no_output_file(kind)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def _encoded(frame: pd.DataFrame, kind: str) -> bytes:
    if kind == "parquet":
        return bytes(frame.to_parquet(index=False))
    if kind == "json":
        plain = frame.astype(object).where(frame.notna(), None)
        return (json.dumps(plain.to_dict("records"), indent=1) + "\n").encode()
    one_line = frame.assign(warnings=frame["warnings"].str.replace("\n", "; "))
    return one_line.to_csv(index=False).encode()


def _write(path: Path, content: str | bytes) -> None:
    try:
        write_file(path, content)
    except OSError as error:
        raise errors.not_writable(path, error.strerror or str(error)) from error


def report(run: Run, output: Path) -> Path:
    """Write the report of a run. Raises `LipbenchError` for a run without records, and where the file cannot be written."""
    from lipbench.analysis import document

    _write(output, document.document(run))
    return output
