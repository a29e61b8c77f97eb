"""FileStore keeps the contract, alone and against the dict model under random operations."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from store.file import FileStore
from tests.store.contract import Contract, machine
from tests.store.faults import MEMORY

LONG = bool(os.environ.get("STORE_LONG"))


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
    suppress_health_check=list(HealthCheck),
)
TestRandomOperations = pytest.mark.filterwarnings("ignore")(TestRandomOperations)
