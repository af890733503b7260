"""Measurements as JSON lines, so that an interrupted run resumes where it stopped."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Measures = dict[str, Any]


@dataclass(frozen=True)
class Spread:
    """Median and range over rounds."""

    median: float
    lowest: float
    highest: float

    def show(self, digits: int) -> str:
        middle = f"{self.median:,.{digits}f}"
        if self.lowest == self.highest:  # of a single run, for example
            return middle
        return f"{middle} ({self.lowest:,.{digits}f}–{self.highest:,.{digits}f})"  # noqa: RUF001


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


class Record:
    """Measures by row, contestant and round, kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[str, str, int], Measures] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            one = json.loads(line)
            self._known[one["row"], one["contestant"], one["round"]] = one["measures"]

    def has(self, row: str, contestant: str, number: int) -> bool:
        return (row, contestant, number) in self._known

    def add(self, row: str, contestant: str, number: int, measures: Measures) -> None:
        self._known[row, contestant, number] = measures
        line = {"row": row, "contestant": contestant, "round": number, "measures": measures}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def rounds(self, row: str, contestant: str) -> list[Measures]:
        """The measurements, first round first."""
        found = [(key[2], one) for key, one in self._known.items() if key[:2] == (row, contestant)]
        return [one for _, one in sorted(found, key=lambda pair: pair[0])]

    def contestants(self, row: str) -> list[str]:
        """In the order in which they were first measured."""
        return list(dict.fromkeys(key[1] for key in self._known if key[0] == row))

    def values(self, row: str, contestant: str, measure: str) -> list[float]:
        return [
            one[measure] for one in self.rounds(row, contestant) if one.get(measure) is not None
        ]

    def ratios(self, row: str, mine: str, other: str, measure: str = "per_s") -> list[float]:
        """`mine` over `other`, round by round."""
        pairs = zip(self.values(row, mine, measure), self.values(row, other, measure), strict=False)
        return [a / b for a, b in pairs if b]
