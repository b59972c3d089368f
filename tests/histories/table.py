"""What the histories have shown, as rows of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from .check import SECOND, Findings
from .run import Settings

HEAD = (
    "store",
    "cache",
    "operations",
    "grants",
    "denials",
    "no verdict",
    "tokens ended",
    "violations",
    "longest life of a dead token",
    "its bound",
    "the same in the process that ended it",
    "back after a restart",
    "nemeses that struck",
)


@dataclass(frozen=True)
class Row:
    """One history."""

    settings: Settings
    findings: Findings

    def cells(self) -> tuple[str, ...]:
        """In words."""
        found, cache = self.findings, self.settings.cache
        name = self.settings.store.partition(":")[0]
        return (
            {"sqlite": "SQLite", "postgresql": "PostgreSQL"}.get(name, name),
            f"{cache:g} s" if cache else "off",
            f"{found.operations:,}",
            f"{found.grants:,}",
            f"{sum(found.denials.values()):,}",
            f"{found.unavailable:,}",
            f"{found.ended:,}",
            _counted({kind.value: number for kind, number in found.violations.items()}) or "0",
            _milliseconds(found.longest_life),
            f"{cache * 1000:,.0f} ms",
            _milliseconds(found.longest_here),
            _milliseconds(found.recovery) if found.strikes["restart"] else "",
            _counted(found.strikes) or "none",
        )

    def as_data(self) -> dict[str, object]:
        """For JSON."""
        found = self.findings
        counts = {field.name: getattr(found, field.name) for field in fields(found)}
        return {
            **{name: dict(value) if isinstance(value, Counter) else value for name, value in counts.items()},
            "store": self.settings.store.partition(":")[0],
            "cache": self.settings.cache,
            "operations": found.operations,
            "violations": {kind.value: number for kind, number in found.violations.items()},
            "shown": [{**one._asdict(), "kind": one.kind.value, "record": one.record._asdict()} for one in found.shown],
        }


def markdown(rows: Iterable[Row]) -> str:
    """The table, as Markdown that is readable as it is: a column a history, as there are few of them."""
    columns = list(zip(HEAD, *(row.cells() for row in rows), strict=True))
    widths = [max(map(len, cells)) for cells in zip(*columns, strict=True)]
    dashes = tuple("-" * width for width in widths)
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (columns[0], dashes, *columns[1:])
    )


def violations(row: Row) -> str:
    """Some of what was broken, a line each."""
    return "\n".join(
        f"{shown.kind.value}: {shown.process}, token {shown.record.token}, "
        f"{shown.late / 1e6:,.3f} ms late, from {shown.record.start} to {shown.record.end}"
        for shown in row.findings.shown
    )


def _milliseconds(nanoseconds: int) -> str:
    return f"{nanoseconds * 1000 / SECOND:,.0f} ms"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items()) if number)
