"""Encodes an answer as a table, csv, json, parquet, markdown or latex.

csv, json and parquet contain the unrounded frame. The others, for people, contain the readable table and remarks below it.
Texts may come from a layer or from a stranger's run, so they are made harmless here: control characters are escaped in every
format, and a text in csv that a spreadsheet would compute as a formula gets an apostrophe in front.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Sequence

import pandas as pd

from lipbench.answer import Answer
from lipbench.cli import terminal
from lipbench.errors import visible

_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>|~$&#"})
_LATEX = str.maketrans({
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\texttt{\char34}", "[": "{[}", "*": "{*}",
    **{raised: f"\\textsuperscript{{{digit}}}" for digit, raised in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}, "⁻": r"\textsuperscript{$-$}",
    **{lowered: f"$_{digit}$" for digit, lowered in enumerate("₀₁₂₃₄₅₆₇₈₉")},
    "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "·": r"$\cdot$", "÷": r"$\div$", "≥": r"$\geq$", "≤": r"$\leq$",
    "≈": r"$\approx$", "≠": r"$\neq$", "→": r"$\to$", "∞": r"$\infty$", "√": r"$\surd$", "‖": r"$\|$", "…": r"\dots{}",
    "σ": r"$\sigma$", "μ": r"$\mu$", "µ": r"$\mu$", "λ": r"$\lambda$", "ε": r"$\varepsilon$", "τ": r"$\tau$",
    "Σ": r"$\Sigma$", "ß": r"\ss{}",
    "█": r"\rule{0.4em}{1.4ex}", "†": r"\dag{}", "‡": r"\ddag{}", "§": r"\S{}", "✗": r"\textbf{x}", "○": r"$\circ$",
    "–": r"\textendash{}", "—": r"\textemdash{}", "’": "'", "‘": "`", "“": "``", "”": "''", "\u00a0": "~", "\u202f": r"\,",
})  # fmt: skip
r"""Characters that LaTeX reads as commands or cannot typeset; `[` and `*` would be arguments of a preceding `\\`."""
_ACCENTS = "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327"
"""combining accents of letters that every LaTeX typesets without a package"""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
"""beginnings of a text that spreadsheets compute, https://owasp.org/www-community/attacks/CSV_Injection"""


def encoded(answer: Answer, format: str, width: int | None = None) -> str | bytes:
    """Encode an answer: text for people, bytes for programs. `width` is that of the terminal; None without a terminal."""
    if format == "csv":
        return _csv(_with_texts(answer.frame, visible))
    if format == "json":
        return _json(_with_texts(answer.frame, visible))
    if format == "parquet":
        return bytes(_with_texts(answer.frame, visible).to_parquet(index=False))
    remarks = [visible(remark).replace("\n", "; ") for remark in answer.remarks]
    table = _with_texts(answer.frame if answer.readable is None else answer.readable, visible)
    if not len(table.columns):
        return "\n".join(remarks) + "\n"
    if format == "markdown":
        return _markdown(terminal.cells(table), remarks)
    if format == "latex":
        return _latex(terminal.cells(table), remarks)
    return "\n".join([*terminal.lines(table, width), *([""] if remarks else []), *remarks]) + "\n"


def _with_texts(frame: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """The frame with every text changed; other values stay."""

    def changed(value: object) -> object:
        return change(value) if isinstance(value, str) else value

    return frame.assign(**{str(name): frame[name].map(changed) for name in frame.select_dtypes(["object", "string"])})


def _csv(frame: pd.DataFrame) -> bytes:
    """CSV with nested values as JSON, with texts of several lines joined to one, and without formulas of spreadsheets."""
    columns = {str(name): frame[name].map(_in_one_line) for name in frame.select_dtypes(["object", "string"])}
    return _with_texts(frame.assign(**columns), _as_text).to_csv(index=False).encode(errors="backslashreplace")


def _as_text(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _in_one_line(value: object) -> object:
    if isinstance(value, str):
        return value.replace("\n", "; ")
    return json.dumps(value) if isinstance(value, list | dict) else value


def _json(frame: pd.DataFrame) -> bytes:
    """A JSON list of objects; missing and non-finite values are null."""
    plain = frame.astype(object).where(frame.notna(), None)
    rows = [
        {name: None if value in (math.inf, -math.inf) else value for name, value in row.items()}
        for row in plain.to_dict("records")
    ]
    return (json.dumps(rows, indent=1) + "\n").encode()


def _markdown(cells: Sequence[Sequence[str]], remarks: Sequence[str]) -> str:
    """A table in GitHub's Markdown, then a paragraph for each remark."""
    head, *rows = [[cell.translate(_MARKDOWN) for cell in row] for row in cells]
    table = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    paragraphs = [f"\n{remark.translate(_MARKDOWN)}" for remark in remarks if remark]
    return "\n".join([*table, *paragraphs]) + "\n"


def _latex(cells: Sequence[Sequence[str]], remarks: Sequence[str]) -> str:
    """A tabular with the rules of booktabs, then the remarks as comments."""
    head, *rows = [" & ".join(map(_in_latex, row)) + r" \\" for row in cells]
    begin = rf"\begin{{tabular}}{{{'l' * len(cells[0])}}}"
    comments = [f"% {remark}" for remark in remarks if remark]
    lines = [r"% needs \usepackage{booktabs}", begin, r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, *comments]) + "\n"


def _in_latex(cell: str) -> str:
    return re.sub("-(?=-)", "-{}", "".join(map(_typeset, cell)))  # LaTeX would typeset two hyphens as a dash


def _typeset(character: str) -> str:
    """A character in LaTeX; one that LaTeX does not know without a package is given by its number, as in U+4E2D."""
    if ord(character) in _LATEX:
        return _LATEX[ord(character)]
    parts = unicodedata.normalize("NFD", character)
    is_accented = len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in _ACCENTS
    return character if character.isascii() or is_accented else f"U+{ord(character):04X}"
