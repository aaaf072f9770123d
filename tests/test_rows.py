"""Rows and exponents from records whose numbers are known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import samples
from scipy import stats

from lipbench.analysis.exponents import exponents
from lipbench.analysis.rows import CERTIFICATE_COLUMNS, WARNING_COLUMNS, certificate_rows, measured_rows, warning_rows
from lipbench.analysis.statistics import power_law
from lipbench.cases import Case, LayerSpec, NetworkSpec
from lipbench.quantities import Caution, Contention, Timing
from lipbench.store.records import Run
from lipbench.store.rounds import Part, Record, Round, summed_up
from lipbench.store.run_plan import RunPlan


def as_run(*found: Record) -> Run:
    return Run(Path("run"), RunPlan(), found)


def rounds(*timings: Timing, phase: str = "step", warnings: tuple[str, ...] = ()) -> tuple[Round, ...]:
    return tuple(samples.ok({phase: timing}, first=number == 0, warnings=warnings) for number, timing in enumerate(timings))


def only_row(*timings: Timing, phase: str = "step") -> pd.Series:
    frame = measured_rows(as_run(Record(samples.case(), len(timings), rounds(*timings, phase=phase))))
    assert len(frame) == 1
    return frame.iloc[0]


def test_the_export_is_the_one_that_readers_count_on() -> None:
    """Names, order and values of all columns, as `export.csv` has them; a condition that no case has adds none."""
    steps = {name: samples.timing(0.5, 0.6) for name in ("forward", "step", "inference")}
    found = as_run(
        Record(samples.case(threads=2), 2, (samples.ok(steps), samples.ok(steps, first=False, warnings=("slow",)))),
        Record(replace(samples.case("aol"), compile=True), 1, (samples.ok({"forward": samples.timing(0.25, host_s=(0.1,))}),)),
        Record(Case(NetworkSpec("soc", "S"), 2, "float64"), 1, (Round("timeout", "took too long"),)),
    )
    assert measured_rows(found).to_csv(index=False) == Path(__file__).with_name("export.csv").read_text()
    assert list(measured_rows(as_run()).columns) == list(measured_rows(found).columns)


def test_a_round_counts_once_however_many_samples_it_has() -> None:
    row = only_row(samples.timing(*[1.0] * 50), samples.timing(2.0, 2.0, 2.0), samples.timing(4.0, 4.0, 4.0))
    assert row["median_s"] == pytest.approx(2.0)
    low, high = stats.t.interval(0.95, 2, loc=math.log(2), scale=stats.sem([0, math.log(2), math.log(4)]))
    assert (row["low_s"], row["high_s"]) == pytest.approx((math.exp(low), math.exp(high)))
    assert (row["samples"], row["rounds"]) == (56, 3)
    assert row["round_spread"] == 3.0
    assert row["images_per_s"] == pytest.approx(2 / 2.0)


def test_one_round_has_the_median_of_its_samples_and_no_interval() -> None:
    row = only_row(samples.timing(*(float(value) for value in range(1, 12))))
    assert row["median_s"] == pytest.approx(6.0)
    assert math.isnan(row["low_s"])
    assert row["round_spread"] == 0.0


def test_outliers_are_counted_and_kept() -> None:
    row = only_row(samples.timing(1.0, 1.01, 1.02, 1.03, 1.04, 9.0))
    assert (row["outliers"], row["samples"]) == (1, 6)


def test_a_contended_round_is_left_out_and_the_quiet_ones_are_counted() -> None:
    row = only_row(samples.timing(1.0), samples.timing(9.0, contended=True), samples.timing(1.0))
    assert (row["median_s"], row["quiet_rounds"], row["rounds"], row["contended"]) == (1.0, 2, 3, False)
    assert math.isclose(row["high_s"], 1.0)


def test_a_phase_without_a_quiet_round_is_contended_and_all_rounds_are_used() -> None:
    row = only_row(samples.timing(1.0, contended=True), samples.timing(4.0, contended=True))
    assert (row["quiet_rounds"], row["contended"]) == (0, True)
    assert row["median_s"] == pytest.approx(2.0)


def test_converged_means_that_the_interval_over_rounds_is_narrow() -> None:
    """A phase whose rounds differ by 57 % was once exported as converged, because the samples of each round agreed."""
    assert not only_row(samples.timing(1.0), samples.timing(1.57))["converged"]
    assert only_row(*(samples.timing(value) for value in (1.0, 1.01, 1.0, 1.01, 1.0)))["converged"]
    assert not only_row(samples.timing(1.0))["converged"], "one round does not tell"
    assert only_row(Timing((1.0,)))["contended"] is pd.NA


def test_the_worst_round_says_what_the_clock_costs_and_how_much_others_took() -> None:
    timings = [
        Timing((1.0,), timer_cost_s=cost, contention=Contention(0.9, share, 0)) for cost, share in ((2e-7, 0.04), (1e-7, 0.01))
    ]
    row = only_row(*timings)
    assert (row["timer_cost_s"], row["foreign_share"]) == (2e-7, 0.04)
    assert math.isnan(only_row(Timing((1.0,)))["foreign_share"])


def test_the_lowest_clock_of_all_rounds_and_every_reason_for_it() -> None:
    seen = [
        Contention(0.9, 0.0, 0, 0, 0.9, False, ("power limit",)),
        Contention(0.9, 0.0, 0, 0, 0.6, False, ("idle", "power limit")),
    ]
    row = only_row(*(Timing((1.0,), contention=one) for one in [*seen, Contention(0.9, 0.0, 0)]))
    assert (row["gpu_clock_share"], row["gpu_clock_limited_by"]) == (0.6, "power limit, idle")
    on_cpu = only_row(samples.timing(1.0))
    assert math.isnan(on_cpu["gpu_clock_share"])
    assert on_cpu["gpu_clock_limited_by"] == ""


def test_launch_bound_where_the_device_takes_hardly_longer_than_the_host() -> None:
    assert only_row(samples.timing(1.0, host_s=(2.0, 3.0)))["launch_bound"]
    assert only_row(samples.timing(1.0, host_s=(0.95, 0.96)))["launch_bound"]
    assert not only_row(samples.timing(1.0, host_s=(0.2, 0.3)))["launch_bound"]
    on_cpu = only_row(samples.timing(1.0))
    assert on_cpu["launch_bound"] is pd.NA
    assert math.isnan(on_cpu["host_median_s"])


def test_memory_and_macs_come_from_the_round_that_took_them() -> None:
    row = only_row(samples.timing(1.0), samples.timing(1.0))
    assert (row["peak_memory_bytes"], row["peak_above_baseline_bytes"], row["parameter_bytes"]) == (9000, 5000, 640)
    assert (row["saved_memory_bytes"], row["saved_input_half_bytes"], row["saved_parameter_half_bytes"]) == (4000, 3800, 200)
    inference = only_row(samples.timing(1.0), phase="inference")
    assert inference["macs"] == 1200
    assert inference["saved_memory_bytes"] is pd.NA


def test_what_no_measured_phase_made_is_missing_and_workspaces_stand_apart() -> None:
    one = samples.ok({"forward": samples.timing(1.0)})
    assert one.memory is not None
    memory = replace(
        one.memory, gradient_bytes=None, optimizer_bytes=None, saved_bytes=None, saved_per_image_bytes=None,
        saved_constant_bytes=None, workspace_bytes=2**26,
    )  # fmt: skip
    row = measured_rows(as_run(Record(samples.case(), 1, (replace(one, memory=memory),)))).iloc[0]
    missing = [
        "gradient_bytes",
        "optimizer_bytes",
        "saved_memory_bytes",
        "saved_input_half_bytes",
        "saved_parameter_half_bytes",
    ]
    assert row[missing].isna().all()
    assert (row["workspace_bytes"], row["parameter_bytes"]) == (2**26, 640)
    assert only_row(samples.timing(1.0))["workspace_bytes"] is pd.NA, "of a CPU"


def test_counts_in_both_conventions_and_fvcores_of_the_forward_pass_alone() -> None:
    forward = only_row(samples.timing(1.0), samples.timing(1.0), phase="forward")
    assert (forward["macs"], forward["published_convention_macs"], forward["fvcore_macs"]) == (1234, 400, 1233)
    assert (forward["fvcore_unsupported"], forward["macs_unsupported"]) == ("aten::a, aten::b", "")
    inference = only_row(samples.timing(1.0), phase="inference")
    assert (inference["published_convention_macs"], inference["fvcore_macs"]) == (390, pd.NA)


def test_the_certificate_of_the_round_that_has_one_stands_beside_every_phase() -> None:
    bare, first = (
        samples.ok({"step": samples.timing(1.0), "forward": samples.timing(1.0)}, first=one) for one in (False, True)
    )
    frame = measured_rows(as_run(Record(samples.case(), 2, (bare, first))))
    assert len(frame) == 2
    for _, row in frame.iterrows():
        assert (row["certificate"], row["certificate_smallest"]) == (1.0, 0.99999)
        assert (row["certificate_kind"], row["certificate_how"]) == ("exact", "fourier")
        assert (row["certificate_training"], row["certificate_training_kind"]) == (1.002, "exact")


def test_a_case_that_is_not_1_lipschitz_keeps_its_numbers_and_has_a_row_that_says_so() -> None:
    one = samples.failed("not_lipschitz", "Lipschitz constant = 1.02", samples.VIOLATING)
    rows = measured_rows(as_run(Record(samples.case("cpl"), 1, (one,))))
    assert list(rows["phase"])[-1] == ""
    assert list(rows["status"]) == ["ok"] * (len(rows) - 1) + ["not_lipschitz"]
    assert set(rows["certificate"]) == {1.02}
    assert rows["median_s"].notna().sum() == len(rows) - 1 > 0


def test_without_a_certificate_its_columns_are_empty() -> None:
    row = measured_rows(as_run(Record(samples.case(), 1, (Round("timeout", "too long"),)))).iloc[0]
    assert math.isnan(row["certificate"])
    assert math.isnan(row["certificate_training"])
    assert (row["certificate_kind"], row["certificate_how"], row["certificate_training_kind"]) == ("", "", "")


def test_every_bound_is_a_row_the_one_to_quote_first() -> None:
    network = Case(NetworkSpec("soc", "S"), 2)
    run = as_run(
        Record(samples.case(), 1, rounds(samples.timing(1.0))),
        Record(network, 1, (samples.failed("not_lipschitz", "grows", samples.GROWING),)),
        Record(samples.case("aol"), 1, (Round("timeout"),)),
    )
    frame = certificate_rows(run)
    assert tuple(frame.columns) == CERTIFICATE_COLUMNS
    assert list(frame["mode"]) == ["evaluation", "evaluation", "training"] * 2
    assert list(frame["how"]) == ["fourier", "lanczos", "fourier", "product", "lanczos", "product"]
    assert list(frame.loc[frame["case"] == network.id, "growing"].unique()) == ["4.0, 5.2"]
    assert certificate_rows(as_run()).empty


def test_every_warning_of_a_case_is_a_row_once() -> None:
    told = (Caution("unsettled", ("forward", "step"), "not settled"), Caution("other", (), "a text"))
    first, second = Round("ok", warnings=told), Round("ok", warnings=told[:1])
    record = Record(samples.case(), 2, (first, second), examinations=(Round("ok", warnings=samples.cautions("more")),))
    frame = warning_rows(as_run(Record(samples.case("aol"), 1, (Round("ok"),)), record))
    assert tuple(frame.columns) == WARNING_COLUMNS
    assert frame.to_numpy().tolist() == [
        [record.case.id, "unsettled", "forward, step", "not settled"], [record.case.id, "other", "", "a text"],
        [record.case.id, "other", "", "more"],
    ]  # fmt: skip
    assert tuple(warning_rows(as_run()).columns) == WARNING_COLUMNS


def test_theory_stands_beside_what_was_counted() -> None:
    row = only_row(samples.timing(1.0), phase="forward")
    assert (row["macs"], row["theory_macs"]) == (1234, 2 * 64 * 16 * 9)


def test_of_a_case_that_failed_in_part_the_rest_is_there() -> None:
    parts = {"training": Part("out_of_memory", "no more"), "inference": Part(), "macs": Part("crashed", "SIGSEGV")}
    one = summed_up(Round("ok", phases={"inference": samples.timing(2.0)}, parts=parts))
    frame = measured_rows(as_run(Record(samples.case("lot"), 1, (one,))))
    assert list(frame["phase"]) == ["forward", "backward", "inference", ""]
    assert list(frame["status"]) == ["out_of_memory", "out_of_memory", "ok", "crashed"]
    assert list(frame["reason"]) == ["no more", "no more", "", "macs: SIGSEGV"]
    assert list(frame["median_s"].notna()) == [False, False, True, False]


def test_phases_come_in_their_order_and_a_case_that_failed_has_one_row() -> None:
    good = Record(samples.case(), 1, (samples.ok({name: samples.timing(1.0) for name in ("step", "forward", "inference")}),))
    bad = Record(samples.case("aol"), 2, (good.rounds[0], Round("timeout", "took too long", warnings=samples.cautions("slow"))))
    frame = measured_rows(as_run(good, bad))
    assert list(frame["phase"]) == ["forward", "step", "inference", ""]
    last = frame.iloc[-1]
    assert (last["method"], last["title"], last["status"], last["reason"]) == ("aol", "AOL", "timeout", "took too long")
    assert last["warnings"] == "slow"
    assert math.isnan(last["median_s"])


def test_networks_and_layers_of_others_have_names_too() -> None:
    network = Record(Case(NetworkSpec("soc", "S"), 2), 1, rounds(samples.timing(1.0)))
    other = Record(samples.case("package.module:Special"), 1, rounds(samples.timing(1.0), warnings=("a", "b", "a")))
    frame = measured_rows(as_run(network, other))
    assert list(frame["network"]) == ["S", ""]
    assert list(frame["channels"]) == [32, 4]
    assert list(frame["title"]) == ["SOC", "Special"]
    assert frame["warnings"].iloc[1] == "a\nb"


def test_compiling_took_what_the_first_call_took_beyond_the_median() -> None:
    timings = [replace(samples.timing(1.0), first_call_s=seconds) for seconds in (8.0, 9.0, 13.0)]
    compiled = Record(replace(samples.case(), compile=True), 3, rounds(*timings))
    rerun = Record(
        replace(samples.case("aol"), compile=True), 1, rounds(samples.timing(1.0))
    )  # a step behind its backward pass
    frame = measured_rows(as_run(compiled, rerun, Record(samples.case(), 3, rounds(*timings))))
    assert list(frame["compiled"]) == [True, True, False]
    assert list(frame["compile_s"][:2]) == [8.0, 0.0]
    assert math.isnan(frame["compile_s"][2])


def interpreted(implementation: str, channels: int = 4) -> Record:
    machine = replace(samples.MACHINE, flags={"triton": "interpreter"})
    case = Case(LayerSpec("aol", channels, 8, implementation=implementation), 2)
    return Record(case, 1, (replace(samples.ok({"forward": samples.timing(float(channels))}), machine=machine),))


def test_only_what_runs_kernels_is_interpreted() -> None:
    run = as_run(interpreted("triton"), interpreted("paper"), Record(samples.case(), 1, rounds(samples.timing(1.0))))
    assert list(measured_rows(run)["interpreted"]) == [True, False, False]


# -------------------------------------------------------------------------------------------------------------- exponents


def power_run(method: str, channels: tuple[int, ...], exponent: float, factors: tuple[float, ...] = (1.0, 1.0)) -> Run:
    """Two rounds per case, whose forward pass takes channels^exponent times the round's factor."""
    return as_run(
        *(
            Record(samples.case(method, one), 2, rounds(*(samples.timing(one**exponent * f) for f in factors), phase="forward"))
            for one in channels
        )
    )


def fitted(run: Run) -> pd.DataFrame:
    return exponents(run, measured_rows(run)).set_index("quantity")


def test_an_exact_power_law_is_found_with_a_narrow_interval() -> None:
    row = fitted(power_run("standard", (4, 8, 16), 2.5)).loc["time: forward"]
    assert row["exponent"] == pytest.approx(2.5)
    assert row["low"] == pytest.approx(2.5)
    assert row["high"] == pytest.approx(2.5)
    assert (row["points"], row["leading_exponent"]) == (6, 2)
    assert row["theory_exponent"] == pytest.approx(2.0)


def test_rounds_that_differ_widen_the_interval() -> None:
    row = fitted(power_run("standard", (4, 8, 16), 2.0, (1.0, 1.3))).loc["time: forward"]
    assert row["exponent"] == pytest.approx(2.0)
    assert row["low"] < 1.9
    assert row["high"] > 2.1


def test_the_interval_is_that_of_a_textbook() -> None:
    # Five points: the sum of squares of x is 10, and t(0.975) with 3 degrees of freedom is 3.182446.
    x, y = [0.0, 1.0, 2.0, 3.0, 4.0], [0.1, 1.9, 4.2, 5.8, 8.0]
    slope = sum((a - 2) * b for a, b in zip(x, y)) / 10
    intercept = sum(y) / 5 - 2 * slope
    spread = math.sqrt(sum((b - intercept - slope * a) ** 2 for a, b in zip(x, y)) / 3 / 10)
    fit = power_law([math.exp(value) for value in x], [math.exp(value) for value in y])
    assert fit.exponent == pytest.approx(slope)
    assert (fit.low, fit.high) == pytest.approx((slope - 3.182446 * spread, slope + 3.182446 * spread), rel=1e-6)


def test_theory_is_fitted_over_the_same_channels() -> None:
    row = fitted(power_run("aol", (4, 8, 16), 2.0)).loc["time: forward"]
    assert 2.0 < row["theory_exponent"] < 3.0
    assert row["leading_exponent"] == 3


def test_fewer_than_three_numbers_of_channels_give_no_exponent() -> None:
    assert fitted(power_run("standard", (4, 8), 2.0)).empty
    assert fitted(as_run()).empty


def test_sizes_that_differ_are_not_fitted_together() -> None:
    run = power_run("standard", (4, 8, 16, 32), 2.0)
    apart = Record(samples.case("standard", 64, threads=2), 1, rounds(samples.timing(1e-9), phase="forward"))
    row = fitted(as_run(*run.records, apart)).loc["time: forward"]
    assert (row["exponent"], row["points"]) == (pytest.approx(2.0), 8)


def test_compiled_times_are_fitted_apart_and_interpreted_ones_not_at_all() -> None:
    run = power_run("standard", (4, 8, 16), 2.0)
    compiled = [
        replace(record, case=replace(record.case, compile=True)) for record in power_run("standard", (4, 8, 16), 1.0).records
    ]
    run = as_run(*run.records, *compiled, *(interpreted("triton", channels) for channels in (4, 8, 16)))
    found = exponents(run, measured_rows(run))
    times = found[found["quantity"] == "time: forward"]
    assert list(times["compiled"]) == [False, True]
    assert list(times["exponent"]) == [pytest.approx(2.0), pytest.approx(1.0)]
    assert set(found["method"]) == {"standard"}


def test_what_is_counted_has_local_slopes_and_no_interval() -> None:
    quantities = fitted(power_run("aol", (4, 8, 16), 2.0))
    assert quantities.loc[["time: forward"], ["least_slope", "greatest_slope"]].isna().all(axis=None)
    counted = quantities.loc["MACs: forward"]
    assert counted[["low", "high"]].isna().all()
    assert (counted["least_slope"], counted["greatest_slope"]) == pytest.approx((0.0, 0.0)), "1234 at every width"


def test_local_slopes_are_those_between_neighbours() -> None:
    run = power_run("aol", (4, 8, 16), 2.0)
    rows = measured_rows(run)
    rows.loc[rows["phase"] == "forward", "macs"] = [16 * 4, 16 * 4 * 2, 16 * 4 * 2 * 8]
    counted = exponents(run, rows).set_index("quantity").loc["MACs: forward"]
    assert (counted["least_slope"], counted["greatest_slope"]) == pytest.approx((1.0, 3.0))
    assert counted["exponent"] == pytest.approx(2.0)
