"""Measured rates: what is measured is what operations are recorded as; grids, files, and estimates by hand."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lipbench
from lipbench import errors, registry
from lipbench.analysis import document, predicted
from lipbench.calibration import answer, calls, overheads, sweep
from lipbench.calibration.calls import MEASURED, Measured
from lipbench.calibration.sweep import Point
from lipbench.cases import Case, LayerSpec, Limits
from lipbench.cli import main as cli
from lipbench.prediction import estimate, forms, operations, rates, time
from lipbench.prediction.operations import Operation
from lipbench.prediction.rates import Rates, Table
from lipbench.run import measure
from lipbench.store.records import Run
from lipbench.store.rounds import Record
from lipbench.store.run_plan import RunPlan

FEW = tuple(
    replace(one, axes=tuple(axis[:2] for axis in one.axes)) for one in MEASURED if one.form in ("elementwise", "product")
)
COSTS = {"call": 1e-6, "view": 0.5e-6, "record": 2e-6, "node": 3e-6, "forward": 1e-5, "backward": 2e-5, "inference": 1e-5,
         "parametrize": 1e-6, "update": 4e-5}  # fmt: skip
SIDES = Table("product", "float32", ((1.0, 10.0), (10.0, 100.0)), (1e-5, 1e-2, 1e-4, 1e-1))
MOVES = Table("elementwise", "float32", ((1e3, 1e6),), (1e-6, 1e-3))
KNOWN = Rates("this", "", "cpu", {"float32": 1e9}, 1e9, threads=1, overheads_s=COSTS, tables=(SIDES, MOVES))


@pytest.mark.parametrize("one", MEASURED, ids=lambda one: f"{one.form}-{one.dtype}")
def test_what_is_measured_is_recorded_as_its_form(one: Measured) -> None:
    sizes = tuple(axis[1] for axis in one.axes)
    call = one.make(*sizes, one.dtype)
    with operations._Recorder() as seen:
        call()
    (found,) = (operation for operation in seen.operations if operation.kind != "view")
    assert found.form == one.form
    assert found.sizes == pytest.approx(sizes, rel=0.1)
    assert len(sizes) == len(forms.AXES[one.form])


@pytest.mark.parametrize("method", sorted(registry.METHODS))
def test_every_operation_of_a_method_is_measured(method: str) -> None:
    found, _ = operations.of_case(Case(LayerSpec(method, 8, 6), 4))
    tables = tuple(Table(one.form, str(one.dtype).removeprefix("torch."), ((1.0, 2.0),) * len(one.axes),
                         (1.0,) * 2 ** len(one.axes)) for one in MEASURED)  # fmt: skip
    known = replace(KNOWN, tables=tables)
    for phase, seen in found.items():
        assert time.estimated(phase, seen, known).seconds > 0


def test_every_form_is_measured() -> None:
    assert {one.form for one in MEASURED} == set(forms.AXES)
    assert len({(one.form, one.dtype) for one in MEASURED}) == len(MEASURED)


# -------------------------------------------------------------------------------------------------------------- estimates


def product(matrices: float, side: float, **more: object) -> Operation:
    return Operation("bmm", "product", 1.0, 0, 0, "float32", form="product", sizes=(matrices, side), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sizes", "seconds"),
    [((1, 10), 1e-5), ((10, 100), 1e-1), ((1, 1000**0.5), 10**-3.5), ((10**0.5, 10), 10**-4.5), ((1, 1000), 10.0),
     ((100, 10), 1e-3)],
    ids=["corner", "other corner", "between sides", "between counts", "beyond sides", "beyond counts"],
)  # fmt: skip
def test_times_are_lines_between_logarithms(sizes: tuple[float, float], seconds: float) -> None:
    assert estimate.seconds(product(*sizes), KNOWN) == pytest.approx(seconds)


def test_autograd_adds_a_node_forward_and_its_own_dispatch_backward() -> None:
    plain = estimate.seconds(product(1, 10), KNOWN)
    assert estimate.seconds(product(1, 10, recorded=True), KNOWN) == pytest.approx(plain + 2e-6)
    assert estimate.seconds(product(1, 10, in_backward=True), KNOWN) == pytest.approx(plain + 3e-6 - 1e-6)
    view = Operation("view", "view", 0, 0, 0, "float32")
    assert estimate.seconds(view, KNOWN) == pytest.approx(0.5e-6)


def test_what_was_not_measured_is_not_guessed() -> None:
    double = replace(product(1, 10), dtype="float64")
    with pytest.raises(estimate.UnmeasuredError, match="bmm in float64"):
        estimate.seconds(double, KNOWN)
    with pytest.raises(estimate.UnmeasuredError, match="cummax"):
        estimate.seconds(Operation("cummax", "unknown", 0, 8, 8, "float32"), KNOWN)
    moved = Operation("add", "elementwise", 0, 8, 8, "float64", form="elementwise", sizes=(1e3,))
    assert estimate.seconds(moved, KNOWN) == pytest.approx(1e-6)  # bytes are bytes


def test_a_step_adds_what_its_parts_cost() -> None:
    seen = [product(1, 10)]
    assert time.estimated("step", seen, KNOWN).seconds == pytest.approx(1e-5 + 1e-5 + 2e-5 + 4e-5)
    found = time.estimated("forward", [product(10, 100)], KNOWN)
    assert (found.kind, found.bound) == ("estimate", "product")
    assert time.estimated("forward", [], KNOWN).bound == "dispatch"


def test_a_factor_that_is_only_marked_as_conjugate_is_copied() -> None:
    x = torch.randn(3, 4, 4, dtype=torch.complex64)
    assert forms.copies("product", [x, x]) == ()
    assert forms.copies("product", [x.mH]) == (("complex elementwise", (2 * 8 * 48,)),)
    assert forms.copies("product", [x.permute(1, 2, 0)]) == ()
    assert forms.copies("elementwise", [x.mH]) == ()
    assert forms.copies("product", [torch.randn(4, 4, 4)[..., 0]]) == (("rearrangement", (2 * 4 * 16, 4)),)


def test_matrices_without_rows_or_columns_are_multiplied_one_by_one() -> None:
    """As the factors of a batch with spread elements; a transposed factor, and a single matrix, are not."""
    x, spread = torch.randn(3, 4, 4), torch.randn(4, 4, 3).permute(2, 0, 1)
    assert [forms._product(factors)[0] for factors in ((x, x.mT), (x, spread), (spread, x), (spread[:1], x[:1]))] == [
        "product", "product of rearranged matrices", "product of rearranged matrices", "product",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tensors", "run"),
    [
        (lambda x: [x, x.clone()], 4 * 96),
        (lambda x: [x, x.new_empty(4, 1, 1)], 4 * 96),
        (lambda x: [x.permute(3, 2, 1, 0), x.permute(3, 2, 1, 0).clone()], 4 * 96),
        (lambda x: [x.permute(3, 2, 1, 0), x.new_empty(6, 2, 4, 2)], 4),
        (lambda x: [x[..., :3], x.new_empty(2, 4, 2, 3)], 12),
        (lambda x: [x, x.new_empty(2, 4, 4, 8)], 24),
    ],
    ids=["alike", "broadcast", "both permuted", "permuted", "cut", "padded"],
)
def test_runs_that_tensors_share(tensors: object, run: int) -> None:
    assert forms.run_bytes(tensors(torch.randn(2, 4, 2, 6))) == run  # type: ignore[operator]


# ------------------------------------------------------------------------------------------------------------------ sweeps


def test_a_size_that_is_too_large_takes_as_long_as_its_work_says() -> None:
    one = Measured("elementwise", torch.float32, ((10, 100), (1, 2)), calls._rearranged, lambda size, run: size * run)
    found = [Point(one, (10, 1), (1.0, 1.0)), Point(one, (100, 1), (5.0, 5.0)), Point(one, (10, 2), (3.0, 3.0))]
    (table,) = sweep.tables(found)
    assert table.seconds == pytest.approx((1.0, 3.0, 5.0, 10.0))
    assert table.axes == ((10.0, 100.0), (1.0, 2.0))


def test_two_times_of_three_must_agree() -> None:
    one = MEASURED[0]
    assert not Point(one, (1, 4), (1.0, 1.09)).differs
    assert Point(one, (1, 4), (1.0, 1.2)).differs
    assert not Point(one, (1, 4), (1.0, 1.2, 1.25)).differs
    assert Point(one, (1, 4), (1.0, 1.2, 1.5)).differs
    assert Point(one, (1, 4), (1.0, 4.0)).median_s == pytest.approx(2.0)
    assert Point(one, (1, 4), (1.0, 9.0, 4.0)).median_s == pytest.approx(4.0)


def test_a_calibration_has_all_that_an_estimate_needs(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    found, told = answer.calibrate(lambda done, total: seen.append((done, total)), FEW)
    assert seen[-1][0] == seen[-1][1] == 3 * len(sweep.points(FEW))
    assert [table.form for table in found.tables] == ["product"] * 3 + ["elementwise"]
    assert found.macs_per_s.keys() == {"float32", "float64"}
    assert found.overheads_s.keys() == COSTS.keys()
    assert all(value >= 0 for value in found.overheads_s.values())
    assert list(told.frame["form"]) == [table.form for table in found.tables]
    path = tmp_path / "rates.json"
    assert rates.read(rates.write(found, path)) == found
    known = {one.phase: one for one in time.predicted(Case(LayerSpec("standard", 2, 4), 2), replace(found, tables=()))}
    assert known["step"].kind == "floor"


def test_calls_take_turns_and_their_results_stay_for_a_turn() -> None:
    made: list[weakref.ref[Tensor]] = []

    def making(value: float) -> Callable[[], Tensor]:
        def call() -> Tensor:
            result = torch.full((2,), value)
            made.append(weakref.ref(result))
            return result

        return call

    turn = sweep.in_turn([making(0.0), making(1.0), making(2.0)])
    for _ in range(4):
        turn()
    kept = [one() for one in made]
    assert kept[0] is None
    assert [float(one[0]) for one in kept[1:] if one is not None] == [1.0, 2.0, 0.0]


def test_overheads_come_from_a_layer_that_computes_nothing() -> None:
    layer, x = overheads.Nothing(1, 1, 1, 1), torch.randn(2, 1, 3, 3)
    with operations._Recorder() as seen:
        layer(x)
    assert {one.kind for one in seen.operations} == {"view"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"tables": [{}]}, "missing"),
        ({"device": 1}, "device"),
        ({"schema": 99}, "99"),
        ({"schema": 1}, "earlier"),
        ({"other": 1}, "other"),
    ],
    ids=["table", "type", "newer", "older", "unknown"],
)
def test_damaged_rates_are_named(tmp_path: Path, change: dict[str, object], why: str) -> None:
    path = rates.write(KNOWN, tmp_path / "rates.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(errors.LipbenchError, match=why):
        rates.read(path)


def test_a_table_must_fit_its_axes(tmp_path: Path) -> None:
    path = rates.write(replace(KNOWN, tables=(replace(SIDES, seconds=(1.0,)),)), tmp_path / "rates.json")
    with pytest.raises(errors.LipbenchError, match="axes"):
        rates.read(path)


def test_rates_lie_in_the_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(rates, "usable_cores", lambda: 3)
    assert rates.present() is None
    written = rates.write(replace(KNOWN, threads=3))
    assert written.parent == tmp_path / "lipbench"
    assert rates.present() == written
    assert rates.chosen(None, written) == replace(KNOWN, threads=3)


# ------------------------------------------------------------------------------------------- beside measurements, and the verb


@pytest.fixture
def known() -> Rates:
    """Rates with a table for every form, in which everything takes a microsecond."""
    tables = (Table(one.form, str(one.dtype).removeprefix("torch."), ((1.0, 2.0),) * len(one.axes),
                    (1e-6,) * 2 ** len(one.axes)) for one in MEASURED)  # fmt: skip
    return replace(KNOWN, tables=tuple(tables))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of one small case, as it was measured in this process."""
    case = Case(LayerSpec("soc", 2, 4), 2)
    found = measure.measure(case, Limits(phase_seconds=0.01))
    return Run(tmp_path_factory.mktemp("run"), RunPlan(), (Record(case, 1, (found,)),))


def test_predicted_times_stand_beside_measured_ones(measured: Run, known: Rates) -> None:
    found = predicted.answer(measured, known)
    assert not found.problems
    rows = found.frame.set_index(["phase", "evidence", "kind"])
    assert {evidence for _, evidence, _ in rows.index} == {"measured", "predicted"}
    one = rows.loc["step", "measured", ""]
    assert one["share"] == pytest.approx(rows.loc["step", "predicted", "floor"]["seconds"] / one["seconds"])
    assert one["seconds"] > 0
    assert math.isnan(one["low_s"])  # one round has no interval
    ratios = predicted.errors_of(found.frame).set_index("phase")["ratio"]
    assert ratios["step"] == pytest.approx(rows.loc["step", "predicted", "estimate"]["seconds"] / one["seconds"])
    assert "median error" in " ".join(found.remarks)
    assert list(found.readable["method"]) == ["soc"]  # type: ignore[index]


def test_rates_of_other_threads_or_devices_are_not_used(measured: Run, known: Rates) -> None:
    for other in (replace(known, threads=3), rates.named("H100")):
        with pytest.raises(errors.LipbenchError, match="can be predicted from the rates of"):
            predicted.answer(measured, other)


def test_limits_are_those_of_the_machine_of_the_run(
    measured: Run, known: Rates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(rates, "usable_cores", lambda: 1)
    assert predicted.limits(measured).empty
    rates.write(known)
    found = predicted.limits(measured).set_index("phase")
    assert found.loc["step", "floor_s"] > found.loc["forward", "floor_s"] > 0
    assert found.loc["step", "macs_per_s"] == known.macs_per_s["float32"]
    page = document.document(measured)
    assert "Times and their limits" in page
    assert 'id="roofline-title"' in page
    (record,) = measured.records
    (found_round,) = record.rounds
    assert found_round.machine is not None
    elsewhere = replace(found_round, machine=replace(found_round.machine, hostname="another"))
    assert predicted.limits(replace(measured, records=(replace(record, rounds=(elsewhere,)),))).empty


def test_predict_shows_times_where_rates_are_known(known: Rates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sizes = {"channels": 2, "image_size": 4, "batch_size": 2}
    without = lipbench.predict("aol", **sizes)
    assert "step_s" not in without.frame
    assert "lipbench calibrate" in without.remarks[-1]
    least = lipbench.predict("aol", f"{__name__}:Identity", gpu="H100", **sizes)
    assert list(least.frame["evidence"]) == ["predicted"] * 2
    assert list(least.frame["device"]) == ["cuda"] * 2
    assert (least.frame["step_s"] >= least.frame["inference_s"]).all()
    assert "step time" in least.readable  # type: ignore[operator]
    expected = lipbench.predict("aol", rates=rates.write(known, tmp_path / "rates.json"), **sizes)
    assert expected.frame.loc[0, "time_kind"] == "estimate"
    assert expected.frame.loc[0, "step_s"] > least.frame.loc[0, "step_s"]


def test_the_cases_of_a_run_are_its_own(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["predict", "--run", str(tmp_path), "--method", "aol"])
    assert stop.value.code == 2


class Identity(torch.nn.Module):
    """An external layer."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def test_calibrate_writes_its_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(answer, "MEASURED", FEW)
    path = tmp_path / "rates.json"
    with pytest.raises(SystemExit) as stop:
        cli.main(["calibrate", "--threads", "1", "-o", str(path), "--format", "json"])
    assert stop.value.code in (0, 4)  # this machine may be busy
    told = json.loads(capsys.readouterr().out)
    assert {row["outcome"] for row in told} <= {"ok", "too noisy"}
    assert (stop.value.code == 4) == any(row["outcome"] == "too noisy" for row in told)
    assert [table.form for table in rates.read(path).tables] == [row["form"] for row in told]
