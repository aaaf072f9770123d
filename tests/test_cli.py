"""The command line: its output, its exit codes, and a message of one line for wrong use."""

from __future__ import annotations

import html
import io
import json
import os
import sys
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest
import samples

from lipbench import __version__, registry
from lipbench.analysis import origin
from lipbench.cli import main as cli
from lipbench.cli import terminal
from lipbench.prediction import table1
from lipbench.run import schedule, verifying
from lipbench.store import records
from lipbench.store.rounds import SCHEMA, Record, Round

HERE = Path(__file__).parent
NO_VERBS = {
    "__init__", "__main__", "main", "completion", "options", "printing", "formats", "terminal", "progress", "streams",
    "training", "training_options", "versions", "waiting",
}  # fmt: skip
TINY = ("--channels", "2", "--image-size", "4", "--batch-size", "2", "--threads", "1", "--phase-seconds", "0.01")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command runs in an empty directory, sees no GPU, and finds the layers of the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)


class Shell:
    """Runs command lines in this process and keeps what they printed."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def run(self, *arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        out, err = self._capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    def ok(self, *arguments: str) -> str:
        code, out, err = self.run(*arguments)
        assert (code, err) == (0, "")
        return out

    def refuse(self, *arguments: str) -> str:
        """The line on stderr of a command with wrong use."""
        code, out, err = self.run(*arguments)
        assert (code, out) == (2, "")
        assert err.endswith("\n")
        assert err.count("\n") == 1
        assert err.startswith("lipbench: ")
        assert not set(err) & set("╭│╰─")
        return err


@pytest.fixture
def shell(capfd: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capfd)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A run with one successful and one failed case, and theory for both."""
    phases = {name: samples.timing(0.001, 0.002) for name in ("forward", "step", "inference")}
    good = Record(samples.case(), 1, (samples.ok(phases, warnings=("first", "second, with a comma")),))
    bad = Record(samples.case("aol"), 1, (Round("timeout", "took too long"),))
    return samples.save_run(tmp_path / "saved", [good, bad])


# ---------------------------------------------------------------------------------------------------------------- reading


def test_version_and_help(shell: Shell) -> None:
    assert shell.ok("--version") == f"{__version__}\n"
    text = shell.ok("--help")
    assert max(map(len, text.splitlines())) <= 80
    assert shell.ok() == shell.ok("-h") == text
    assert set(cli.VERBS) == {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - NO_VERBS
    for verb, line in cli.VERBS.items():
        assert f"  {verb} " in text
        assert line in text
        shown = shell.ok(verb, "--help")
        assert shown.startswith(f"Usage: lipbench {verb} [OPTIONS]")
    assert shell.ok("profile", "-h") == shell.ok("profile", "--help")
    assert "--retry-failed" in shell.ok("profile", "--help")


def test_methods_lists_them_all(shell: Shell) -> None:
    out = shell.ok("methods")
    assert all(name in out and method.title in out for name, method in registry.METHODS.items())


def test_theory_prints_published_and_exact_side_by_side(shell: Shell) -> None:
    out = shell.ok("theory", "--method", "aol,soc")
    assert "c³ k⁴" in out
    assert "c³ k² (2 k − 1)²" in out
    assert not set("^*") & set(out)  # the notation of the legend
    assert "Cayley" not in out


def test_theory_as_csv_is_the_published_table_and_more(shell: Shell) -> None:
    printed = pd.read_csv(io.StringIO(shell.ok("theory", "--format", "csv")), keep_default_na=False)
    published = pd.read_csv(str(files("lipbench.published") / "complexity.csv"), keep_default_na=False)
    assert list(printed["layer"])[: len(published)] == list(published["layer"])
    assert list(printed.columns)[: len(published.columns)] == list(published.columns)
    assert [name for name in printed.columns if name.startswith("exact_")]


def test_export_in_three_formats_tells_the_same(shell: Shell, saved: Path) -> None:
    csv = pd.read_csv(io.StringIO(shell.ok("export", str(saved))), keep_default_na=False)
    plain = json.loads(shell.ok("export", str(saved), "--format", "json"))
    assert shell.ok("export", str(saved), "--format", "parquet", "-o", "rows.parquet") == ""
    parquet = pd.read_parquet("rows.parquet")
    assert list(csv.columns) == list(plain[0]) == list(parquet.columns)
    assert (
        list(csv["phase"]) == [row["phase"] for row in plain] == list(parquet["phase"]) == ["forward", "step", "inference", ""]
    )
    assert plain[0]["median_s"] == parquet["median_s"][0] == float(csv["median_s"][0]) == pytest.approx(0.0015)
    assert plain[0]["saved_memory_bytes"] == int(csv["saved_memory_bytes"][0]) == 4000
    assert (plain[3]["status"], plain[3]["reason"], plain[3]["median_s"]) == ("timeout", "took too long", None)
    assert csv["warnings"][0] == "first; second, with a comma"


def test_export_to_a_file_writes_nothing_else(shell: Shell, saved: Path) -> None:
    printed = shell.ok("export", str(saved), "--format", "csv")
    assert shell.ok("export", str(saved), "-o", "rows.csv") == ""
    assert Path("rows.csv").read_text() == printed


def test_export_on_a_terminal_is_a_table(shell: Shell, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    out = shell.ok("export", str(saved))
    assert "median_s: 0.0015" in out
    assert "warnings: first; second, with a comma" in out
    assert "nan" not in out.lower().split()
    assert max(map(len, out.splitlines())) <= 80
    assert "add -o FILE" in shell.refuse("export", str(saved), "--format", "parquet")


def test_report_is_one_file_and_its_path_is_printed(shell: Shell, saved: Path) -> None:
    assert shell.ok("report", str(saved)) == f"{saved / 'report.html'}\n"
    assert shell.ok("report", str(saved), "-o", "other.html") == "other.html\n"
    text = Path("other.html").read_text()
    assert "a processor" in text
    assert "took too long" in text
    assert text.lower().startswith("<!doctype html>")


def test_a_run_that_is_not_over_is_reported_as_such(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = samples.case("soc")
    run = records.load_run(samples.save_run(saved, [], [missing]))
    provenance = origin.provenance(run, [], ["a doubt"])
    assert (provenance["planned"], provenance["unfinished"], provenance["problems"]) == (3, [missing.id], [])
    assert provenance["warnings"] == ["a doubt"]


def test_a_report_runs_no_layer_and_says_what_was_not_counted(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is counted of an external layer is stored when it is measured; this run has nothing of it."""
    phases = {name: samples.timing(0.001, 0.002) for name in ("forward", "step", "inference")}
    works = [samples.case(f"faulty_layers:{name}") for name in ("Plain", "Segfaults")]
    never = Record(samples.case("faulty_layers:Aborts"), 1, (Round("crashed", "ended by SIGABRT"),))
    run = samples.save_run(tmp_path / "run", [*(Record(case, 1, (samples.ok(phases),)) for case in works), never])
    rendered = []
    monkeypatch.setattr("lipbench_reports.html.render", lambda tables: rendered.append(tables) or "a page")
    assert shell.ok("report", str(run)) == f"{run / 'report.html'}\n"
    (tables,) = rendered
    fitted = tables.fitted.groupby("method")[["fitted", "note"]].first()
    assert set(fitted.index) == {f"faulty_layers:{name}" for name in ("Plain", "Segfaults", "Aborts")}
    assert fitted["fitted"].eq("").all()
    assert fitted["note"].str.startswith("not counted").all()
    assert tables.predicted.empty


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_a_terminal_and_no_number_is_cut(width: int) -> None:
    certificates = verifying.readable(verifying.verify(verifying.specs(["aol", "sll"], verifying.Shapes((4,), (4,)))))
    for table in (
        table1.methods_table(),
        table1.readable(table1.complexity_table()),
        certificates,
    ):
        lines = terminal.lines(table, width)
        out = "\n".join(lines)
        assert max(map(len, lines)) <= width
        assert "…" not in out
        words = out.split()
        assert all(word in words for column in table for value in table[column] for word in str(value).split()[:1]
                   if word not in ("True", "False"))  # fmt: skip
        assert len(lines) <= 6 * len(table)


# -------------------------------------------------------------------------------------------------------------- profiling


def test_a_layer_in_the_current_folder_works_in_every_verb(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other files in that folder shadow no installed module."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("own_layers.py").write_text((HERE / "faulty_layers.py").read_text())
    for name in ("random", "json", "torch"):
        Path(f"{name}.py").write_text("raise SystemExit('shadowed')")
    layer = "own_layers:Plain"
    assert "standard" in shell.ok("predict", "--method", f"standard,{layer}", *TINY[:6])
    assert "Plain" in shell.ok("complexity", layer)
    assert "ok" in shell.ok("verify", layer, *TINY[:4])
    assert "1 case: 1 ok" in shell.ok("profile", "--method", layer, *TINY, "--rounds", "1", "--out", "run")


def test_profile_measures_into_a_new_directory_and_exits_with_0(shell: Shell) -> None:
    out = shell.ok("profile", "--method", "standard", *TINY, "--rounds", "1")
    directory = Path(out.splitlines()[0])
    assert directory.parent == Path("runs")
    assert "1 case: 1 ok" in out
    assert out.endswith(f"\n\n{shell.ok('show', str(directory))}")
    exported = pd.read_csv(io.StringIO(shell.ok("export", str(directory))))
    assert list(exported["phase"]) == ["forward", "backward", "step", "parametrize", "inference", "first_inference"]
    assert (exported["status"] == "ok").all()
    forward = exported.set_index("phase").loc["forward"]
    assert forward["macs"] == forward["theory_macs"] == 2 * 16 * 4 * 9
    assert forward["saved_memory_bytes"] == 4 * forward["theory_memory_elements"]


def test_a_failed_case_is_named_and_the_exit_code_is_3(shell: Shell) -> None:
    arguments = ("profile", "--method", "standard,faulty_layers:Raises", *TINY, "--rounds", "1", "--out", "run")
    code, out, err = shell.run(*arguments)
    assert (code, err) == (3, "")
    assert "2 cases: 1 ok, 1 raised" in out
    assert "faulty_layers-Raises" in out
    assert "ValueError: the tensor is of no use" in out
    code, out, _ = shell.run("profile", "--out", "run", "--resume", "--allow", "faulty_layers:Raises",
                             "--deadline", "0.001", "--retry-failed")  # fmt: skip
    assert "1 round left at the deadline" in out
    assert "2 cases: 1 ok, 1 raised" in out
    assert code == 3


def test_what_a_method_cannot_take_does_not_fail_a_grid(shell: Shell) -> None:
    out = shell.ok("profile", "--method", "standard,cayley", *TINY, "--kernel-size", "5", "--rounds", "1", "--out", "run")
    assert "2 cases: 1 ok, 1 unsupported" in out
    assert "kernel 5 and image 4" in out


def test_compiled_cases_need_a_compiler_and_the_others_do_not(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    out = shell.ok("profile", "--compile", "--method", "standard", *TINY, "--rounds", "1", "--out", "run")
    assert "2 cases: 1 ok, 1 unsupported" in out
    assert "needs a C++ compiler" in out
    assert "without --compile" in out
    exported = pd.read_csv(io.StringIO(shell.ok("export", "run")))
    assert list(exported.groupby("compiled", sort=False)["status"].first().items()) == [(False, "ok"), (True, "unsupported")]


def test_larger_sizes_are_skipped_after_running_out_of_memory(shell: Shell) -> None:
    arguments = ("--channels", "3,4", "--image-size", "4", "--batch-size", "2", "--threads", "1", "--rounds", "1")
    code, out, _ = shell.run("profile", "--method", "faulty_layers:LargeOnesAllocate", *arguments, "--out", "run")
    assert code == 3
    assert "2 cases: 1 out_of_memory, 1 skipped" in out


# -------------------------------------------------------------------------------------------------------------- wrong use


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("nope",), "see lipbench --help"),
        (("--nope",), "put a command before its options"),
        (("profil",), "use lipbench profile"),
        (("profile", "aol"), "give methods by --method"),
        (("profile", "--channels", "16", "32"), "got '32'; give methods by --method, write lists with commas"),
        (("profile", "--lipschitz", "big"), "--lipschitz takes a number: got 'big'"),
        (("train", "--learning-rate", "big"), "--learning-rate takes a number"),
        (("",), "unknown command: got ''"),
        (("export",), "RUN"),
        (("complexity",), "no layer to count: got neither a NAME nor --method"),
        (("complexity", "--method", "nope"), "unknown method: got 'nope'"),
        (("verify", "aol,nope"), "unknown method: got 'nope'"),
        (("verify", "--nope"), "see lipbench verify --help"),
        (("export", "run", "--format", "xml"), "xml"),
        (("export", "run", "--format"), "--format"),
        (("profile", "--preset", "huge"), "huge"),
        (("profile", "--device", "tpu"), "tpu"),
        (("profile", "--channels", "many"), "many"),
        (("profile", "--channels", "16,,32"), "an empty entry in the list of --channels: got '16,,32'; leave out the comma"),
        (("profile", "--channels", ""), "give at least one entry"),
        (
            ("profile", "--method", "aol,"),
            "got 'aol,'; leave out the comma too many, or name one more from aol, bcop, bcop-polar, cayley",
        ),
        (("complexity", ""), "give at least one from aol, bcop"),
        (("train", "--loss", "offset,"), "annealed, cross-entropy, offset"),
        (("profile", "--channels", "0"), "channels"),
        (("profile", "--channels", "-3"), "-3"),
        (("profile", "--image-size", "0"), "image size"),
        (("profile", "--kernel-size", "2"), "odd"),
        (("profile", "--kernel-size", "-1"), "kernel size"),
        (("profile", "--batch-size", "0"), "batch size"),
        (("profile", "--network", "XXL"), "XXL"),
        (("profile", "--network", "XS", "--image-size", "12"), "12"),
        (("profile", "--dtype", "half"), "half"),
        (("profile", "--precision", "int8"), "int8"),
        (("profile", "--threads", "0"), "--threads"),
        (("profile", "--threads", "two"), "two"),
        (("profile", "--timeout", "0"), "--timeout"),
        (("profile", "--timeout", "nan"), "nan"),
        (("profile", "--deadline", "soon"), "soon"),
        (("profile", "--rounds", "-1"), "--rounds"),
        (("profile", "--memory-limit", "0"), "--memory-limit"),
        (("profile", "--resume"), "--out"),
        (("profile", "--retry-failed"), "--resume"),
        (("theory", "--method", "nope"), "nope"),
        (("predict", "--method", "aol,nope"), "unknown method: got 'nope'"),
        (("fits", "--method", "nope", "--memory", "1GB"), "unknown method: got 'nope'"),
        (("methods", "-o", "methods.xlsx"), "methods.xlsx; add --format, or use one of .csv, .json, .md"),
        (("kernels", "--format", "csv", "-o", "kernels.json"), "leave --format out to write json"),
        (("export", "absent", "--format", "parquet", "-o", "rows.txt"), "leave --format out to write table"),
        (("report", "absent"), "absent"),
        (("evaluate", "absent"), "give the folder of one training"),
        (("accuracy",), "got neither; give a directory"),
        (("accuracy", "absent", "--published"), "got both"),
        (("train", "--method", "aol"), "got none; give --epochs"),
        (("export", "absent.json"), "absent.json"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(shell: Shell, arguments: tuple[str, ...], named: str) -> None:
    assert named in shell.refuse(*arguments)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--method", "nope"), "'nope'"),
        (("--method", "faulty_layers:Absent"), "Absent"),
        (("--method", "no_such_module:Layer"), "no_such_module"),
        (("--implementation", "splendid"), "splendid"),
        (("--device", "cuda"), "CUDA"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_written(shell: Shell, arguments: tuple[str, ...], named: str) -> None:
    assert named in shell.refuse("profile", *TINY, *arguments, "--out", "run")
    assert not Path("run").exists()


def test_when_nothing_at_all_can_run_the_reason_is_the_error(shell: Shell) -> None:
    line = shell.refuse("profile", "--method", "cayley", *TINY, "--kernel-size", "5", "--out", "run")
    assert "kernel 5 and image 4" in line


def test_unreadable_runs_are_refused_by_every_verb_that_reads_one(shell: Shell, saved: Path) -> None:
    Path("empty").mkdir()
    Path("text.json").write_text("no JSON")
    Path("file").write_text("")
    Path("binary.json").write_bytes(b"\xff\x00")
    for run in ("empty", "text.json", "file", "binary.json"):
        assert run in shell.refuse("report", run)
        assert run in shell.refuse("export", run)
    assert "file" in shell.refuse("profile", *TINY, "--out", "file")
    Path("foreign").mkdir()
    Path("foreign", "notes").write_text("mine")
    assert "run.json" in shell.refuse("profile", *TINY, "--out", "foreign", "--resume")


def test_a_damaged_run_is_read_as_far_as_it_can_be_and_its_damage_named(shell: Shell, saved: Path) -> None:
    damaged = records.record_path(saved, samples.case())
    damaged.write_bytes(damaged.read_bytes()[:100])
    (saved / "records" / "notes.txt").write_text("mine")
    (saved / "run.json").write_text('{"schema": 1, "ca')
    for arguments in (("report", str(saved), "-o", "report.html"), ("export", str(saved), "-o", "rows.csv")):
        code, _, err = shell.run(*arguments)
        assert code == 0
        lines = err.splitlines()
        assert [line.startswith("lipbench: not a readable ") for line in lines] == [True] * 3
        for name, line in zip(("run.json", "notes.txt", damaged.name), lines):
            assert name in line
            assert line.removeprefix("lipbench: ") in html.unescape(Path("report.html").read_text())
    assert list(pd.read_csv("rows.csv")["method"]) == ["aol"]


def test_a_damaged_record_is_measured_again_and_a_newer_one_left_alone(shell: Shell, saved: Path) -> None:
    damaged, newer = (records.record_path(saved, samples.case(method)) for method in ("standard", "aol"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    later = json.loads(newer.read_text()) | {"schema": SCHEMA + 1}
    newer.write_text(json.dumps(later))
    code, out, err = shell.run("profile", "--out", str(saved), "--resume", "--rounds", "1", "--phase-seconds", "0.01")
    assert (code, err) == (3, "")
    assert "1 case: 1 ok\n  not stored: " in out
    assert f"{newer}; install a newer lipbench" in out
    assert json.loads(newer.read_text()) == later
    assert records.load_record(damaged).status == "ok"


def test_going_on_needs_a_plan_that_can_be_read(shell: Shell, saved: Path) -> None:
    damage = ('{"schema": 1, "limits": {"speed": 3}}', '{"schema": 1, "ca', '{"schema": 1, "cases": [{"kind": "layer"}]}', "")
    for plan in damage:
        (saved / "run.json").write_text(plan)
        assert "run.json" in shell.refuse("profile", "--out", str(saved), "--resume", "--method", "standard", *TINY)
        assert (saved / "run.json").read_text() == plan


@pytest.mark.parametrize("conditions", [("--threads", "1"), ("--precision", "tf32"), ("--compile",), ("--dtype", "float64")])
def test_conditions_alone_add_no_cases_to_a_run(shell: Shell, saved: Path, conditions: tuple[str, ...]) -> None:
    plan = (saved / "run.json").read_text()
    assert "name a preset, methods or sizes" in shell.refuse("profile", "--out", str(saved), "--resume", *conditions)
    assert (saved / "run.json").read_text() == plan


def test_names_too_long_for_a_file_are_refused(shell: Shell) -> None:
    assert "too long" in shell.refuse("profile", *TINY, "--out", 300 * "x")
    assert "too long" in shell.refuse("export", 300 * "x")


def test_ctrl_c_says_how_to_go_on(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(schedule, "run", interrupt)
    code, out, err = shell.run("profile", "--method", "standard", *TINY, "--out", "run")
    assert (code, err) == (130, "lipbench: interrupted\n")
    assert "--resume --out run" in out


def test_a_run_is_not_written_over(shell: Shell, saved: Path) -> None:
    assert "--resume" in shell.refuse("profile", *TINY, "--out", str(saved))


def test_places_that_cannot_be_written_to_are_refused(shell: Shell, saved: Path) -> None:
    assert "absent" in shell.refuse("export", str(saved), "-o", "absent/rows.csv")
    assert "absent" in shell.refuse("report", str(saved), "-o", "absent/report.html")
    Path("a_file").write_text("")
    assert "a_file" in shell.refuse("profile", "--method", "standard", *TINY, "--out", "a_file/run")


def test_a_run_without_records_has_no_report(shell: Shell, tmp_path: Path) -> None:
    samples.save_run(tmp_path / "planned", [], [samples.case()])
    assert "no case has run yet" in shell.refuse("report", "planned")
