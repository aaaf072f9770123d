"""Answers in all formats: of every verb, by the ending of a file, and with characters that a format reads as code."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from lipbench.answer import Answer
from lipbench.cli import formats, printing
from lipbench.cli import main as cli

NASTY = 'a|b_c*d* [e](f) <g> $h$ ~i~ \\j {k} #l m&n 5%^2 `o` --p "q" σ² ≥ −1\nr'
"""what Markdown and LaTeX would read as code"""
TINY = ("--channels", "4", "--image-size", "4", "--kernel-size", "1")
ANSWER = Answer(
    pd.DataFrame({"text": [NASTY, "[start]"], "number": [1 / 3, math.nan], "size": [math.inf, 2.0], "flag": [True, False],
                  "nested": [[{"term": 1}], []]}),
    remarks=("one_remark", "", "50 % more"),
)  # fmt: skip


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    out, err = capfd.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def text(format: str) -> str:
    found = formats.encoded(ANSWER, format)
    return found if isinstance(found, str) else found.decode()


@pytest.mark.parametrize(
    "command",
    [
        ("methods",),
        ("theory", "--method", "aol,soc"),
        ("complexity", "aol"),
        ("predict", "--method", "aol", *TINY, "--batch-size", "2"),
        ("verify", "aol", *TINY),
    ],
)
def test_the_ending_of_a_file_chooses_the_format(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, command: tuple[str, ...]
) -> None:
    frames, read = {}, {".csv": pd.read_csv, ".json": pd.read_json, ".parquet": pd.read_parquet}
    for ending, format in printing.ENDINGS.items():
        path = tmp_path / f"file{ending}"
        assert run(capfd, *command, "-o", str(path)) == (0, "", "")
        if ending in read:
            frames[ending] = read[ending](path)
        else:
            assert (0, path.read_text(), "") == run(capfd, *command, "--format", format)
    assert list(frames[".csv"]) == list(frames[".json"]) == list(frames[".parquet"])
    assert len(frames[".csv"]) == len(frames[".json"]) == len(frames[".parquet"]) > 0


def test_data_is_unrounded_and_what_is_missing_stays_missing() -> None:
    rows = json.loads(text("json"))
    assert rows[0] == {"text": NASTY, "number": 1 / 3, "size": None, "flag": True, "nested": [{"term": 1}]}
    assert (rows[1]["number"], rows[1]["size"], rows[1]["nested"]) == (None, 2.0, [])
    csv = pd.read_csv(io.StringIO(text("csv")), dtype=str)
    assert csv["text"][0] == NASTY.replace("\n", "; ")
    assert float(csv["number"][0]) == 1 / 3
    assert json.loads(csv["nested"][0]) == [{"term": 1}]
    parquet = formats.encoded(ANSWER, "parquet")
    assert isinstance(parquet, bytes)
    assert pd.read_parquet(io.BytesIO(parquet))["text"][0] == NASTY


def test_people_get_the_readable_table_and_programs_the_frame() -> None:
    answer = Answer(pd.DataFrame({"bytes": [1234]}), pd.DataFrame({"memory": ["1.23 kB"]}), ("1 kB is 1000 bytes",))
    for format in ("table", "markdown", "latex"):
        content = formats.encoded(answer, format)
        assert isinstance(content, str)
        assert ("1.23 kB" in content, "1234" in content, "1 kB is 1000 bytes" in content) == (True, False, True)
    for format in ("csv", "json"):
        content = formats.encoded(answer, format)
        assert isinstance(content, bytes)
        assert (b"1234" in content, b"kB" in content) == (True, False)


def test_markdown_shows_every_cell_as_it_is() -> None:
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text("markdown"))
    shown = ["".join(child.content for child in token.children or ()) for token in tokens if token.type == "inline"]
    kinds = {child.type for token in tokens for child in token.children or ()}
    assert kinds <= {"text", "text_special"}
    head, cells = shown[:5], shown[5:15]
    assert head == list(ANSWER.frame)
    assert (cells[0], cells[5]) == (NASTY.replace("\n", "; "), "[start]")
    assert cells[3::5] == ["yes", "no"]
    assert shown[15:] == ["one_remark", "50 % more"]


def test_latex_has_no_character_that_would_be_read_as_code() -> None:
    lines = text("latex").splitlines()
    assert lines[:3] == [r"% needs \usepackage{booktabs}", r"\begin{tabular}{lllll}", r"\toprule"]
    assert (lines[4], lines[-4:-2]) == (r"\midrule", [r"\bottomrule", r"\end{tabular}"])
    assert lines[-2:] == ["% one_remark", "% 50 % more"]
    rows = [line for line in lines if line.endswith(r"\\")]
    code = re.compile(r"\\[%#_{}$&]|\\texttt\{\\char34\}|\\[a-z]+(\{\}|\{\d\})?|\{[\[*]\}|\$(\\[a-z]+|-)\$|-\{\}-")
    for row in rows:
        bare = code.sub("", row.removesuffix(r"\\"))
        assert bare.count("&") == len(ANSWER.frame.columns) - 1
        assert not set(bare) & set('\\%#_{}$~^<>|"[*')
    assert r"$\sigma$\textsuperscript{2} $\geq$ $-$1; r" in rows[1]
    assert rows[2].startswith("{[}start]")


def test_latex_gets_no_character_that_it_does_not_know_without_a_package() -> None:
    """The characters that tables of this package print, and some that a layer's name may have."""
    cells = pd.DataFrame({"a": ["÷ ≠ ✗ ○ † µs ε τ₁ 10⁻⁸ 1.90–1.94 Größe", "中 đ é \u0301 𝜎", "----"]})
    content = encoded("latex", cells)
    assert isinstance(content, str)
    rows = content.splitlines()[5:8]
    symbols = r"$\div$ $\neq$ \textbf{x} $\circ$ \dag{} $\mu$s $\varepsilon$ $\tau$$_1$"
    assert rows[0] == symbols + r" 10\textsuperscript{$-$}\textsuperscript{8} 1.90\textendash{}1.94 Grö\ss{}e \\"
    assert rows[1] == r"U+4E2D U+0111 é U+0301 U+1D70E \\"
    assert rows[2] == r"-{}-{}-{}- \\"


@pytest.mark.parametrize("verb", sorted(set(cli.VERBS) - {"profile", "report"}))  # these print a path
def test_every_verb_that_prints_a_table_has_all_formats(capfd: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, _ = run(capfd, verb, "--help")
    assert code == 0
    assert "--format" in out
    assert all(format in out for format in printing.ENDINGS.values())


def test_remarks_stand_below_the_table_after_an_empty_line() -> None:
    assert text("table").endswith("\n\none_remark\n\n50 % more\n")
    assert not formats.encoded(Answer(pd.DataFrame({"a": [1]})), "table").endswith("\n\n")  # type: ignore[arg-type]


def test_problems_go_to_stderr_and_a_failure_is_code_3(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    failing = ("predict", "--method", "cayley", "--channels", "4", "--image-size", "3", "--kernel-size", "5")
    code, out, err = run(capfd, *failing, "-o", str(tmp_path / "memory.csv"))
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert (tmp_path / "memory.csv").read_text().startswith("method,")


HOSTILE = (
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1", "a|b\n<b>c</b>", "\x1b[31mred", "\\input{x} % 50 & $", "`x`",
)  # fmt: skip


def test_spreadsheets_compute_no_text_of_a_csv_and_numbers_stay_numbers() -> None:
    frame = pd.DataFrame({"reason": HOSTILE, "value": -1.5, "mixed": ["-", *range(-len(HOSTILE) + 1, 0)]})
    content = encoded("csv", frame)
    assert isinstance(content, bytes)
    found = pd.read_csv(io.BytesIO(content), dtype={"reason": str}, keep_default_na=False)
    assert [cell[:2] for cell in found["reason"]][:7] == ["'=", "'+", "'-", "'@", "'\t", r"\r"[:2], "'＝"]
    assert list(found["reason"])[7:9] == ["a|b; <b>c</b>", r"\x1b[31mred"]
    assert set(found["value"]) == {-1.5}
    assert list(found["mixed"])[:2] == ["'-", str(-len(HOSTILE) + 1)]


@pytest.mark.parametrize("format", ["csv", "json", "parquet", "markdown", "latex", "table"])
def test_no_text_breaks_a_format_or_acts_on_a_terminal(format: str) -> None:
    content = encoded(format, pd.DataFrame({"reason": HOSTILE}), HOSTILE)
    shown = content if isinstance(content, str) else content.decode(errors="ignore")
    shown.encode()
    assert "\x1b" not in shown
    lines = shown.splitlines()
    if format == "markdown":
        assert sum(line.startswith("| ") for line in lines) == len(HOSTILE) + 2
        assert not any("<b>" in line.replace(r"\<", "") for line in lines)
    if format == "latex":
        end = lines.index(r"\end{tabular}")
        assert end == len(HOSTILE) + 6
        assert all(line.startswith("%") for line in lines[end + 1 :])


def encoded(format: str, frame: pd.DataFrame, remarks: tuple[str, ...] = ()) -> str | bytes:
    return formats.encoded(Answer(frame, remarks=remarks), format)
