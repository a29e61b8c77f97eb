"""What a check of `doctor` finds: its state, the fact, and what to do."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One fact about the machine or the settings, and what to do where it is not well."""

    name: str
    state: State
    fact: str
    do: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return it as JSON holds it."""
        return dataclasses.asdict(self)


Check = Callable[[], list[Finding]]


def ok(name: str, fact: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(name, "ok", fact)


def warning(name: str, fact: str, do: str) -> Finding:
    """Return a finding that the service bears, with what makes it better."""
    return Finding(name, "warning", fact, do)


def problem(name: str, fact: str, do: str) -> Finding:
    """Return a finding that keeps the service from doing what it is set up for."""
    return Finding(name, "problem", fact, do)
