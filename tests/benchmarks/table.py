"""The rows of the table, and how they are printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import groupby

from .timing import Spread


@dataclass(frozen=True)
class Row:
    """
    One quantity that was measured.

    Attributes:
        ours, baseline: in words, with units.
        measured: what the target is about: mostly a ratio of the two.
        at_most, at_least: the target; neither for a quantity that is only shown.
    """

    group: str
    quantity: str
    ours: str
    baseline: str
    measured: Spread
    at_most: float | None = None
    at_least: float | None = None
    unit: str = ""

    @property
    def target(self) -> str:
        """In words."""
        if self.at_most is not None and self.at_least is not None:
            return f"{self.at_least:g}…{self.at_most:g}{self.unit}"
        if self.at_most is not None:
            return f"≤ {self.at_most:g}{self.unit}"
        return f"≥ {self.at_least:g}{self.unit}" if self.at_least is not None else ""

    @property
    def verdict(self) -> str:
        """Of the median as it is shown: ``met``, ``missed``, or nothing without a target."""
        if self.at_most is None and self.at_least is None:
            return ""
        shown = round(self.measured.middle, 2)
        too_much = self.at_most is not None and shown > self.at_most
        too_little = self.at_least is not None and shown < self.at_least
        return "missed" if too_much or too_little else "met"

    def as_data(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "measured": self.measured._asdict(), "verdict": self.verdict}


HEAD = ("quantity", "ours", "baseline", "target", "measured", "spread", "verdict")


def markdown(rows: Iterable[Row]) -> str:
    """The table, as Markdown that is readable as it is."""
    lines: list[tuple[str, ...]] = []
    for group, members in groupby(rows, key=lambda row: row.group):
        lines.append((f"**{group}**", *[""] * (len(HEAD) - 1)))
        lines += map(_cells, members)
    widths = [max(map(len, column)) for column in zip(HEAD, *lines, strict=True)]
    dashes = tuple("-" * width for width in widths)
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (HEAD, dashes, *lines)
    )


def _cells(row: Row) -> tuple[str, ...]:
    middle, low, high = (f"{number:.2f}" if abs(number) < 100 else f"{number:,.0f}" for number in row.measured)
    spread = f"{low}…{high}" if low != high else ""
    return row.quantity, row.ours, row.baseline, row.target, f"{middle}{row.unit}", spread, row.verdict
