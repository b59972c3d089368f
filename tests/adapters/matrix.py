"""Frameworks by rows: how many requests of the table each framework's application answers as the table says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from tests.adapters.frameworks import Case, Outcome

HEAD = "| framework | over | what says it | requests | as the table says | named differences | wrong |"


def table(outcomes: Iterable[tuple[Case, Outcome]]) -> str:
    """The matrix, and below it each difference that is named."""
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    differences: dict[tuple[str, str], list[str]] = {}
    for case, outcome in outcomes:
        way = "each route" if case.per_route else "a policy"
        count = counts.setdefault((case.framework, case.interface.upper(), way), Counter())
        as_named = bool(case.differs) and outcome.differs == case.differs
        count["wrong" if outcome.wrong or (case.differs and not as_named) else "named" if as_named else "equal"] += 1
        if as_named:
            named = differences.setdefault((case.framework, f"{way}: {_meaning(outcome.differs)}"), [])
            if case.row.name not in named:
                named.append(case.row.name)
    return "\n".join([*_counted(counts), "", *_listed(differences), ""])


def _counted(counts: dict[tuple[str, str, str], Counter[str]]) -> Iterator[str]:
    yield HEAD
    yield "|" + " --- |" * HEAD.count(" | ") + " --- |"
    for key, count in sorted(counts.items()):
        cells = [*key, str(count.total()), *(str(count[name]) for name in ("equal", "named", "wrong"))]
        yield f"| {' | '.join(cells)} |"


def _listed(differences: dict[tuple[str, str], list[str]]) -> Iterator[str]:
    for (framework, what), rows in sorted(differences.items()):
        yield f"- {framework}, {what}: {', '.join(rows)}"


def _meaning(differs: str) -> str:
    return "the endpoint is called" if differs == "entered" else f"`{differs}`"
