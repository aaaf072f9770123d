"""Run directories of schema 1 give today the export that the program of that schema gave."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lipbench.cli.main import main
from lipbench.store import records

DATA = Path(__file__).parent / "data" / "schema1"
RUNS = ("layers", "compiled", "faulty")
CHANGED: dict[str, str] = {}
"""columns whose contents changed on purpose, with the reason; none yet"""


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_gives_its_old_export_byte_for_byte(tmp_path: Path, name: str) -> None:
    """In the columns that there were; what has come in since is in no old file."""
    with pytest.raises(SystemExit) as ended:
        main(["export", str(DATA / name), "-o", str(tmp_path / "now.csv")])
    assert ended.value.code == 0
    before = DATA / f"{name}.csv"
    columns = [column for column in _header(before) if column not in CHANGED]
    assert _only(before, columns, tmp_path / "old.csv") == _only(tmp_path / "now.csv", columns, tmp_path / "new.csv")


def _header(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return next(csv.reader(file))


def _only(path: Path, columns: list[str], output: Path) -> bytes:
    """The file with these columns alone, written as the export writes."""
    with path.open(newline="") as file, output.open("w", newline="") as written:
        rows = csv.DictWriter(written, columns, extrasaction="ignore", lineterminator="\n")
        rows.writeheader()
        rows.writerows(csv.DictReader(file))
    return output.read_bytes()


@pytest.mark.parametrize("name", RUNS)
def test_old_runs_are_whole(name: str) -> None:
    run = records.load_run(DATA / name)
    assert {record.schema for record in run.records} == {1}
    assert run.problems == ()
