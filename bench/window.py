"""How long something is measured."""

import argparse
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Window:
    """At least so many seconds, and on until there are enough answers, but at most so long.

    Of a server that takes seconds to answer, a window of fixed length holds one or two answers.
    """

    seconds: float
    least: int = 0  # answers, of each group of clients
    longest: float = 60.0  # seconds; of no effect below `seconds`

    def over(self, elapsed: float, answers: Iterable[int]) -> bool:
        """Return whether this much time and these answers, a number a group, are enough."""
        if elapsed < self.seconds:
            return False
        return elapsed >= self.longest or all(count >= self.least for count in answers)

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Let a command line change it; `from_options` reads that."""
        told = {"seconds": "at least", "least": "answers", "longest": "seconds at most"}
        for name, default in asdict(self).items():
            kind = int if name == "least" else float
            parser.add_argument(f"--{name}", type=kind, default=default, help=told[name])

    @classmethod
    def from_options(cls, given: argparse.Namespace) -> "Window":
        """Return what the command line says."""
        return cls(given.seconds, given.least, given.longest)

    def options(self) -> list[str]:
        """Return the command line of a process that measures as long."""
        return [word for name, value in asdict(self).items() for word in (f"--{name}", str(value))]
