"""Writes `lipbench/prediction/fits.json`, the fitted formulas that a report has of our own methods:

    python tests/fits.py > fits.json && mv fits.json lipbench/prediction/

A minute of counting. To be run again where a layer's costs change; `test_beside.py` says when.
"""

from __future__ import annotations

import json

from lipbench import registry
from lipbench.prediction import complexity


def main() -> None:
    rows = [row for method in registry.METHODS for row in map(complexity.write, complexity.fit_layer(method))]
    print("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]")


if __name__ == "__main__":
    main()
