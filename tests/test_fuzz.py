"""Files that are valid JSON and nonsense: every one is read, or named as a problem; none ends in another exception."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import samples
from conftest import EXHAUSTIVE

from lipbench import errors
from lipbench.analysis import document, rows
from lipbench.analysis.rows import certificate_rows, measured_rows, round_rows, warning_rows
from lipbench.answer import Answer
from lipbench.cases import Case, ExternalNetworkSpec, LayerSpec, NetworkSpec, Spec
from lipbench.cli import formats
from lipbench.quantities import Caution, Estimate, Formula, Term
from lipbench.store import benchmark_json, claims, records
from lipbench.store.rounds import Record, Round

READ, RENDERED = (2000, 50) if EXHAUSTIVE else (400, 10)
FORMATS = ("csv", "json", "parquet", "latex", "markdown", "table")
NONSENSE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, -0.0, 2**63, 2**64, -(2**63), 10**12, 10**30, 10**400, 0.5, -1.5, 1e-320, 1e300, 1.7e308,
    float("inf"), float("-inf"), float("nan"), "", "x", "\ud800", "a\x1b[31mred\x07", "=1+1", "a|b\n<b>", "\u202etxt", "0",
    "2026-13-45", "standard", "evil:Layer", "f.py:a", ":", "a:", ".py:", "x" * 5000, "\\", "{}", [], [[]], {}, {"a": 1}, [None],
    ["x"], [1, "x"], [1.0, -1.0], [0.0], [1e-300, 1e18], {"": []}, {"forward": None}, {"step": {}}, [{}], {"\ud800": "\udfff"},
)  # fmt: skip


def good() -> list[Record]:
    """Records with every field filled."""
    timings = {
        "forward": samples.timing(0.001, 0.0012, host_s=(0.0009,)),
        "step": samples.timing(0.003, 0.0031, contended=True),
    }
    whole = replace(samples.ok(timings), warnings=(Caution("unsettled", ("step",), "raise it"),), tuned={"kernel": "b 64"})
    term = Term(3, 2, {"b": 1, "s": 2, "n": -1}, ("c",))
    formulas = (Formula("input", "macs", (term,), (term,), 0.01, 3, ("note",)),)
    estimate = Estimate(formulas, {"step": 9000}, {"prediction": "no"})
    specs = (
        LayerSpec("standard", 4, 8), LayerSpec("cayley", 8, 8), LayerSpec("evil:Layer", 4, 8), NetworkSpec("aol", "XS"),
        ExternalNetworkSpec("evil:Network"),
    )  # fmt: skip

    def rounds(spec: Spec) -> tuple[Round, Round]:
        return (whole, samples.failed("raised", "no") if spec.image_size == 32 else whole)

    found = [Record(Case(spec, 2, compile=spec.method == "cayley"), 2, rounds(spec)) for spec in specs]
    counted = replace(samples.ok({}), certificate=samples.GROWING, estimate=estimate)
    return [replace(record, examinations=(counted,)) for record in found]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    for key in range(len(value)) if isinstance(value, list) else list(value) if isinstance(value, dict) else ():
        yield value, key
        yield from places(value[key])


def mutated(values: Any, chance: random.Random) -> None:
    """Change one place: other values of the same and of other types, missing and additional keys, copies from elsewhere, long
    lists."""
    found = list(places(values))
    container, key = chance.choice(found)
    how = chance.random()
    if how < 0.35:
        container[key] = chance.choice([value for value in NONSENSE if type(value) is type(container[key])] or NONSENSE)
    elif how < 0.65:
        container[key] = chance.choice(NONSENSE)
    elif how < 0.75:
        del container[key]
    elif how < 0.85:
        source, other = chance.choice(found)
        container[key] = json.loads(json.dumps(source[other]))
    elif how < 0.9 and isinstance(container, dict):
        container[str(chance.choice(NONSENSE))] = chance.choice(NONSENSE)
    elif isinstance(container[key], int | float):
        container[key] = container[key] * chance.choice((-1, 0, 1e-30, 1e12, 10**15, 1000))
    else:
        container[key] = [container[key]] * chance.choice((2, 300))


class Fuzzed:
    """A run directory in which one file at a time is damaged, and restored afterwards."""

    def __init__(self, directory: Path) -> None:
        self.run = samples.save_run(directory, good())
        self.files = [self.run / "run.json", *sorted((self.run / "records").iterdir())]
        self.contents = {path: path.read_text() for path in self.files}

    def damaged(self, chance: random.Random) -> Path:
        """Damage one file once or a few times; the others are away, so that reading is quick."""
        path = chance.choice(self.files)
        values = json.loads(self.contents[path])
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            mutated(values, chance)
        for other in self.files:
            other.unlink(missing_ok=True)
        target = self._place(path, values)
        target.write_text(json.dumps(values))
        self.files[self.files.index(path)] = target
        return target

    def _place(self, path: Path, values: Any) -> Path:
        """The path for the damaged file: that of the case where it still is one, so that its rows are read."""
        try:
            name = records.case_from_json(values["case"]).id
            return path.with_name(f"{name}.json") if 0 < len(name) < 200 else path
        except Exception:
            return path

    def restored(self) -> None:
        for path in self.files:
            path.unlink(missing_ok=True)
        for path, content in self.contents.items():
            path.write_text(content)
        self.files = list(self.contents)


def readable(read: Callable[[], object]) -> str:
    """The message of wrong input; "" if it can be read. Any other exception is passed on."""
    try:
        read()
    except errors.LipbenchError as error:
        return str(error)
    return ""


def all_rows(directory: Path) -> None:
    """Read a run, and make its tables; without theory, which takes most of the time and reads nothing but the case."""
    run = records.load_run(directory)
    with mock.patch.object(rows, "expected", return_value={}):
        for table in (measured_rows, certificate_rows, round_rows, warning_rows):
            table(run)
    assert all(problem.isprintable() for problem in run.problems)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_records_and_plans_are_read_or_named(tmp_path: Path, seed: int) -> None:
    chance, fuzzed = random.Random(seed), Fuzzed(tmp_path / "run")
    read = 0
    for _ in range(READ // 4):
        fuzzed.damaged(chance)
        said = readable(lambda: all_rows(fuzzed.run))
        assert said.isprintable()
        read += not said
        fuzzed.restored()
    assert READ // 80 < read < READ // 4


@pytest.mark.parametrize("seed", range(2))
def test_what_is_read_of_damaged_records_can_be_exported_and_shown(tmp_path: Path, seed: int) -> None:
    chance, fuzzed = random.Random(100 + seed), Fuzzed(tmp_path / "run")
    shown = 0
    while shown < RENDERED // 2:
        fuzzed.damaged(chance)
        try:
            run = records.load_run(fuzzed.run)
        except errors.LipbenchError:
            run = None
        if run and run.records:
            answer = Answer(measured_rows(run), problems=run.problems)
            for format in FORMATS:
                assert formats.encoded(answer, format)
            assert "\x1b" not in document.document(run)
            shown += 1
        fuzzed.restored()


def test_damaged_claims_and_benchmark_files_are_read_or_named(tmp_path: Path) -> None:
    chance = random.Random(0)
    record = records.round_to_dict(good()[0].rounds[0])
    case = json.loads(next((samples.save_run(tmp_path / "one", good()[:1]) / "records").iterdir()).read_text())["case"]
    facts = {
        "case": case,
        "phase": "step",
        "contention": None,
        **{name: record[name] for name in ("memory", "macs", "machine")},
    }
    entry = {"name": "test", "stats": {"data": [0.1, 0.2], "iterations": 2}, "extra_info": facts}
    sources = {
        tmp_path / "saved.json": {"datetime": "2026-01-02T03:04:05", "benchmarks": [entry, {"name": "x", "extra_info": {}}]},
        tmp_path / "claims" / "c.json": {"machine": "m", "process_id": 3, "process_started": "4", "until": 5.0},
    }
    (tmp_path / "claims").mkdir()
    for path, source in sources.items():
        for _ in range(300):
            values = json.loads(json.dumps(source))
            mutated(values, chance)
            path.write_text(json.dumps(values))
            claims.holders(tmp_path)
            assert readable(lambda: measured_rows(benchmark_json.load(tmp_path / "saved.json"))).isprintable()
