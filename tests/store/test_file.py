"""FileStore keeps the contract, alone and against the dict model under random operations."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import Phase

from store import Item
from store.base import Mode, Written
from store.file import FileStore
from tests.store.contract import Contract
from tests.store.faults import MEMORY
from tests.store.operations import machine, run

LONG = bool(os.environ.get("STORE_LONG"))


class TestFileStore(Contract):
    pass


class Reopening(FileStore):
    """A store in a folder of its own, reopened by the state machine, removed when closed."""

    def reopened(self) -> "Reopening":
        return type(self)(self.directory)

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.directory, ignore_errors=True)


def fresh(kind: type[Reopening] = Reopening) -> Reopening:
    return kind(Path(tempfile.mkdtemp(prefix="store-machine-", dir=MEMORY)))


@pytest.mark.filterwarnings("ignore")
def test_random_operations_agree_with_a_dict() -> None:
    run(machine(fresh), *(2000, 50) if LONG else (30, 30))


class Forgetful(Reopening):
    """A store that says it wrote all that it was given, and leaves the last of several out."""

    def upsert(self, name: str, items: Sequence[Item], mode: Mode = "upsert") -> Written:
        done = super().upsert(name, items[: max(1, len(items) - 1)], mode)
        return Written(done.inserted + (len(items) > 1), done.updated)


@pytest.mark.filterwarnings("ignore")
def test_the_comparison_can_fail() -> None:
    """The control: a write that is not there any more is found."""
    with pytest.raises(AssertionError):
        run(machine(lambda: fresh(Forgetful)), 100, 30, [Phase.generate])
