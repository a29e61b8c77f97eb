"""FileStore keeps the contract, alone and against the dict model under random operations."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from store import Item
from store.base import Mode, Written
from store.file import FileStore
from tests.store.contract import Contract, machine
from tests.store.faults import MEMORY

LONG = bool(os.environ.get("STORE_LONG"))
EVERY = list(HealthCheck)


class TestFileStore(Contract):
    pass


class Reopening(FileStore):
    """A store in a folder of its own, reopened by the state machine, removed when closed."""

    def reopened(self) -> "Reopening":
        return Reopening(self.directory)

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.directory, ignore_errors=True)


def fresh() -> Reopening:
    return Reopening(Path(tempfile.mkdtemp(prefix="store-machine-", dir=MEMORY)))


TestRandomOperations = machine(fresh).TestCase
TestRandomOperations.settings = settings(
    max_examples=2000 if LONG else 30,
    stateful_step_count=50 if LONG else 30,
    deadline=None,
    suppress_health_check=EVERY,
)
TestRandomOperations = pytest.mark.filterwarnings("ignore")(TestRandomOperations)


class Forgetful(Reopening):
    """A store that says it wrote all that it was given, and leaves the last of several out."""

    def upsert(self, name: str, items: Sequence[Item], mode: Mode = "upsert") -> Written:
        done = super().upsert(name, items[: max(1, len(items) - 1)], mode)
        return Written(done.inserted + (len(items) > 1), done.updated)


@pytest.mark.filterwarnings("ignore")
def test_the_comparison_can_fail() -> None:
    """The control: a write that is not there any more is found."""
    test = machine(lambda: Forgetful(Path(tempfile.mkdtemp(prefix="store-machine-", dir=MEMORY))))
    test.TestCase.settings = settings(
        max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=EVERY,
        print_blob=False, phases=[Phase.generate],
    )  # fmt: skip
    with pytest.raises(AssertionError):
        test.TestCase("runTest").debug()
