"""The committed records can be read, and the README quotes them as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

import lipbench

ROOT = Path(__file__).parents[1]
SETS = sorted(path for path in (ROOT / "reports" / "measured").iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", SETS, ids=lambda path: path.name)
def test_a_set_is_whole_and_named_in_the_list(folder: Path) -> None:
    found = lipbench.load(folder)
    assert found.problems == ()
    assert len(found.stored.records) + len(found.trainings) > 0
    assert all(one.status == "ok" for one in found.trainings)
    assert f"| `{folder.name}` |" in (ROOT / "reports" / "measured" / "README.md").read_text()


def test_the_readme_quotes_the_trainings() -> None:
    frame = lipbench.load(ROOT / "reports" / "measured" / "cpu").summary().frame
    digits = frame[frame["dataset"] == "digits"].set_index("title")
    text = (
        (ROOT / "README.md").read_text().partition("All seven methods with three minutes each")[2].partition("\nAOL and SOC")[0]
    )
    rows = re.findall(r"^\| (\w+) XS \| (.*) \|$", text, re.MULTILINE)
    assert [name for name, _ in rows] == list(digits.sort_values("cra_36", ascending=False).index)
    for name, cells in rows:
        accuracy, certified, attacked, epochs = (one.removesuffix(" %") for one in cells.split(" | "))
        own = digits.loc[name]
        for quoted, column in ((accuracy, "accuracy"), (certified, "cra_36")):
            mean, reach = quoted.split(" ± ")
            assert same(mean, 100 * own[column])
            assert same(reach, 50 * (own[f"{column}_high"] - own[f"{column}_low"]))
        assert same(attacked, 100 * own["attacked_36"])
        assert same(epochs, own["epochs"])


def test_the_readme_quotes_the_paper() -> None:
    published = pd.read_csv(ROOT / "lipbench" / "published" / "accuracy.csv")
    chosen = published.query("dataset == 'cifar10' and size == 'XS' and training_hours == 2")
    named = chosen.set_index("layer")["certified_robust_accuracy_percent_eps_36_255"].sort_values(ascending=False)
    text = " ".join((ROOT / "README.md").read_text().split())
    assert ", ".join(f"{name} {share:.1f} %" for name, share in named.items()) in text


def same(quoted: str, value: float) -> bool:
    """Whether a number is quoted as the value rounded to its own decimals."""
    return abs(float(quoted) - value) <= 0.5 * 10.0 ** -len(quoted.partition(".")[2]) + 1e-9
