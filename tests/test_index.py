"""The index over many runs: what is found, what each row says, and a page that no text of a run gets out of."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import samples
from report_frames import Page

from lipbench.cli import main as cli
from lipbench.store import records
from lipbench.store.rounds import Record, Round

Shell = Callable[..., tuple[int, str, str]]
STEP = {"step": samples.timing(0.001, 0.002)}


@pytest.fixture
def shell(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Runs `lipbench index` in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["index", *arguments])
        out, err = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return run


def rows(shell: Shell, directory: str = "runs") -> dict[str, dict[str, object]]:
    code, out, err = shell(directory, "--format", "json")
    assert (code, err) == (0, "")
    return {row["run"]: row for row in json.loads(out)}


def test_each_run_is_a_row(shell: Shell) -> None:
    busy = samples.ok({"step": samples.timing(0.001, contended=True)})
    repeated = Record(samples.case("soc"), 2, (busy, samples.ok(STEP, first=False)))
    never_quiet = Record(samples.case("aol"), 1, (busy,))
    unfinished = samples.case("lot")
    samples.save_run(Path("runs/one"), [repeated, never_quiet], [repeated.case, never_quiet.case, unfinished])
    failures = [Record(samples.case(), 1, (Round("timeout", "too long"),)), Record(samples.case("aol"), 1, (samples.ok(STEP),))]
    samples.save_run(Path("runs/deep/er/two"), failures)
    Path("runs/deep/er/two/report.html").write_text("a report")
    Path("runs/nothing").mkdir()
    found = rows(shell)
    assert set(found) == {"one", "deep/er/two"}
    one, two = found["one"], found["deep/er/two"]
    assert (one["cases"], one["ok"], one["failed"], one["not_run"]) == (3, 2, 0, 1)
    assert (one["methods"], one["machine"], one["report"]) == ("soc, aol, lot", "a processor", "")
    assert one["warnings"] == "contended: 1 case"
    assert str(one["started"]).startswith("2026-01-02")
    assert (two["ok"], two["failed"], two["failures"], two["report"]) == (1, 1, "1 timeout", "report.html")


def test_a_run_is_not_searched_for_runs_and_links_are_not_followed(shell: Shell) -> None:
    samples.save_run(Path("elsewhere"), [Record(samples.case(), 1, (samples.ok(STEP),))])
    samples.save_run(Path("runs/one"), [Record(samples.case(), 1, (samples.ok(STEP),))])
    samples.save_run(Path("runs/one/inner"), [Record(samples.case(), 1, (samples.ok(STEP),))])
    Path("runs/link").symlink_to(Path("elsewhere").resolve())
    assert set(rows(shell)) == {"one"}
    assert set(rows(shell, "runs/one")) == {"."}


def test_what_cannot_be_read_is_a_row_that_says_so(shell: Shell) -> None:
    damaged = samples.save_run(Path("runs/damaged"), [Record(samples.case(), 1, (samples.ok(STEP),))])
    records.record_path(damaged, samples.case()).write_text("{")
    (damaged / "run.json").write_text("")
    Path("runs/empty/records").mkdir(parents=True)
    found = rows(shell)
    assert "run.json" in str(found["damaged"]["warnings"])
    assert found["empty"]["cases"] == 0
    assert "run.json" in str(found["empty"]["warnings"])


def test_each_of_two_versions_has_its_commit(shell: Shell) -> None:
    commit, changed = 40 * "a", 40 * "b" + "+"
    for name in ("base", "head"):
        samples.save_run(Path("runs/both", name), [Record(samples.case(), 1, (samples.ok(STEP),))])
    Path("runs/both/against.json").write_text(json.dumps({"base": commit, "head": changed}))
    found = rows(shell)
    assert (found["both/base"]["commit"], found["both/head"]["commit"]) == (commit, changed)
    Path("runs/both/against.json").write_text(json.dumps({"base": "<b>python</b>"}))
    assert rows(shell)["both/base"]["commit"] == ""


def test_the_page_links_to_runs_and_reports_and_prints_its_path(shell: Shell) -> None:
    for name in ("one", "javascript:alert(1)", "50 % & more #1"):
        run = samples.save_run(Path("runs", name), [Record(samples.case(), 1, (samples.ok(STEP),))])
        (run / "report.html").write_text("a report")
    for arguments, page in (((), Path("runs/lipbench-index.html")), (("runs", "-o", "pages.html"), Path("pages.html"))):
        assert shell(*arguments) == (0, f"{page}\n", "")
        addresses = [address for address in Page(page.read_text()).addresses if address != "data:,"]
        assert len(addresses) == 6
        for address in addresses:
            assert urlsplit(address)[:2] == ("", "")
            assert (page.parent / unquote(address)).exists()


def test_no_text_of_a_run_becomes_code(shell: Shell) -> None:
    hostile = "<script>alert('x')</script>"
    layer = f"layers:{hostile}"
    run = samples.save_run(Path("runs", "<img src=x onerror=alert(1)>"), [Record(samples.case(layer), 1, (samples.ok(STEP),))])
    plan = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**plan, "version": hostile, "command": hostile}))
    assert shell()[0] == 0
    source = Path("runs/lipbench-index.html").read_text()
    page = Page(source)
    assert source.count("<script") == 1
    assert "img" not in page.tags
    assert hostile in page.text
    assert "default-src 'none'" in source


def test_wrong_use_is_one_line(shell: Shell) -> None:
    Path("empty").mkdir()
    Path("taken/lipbench-index.html").mkdir(parents=True)
    samples.save_run(Path("taken/run"), [Record(samples.case(), 1, (samples.ok(STEP),))])
    for arguments, named in (
        (("absent",), "absent"),
        (("empty",), "no run to list"),
        (("empty", "-o", "page.xlsx"), "page.xlsx"),
        (("taken",), "no regular one"),
        (("taken", "-o", "absent/page.html"), "absent"),
    ):
        code, out, err = shell(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert named in err
    assert os.listdir("empty") == []
