"""The Pareto front of costs and worths."""

from __future__ import annotations

from collections.abc import Mapping


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Keys of the points of (cost, worth) on the Pareto front, cheapest first: no other point is at least as good in both."""

    def beaten(mine: tuple[float, float]) -> bool:
        return any(other != mine and other[0] <= mine[0] and other[1] >= mine[1] for other in points.values())

    return sorted((key for key, own in points.items() if not beaten(own)), key=lambda key: points[key])
