"""A cut of the power at any call: what was acknowledged is there, the rest wholly or not at all."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import store.collection
from errors import ServiceError
from store.file import FileStore
from store.ledger import Options
from tests.store.faults import applied, contents, put
from tests.store.power import Disk, RecordingFS, build


def run(folder: Path, fs: RecordingFS) -> list[tuple[int, dict[str, str]]]:
    """Do some of everything; return (calls made so far, state) after each acknowledgement."""
    acks: list[tuple[int, dict[str, str]]] = []
    state: dict[str, str] = {}

    def done(ids: list[str], value: int | None) -> None:
        nonlocal state
        state = applied(state, {"ids": ids, "value": value})
        acks.append((len(fs.calls), state))

    opened = FileStore(folder, fs=fs, options=Options(compact_rows=10**9))
    opened.create("docs", 8)
    done([], 0)
    rng = random.Random(3)
    for turn in range(14):
        ids = [f"k{i}" for i in rng.sample(range(40), rng.choice([1, 3, 20]))]
        if turn % 5 == 4:
            opened.delete("docs", ids)
            done(ids, None)
        else:
            put(opened, ids, turn)
            done(ids, turn)
        if turn in (6, 11):
            opened.compact("docs")
            done([], 0)
    opened.close()
    return acks


def violations(
    tmp_path: Path, lying: bool, every: int, reboot: Callable[[], None]
) -> tuple[int, list[str]]:
    source = tmp_path / "source"
    fs = RecordingFS(tmp_path, lying)
    acks = run(source, fs)
    reboot()
    wrong, count, rng = [], 0, random.Random(7)
    for at in range(1, len(fs.calls) + 1, every):
        sure = [state for calls, state in acks if calls <= at]
        following = [state for calls, state in acks if calls > at][:1]
        for done, files in Disk(fs.calls[:at]).states(rng):
            root = tmp_path / "state"
            build(root, tmp_path, done, files)
            count += 1
            try:
                if sure:
                    with FileStore(root / "source") as opened:
                        found = contents(opened)
                        if found not in [sure[-1], *following]:
                            wrong.append(f"call {at} ({fs.calls[at - 1].kind}): {len(found)} rows")
                        put(opened, ["next"], 1)  # and it goes on
                        assert contents(opened) == found | {"next": "1"}
            except (ServiceError, AssertionError, OSError) as exc:
                wrong.append(f"call {at} ({fs.calls[at - 1].kind}): {type(exc).__name__} {exc}")
            shutil.rmtree(root)
    return count, wrong


@pytest.fixture
def reboot(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make the machine seem to have booted again."""

    def now() -> None:
        monkeypatch.setattr(store.collection, "boot_id", lambda: "another boot")

    return now


@pytest.mark.fault("The store")
def test_no_cut_of_the_power_loses_what_was_acknowledged(
    memory_path: Path, reboot: Callable[[], None]
) -> None:
    """The power fails during a write -> what was acknowledged is there."""
    count, wrong = violations(memory_path, lying=False, every=1, reboot=reboot)
    assert count > 400
    assert not wrong, wrong[:5]


def test_the_simulator_sees_a_disk_that_does_not_sync(
    tmp_path: Path, reboot: Callable[[], None]
) -> None:
    """The control: with syncs that do nothing, many of the states are wrong."""
    count, wrong = violations(tmp_path, lying=True, every=3, reboot=reboot)
    assert len(wrong) > count / 4


def test_the_matrix_is_not_trusted_after_a_boot(tmp_path: Path, reboot: Callable[[], None]) -> None:
    """The control of the check at the first opening after a boot: without it, rows are wrong."""
    with FileStore(tmp_path / "s") as opened:
        opened.create("docs", 8)
        put(opened, [f"k{i}" for i in range(30)], 1)
        matrix = next((tmp_path / "s" / "c").glob("*/mat.0"))
    whole = matrix.read_bytes()
    matrix.write_bytes(whole[:100] + bytes(200) + whole[300:])
    with FileStore(tmp_path / "s") as same_boot:
        assert not same_boot.verify("docs").ok
    reboot()
    with FileStore(tmp_path / "s") as other_boot:
        assert other_boot.count("docs") == 30 and other_boot.verify("docs").ok
    assert matrix.read_bytes() == whole
