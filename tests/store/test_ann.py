"""The approximate index: near enough, never short, never in the way, and rebuilt when damaged."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from errors import Invalid
from store import Found, Item, graph_index, open_store
from store.collection import Collection
from store.file import FileStore
from store.record_file import Options

DIM, ROWS, ABOVE = 32, 6000, 1000


def clustered(rows: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((60, dim), np.float32)
    noise = 0.9 * rng.standard_normal((rows, dim), np.float32)
    return np.asarray(centres[rng.integers(0, 60, rows)] + noise, np.float32)


def fill(store: FileStore, vectors: np.ndarray, first: int = 0) -> None:
    for start in range(0, len(vectors), 1000):
        part = enumerate(vectors[start : start + 1000], first + start)
        store.upsert("docs", [Item(f"{i:06}", v, None, {"n": i % 20}) for i, v in part])


def opened(folder: Path) -> FileStore:
    return FileStore(folder, options=Options(ann_above=ABOVE))


def collection(store: FileStore) -> Collection:
    with store.files.using(store.catalog.look_up("docs")) as found:
        return found


def until(true: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def search(store: FileStore, query: np.ndarray, k: int = 10, **asked: object) -> Found:
    return store.search("docs", query, k, **asked)  # type: ignore[arg-type]


def await_graph(store: FileStore) -> None:
    query = np.ones((1, DIM), np.float32)
    until(lambda: not search(store, query).exact)


def ids(found: Found) -> list[list[str]]:
    return [[hit.id for hit in hits] for hits in found.hits]


def graph_file(store: FileStore) -> Path:
    (path,) = collection(store).folder.glob("ann.[0-9]*")
    return path


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(ROWS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray) -> Path:
    """A store with a collection and its graph, to be copied."""
    folder = tmp_path_factory.mktemp("graph") / "s"
    with opened(folder) as store:
        store.create("docs", DIM)
        fill(store, vectors)
        await_graph(store)
    return folder


@pytest.fixture
def store(tmp_path: Path, made: Path) -> Iterator[FileStore]:
    """A collection with its graph in use."""
    shutil.copytree(made, tmp_path / "s")
    with opened(tmp_path / "s") as store:
        await_graph(store)
        yield store


def test_a_graph_that_misses_rows_is_built_once_more_by_one_thread(
    tmp_path: Path, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths, threads = iter([0, 256]), []
    linked = graph_index.linked

    def noted(matrix: np.ndarray, threads_: int) -> object:
        threads.append(threads_)
        return linked(matrix, threads_)

    monkeypatch.setattr(graph_index, "BUILD_CHUNK", 1000)
    monkeypatch.setattr(graph_index, "width_of", lambda *_: next(widths))
    monkeypatch.setattr(graph_index, "linked", lambda matrix, threads: noted(matrix, threads))
    vectors.astype("<f4").tofile(tmp_path / "matrix.0")
    assert graph_index.build(tmp_path, 0, ROWS, DIM)
    assert threads == [0, 1] and (tmp_path / "ann.0").stat().st_size > 0


def test_it_finds_what_the_exact_search_finds(store: FileStore) -> None:
    queries = clustered(100, seed=1)
    near, exact = search(store, queries), search(store, queries, exact=True)
    assert (near.exact, exact.exact) == (False, True)
    same = [len({*a} & {*b}) for a, b in zip(ids(near), ids(exact), strict=True)]
    assert sum(same) / 1000 >= 0.99
    for found, right in zip(near.hits, exact.hits, strict=True):
        scores = {hit.id: hit.score for hit in right}
        assert all(hit.score == scores.get(hit.id, hit.score) for hit in found)


def test_a_small_or_a_dot_collection_is_searched_exactly(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        store.create("docs", DIM)
        fill(store, clustered(ABOVE - 1))
        store.create("dots", DIM, "dot")
        store.upsert("dots", [Item(f"{i}", v) for i, v in enumerate(clustered(1000))])
        for name in ("docs", "dots"):
            assert store.search(name, np.ones((1, DIM))).exact
        assert not list((tmp_path / "s" / "c").glob("*/ann*"))
        assert collection(store).ann._helper is None


class Patchy:
    """An index that finds the nearest of a share of its rows: the more, the wider it searches."""

    expansion_search = 0

    def __init__(self, rows: np.ndarray, whole_at: int) -> None:
        self.rows, self.whole_at = rows, whole_at

    def search(self, queries: np.ndarray, count: int) -> SimpleNamespace:
        seen = self.rows[: len(self.rows) * self.expansion_search // self.whole_at]
        keys = np.argsort(-(queries @ seen.T), axis=1)[:, :count]
        return SimpleNamespace(keys=keys, counts=np.full(len(queries), count))


@pytest.mark.parametrize(("whole_at", "width"), [(256, 256), (1000, 1024), (4096, 4096), (9000, 0)])
def test_a_graph_is_searched_as_widely_as_its_rows_need(
    vectors: np.ndarray, whole_at: int, width: int
) -> None:
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert graph_index.width_of(Patchy(rows, whole_at), rows) == width


def test_a_graph_that_misses_too_much_is_not_used_and_not_made_again(
    tmp_path: Path, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FileStore(tmp_path / "s") as store:
        store.create("docs", DIM)
        fill(store, vectors)
        folder = collection(store).folder
    monkeypatch.setattr(graph_index, "RECALL", 1.1)
    assert graph_index.build(folder, 0, ROWS, DIM)
    made = (folder / "ann.0").stat()
    with opened(tmp_path / "s") as store:
        until(lambda: search(store, vectors[:1]).exact and collection(store).ann._graph)
        for query in (vectors[:1], vectors[:20]):
            found = search(store, query)
            assert found.exact and found == search(store, query, exact=True)
        assert collection(store).ann.rows == 0
        assert collection(store).ann._builder is None
    assert (folder / "ann.0").stat() == made and made.st_size == graph_index.FOOTER.size


def test_writes_after_the_graph_are_seen_at_once(store: FileStore, vectors: np.ndarray) -> None:
    target = vectors[7:8]
    assert search(store, target, 1).hits[0][0].id == "000007"
    store.upsert("docs", [Item("new", target[0]), Item("000007", -target[0])])
    found = search(store, target, 1)
    assert (found.exact, found.hits[0][0].id) == (False, "new")
    store.delete("docs", ["new"])
    found = search(store, target, 50)
    assert not found.exact and not {"new", "000007"} & {*ids(found)[0]}
    assert search(store, -target, 1).hits[0][0].id == "000007"


@pytest.mark.parametrize(
    "filter", [{"n": 3}, {"n": {"$lt": 10}}, {"n": {"$lt": 18}}, {"n": 99}], ids=str
)
def test_a_filter_is_exact_and_never_short(store: FileStore, filter: dict[str, object]) -> None:
    queries = clustered(100, seed=2)  # threads build the graph in any order: one may miss a hit
    for k in (1, 10, 900):
        near = search(store, queries, k, filter=filter)
        right = search(store, queries, k, filter=filter, exact=True)
        assert [len(hits) for hits in near.hits] == [len(hits) for hits in right.hits]
        pairs = list(zip(ids(near), ids(right), strict=True))
        assert all(len(set(some)) == len(some) for pair in pairs for some in pair)
        found = sum(len({*some} & {*best}) for some, best in pairs)
        assert found >= 0.99 * sum(len(best) for _, best in pairs)
        assert near.exact <= (ids(near) == ids(right))


def test_where_all_that_is_near_was_deleted_it_looks_at_everything(
    store: FileStore, vectors: np.ndarray
) -> None:
    query = vectors[:1]
    gone = ids(search(store, query, 800, exact=True))[0]
    store.delete("docs", gone)
    found = search(store, query, 10)
    assert found.exact and ids(found) == ids(search(store, query, 10, exact=True))


def test_it_is_made_anew_when_many_rows_are_newer(store: FileStore) -> None:
    fill(store, clustered(ROWS // 2, seed=3), ROWS)
    until(lambda: (await_graph(store), collection(store).ann.rows == ROWS * 3 // 2)[1])


def test_a_compaction_takes_the_graph_away_and_another_comes(store: FileStore) -> None:
    store.delete("docs", [f"{i:06}" for i in range(0, ROWS, 2)][:1000])
    store.compact("docs")
    first = search(store, np.ones((1, DIM)))
    assert first.exact and len(first.hits[0]) == 10
    await_graph(store)
    assert graph_file(store).name == "ann.1" and collection(store).ann.rows == ROWS - 1000


def spoil(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
    elif how == "footer":
        data[-9] ^= 1
    else:
        data = data[: {"cut": len(data) // 2, "short": 5, "empty": 0}[how]]
    new = path.with_name("spoilt")  # another inode: what is mapped is never written to
    new.write_bytes(data)
    os.replace(new, path)


@pytest.mark.parametrize("how", ["flipped", "footer", "cut", "short", "empty"])
def test_a_damaged_file_is_no_graph(made: Path, tmp_path: Path, how: str) -> None:
    (path,) = made.glob("c/*/ann.[0-9]*")
    shutil.copy(path, tmp_path / "ann.0")
    assert graph_index.Graph(tmp_path / "ann.0", DIM).rows == ROWS
    spoil(tmp_path / "ann.0", how)
    with pytest.raises(ValueError, match="short|checksum"):
        graph_index.Graph(tmp_path / "ann.0", DIM)


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_a_damaged_file_is_made_again_and_never_answers(
    store: FileStore, vectors: np.ndarray, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, folder = graph_file(store), store.directory
    store.close()
    if how == "missing":
        path.unlink()
    else:
        spoil(path, how)
    with opened(folder) as again:
        found = search(again, vectors[5:6], 3)
        assert found.exact and found.hits[0][0].id == "000005"
        await_graph(again)
        assert graph_index.Graph(graph_file(again), DIM).rows == ROWS
    assert ("damaged and made again" in caplog.text) == (how != "missing")


# A build that has made the graph and never comes to write it down.
HELD = (
    "import signal; from store import graph_index; graph_index.width_of = lambda *_: signal.pause()"
    f"\n{graph_index.BUILDER}"
)


def test_a_killed_build_harms_nothing_and_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_index, "BUILDER", HELD)
    with opened(tmp_path / "s") as store:
        store.create("docs", DIM)
        fill(store, clustered(2 * ABOVE))
        watched = collection(store).ann
        query = clustered(1, seed=4)
        until(lambda: search(store, query).exact and watched._builder is not None)
        assert watched._builder is not None
        os.kill(watched._builder.pid, signal.SIGKILL)
        until(lambda: search(store, query).exact and watched._builder is None)
        assert not list(collection(store).folder.glob("ann.[0-9]"))
        store.upsert("docs", [Item("later", query[0])])
        assert search(store, query, 1).hits[0][0].id == "later"
        monkeypatch.undo()
        watched._not_before = 0.0  # what a minute does
        await_graph(store)


def test_closing_the_store_ends_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_index, "BUILDER", HELD)
    store = opened(tmp_path / "s")
    store.create("docs", DIM)
    fill(store, clustered(2 * ABOVE))
    watched = collection(store).ann
    until(lambda: search(store, np.ones((1, DIM))).exact and watched._builder is not None)
    builder = watched._builder
    store.close()
    assert builder is not None and builder.returncode == -signal.SIGTERM


OTHER = """
import sys, numpy as np
from tests.store.test_ann import await_graph, opened, search, ids, Path, Item
with opened(Path(sys.argv[1])) as store:
    await_graph(store)
    for line in sys.stdin:
        word, seed = line.split()
        vector = np.random.default_rng(int(seed)).standard_normal((1, 32)).astype(np.float32)
        if word == "put":
            store.upsert("docs", [Item("theirs", vector[0])])
            print("done", flush=True)
        else:
            found = search(store, vector, 1)
            print(found.exact, ids(found)[0][0], flush=True)
"""


def test_two_processes_share_a_graph_and_see_each_others_writes(store: FileStore) -> None:
    before = graph_file(store).stat().st_ino
    mine = np.random.default_rng(1).standard_normal((1, DIM)).astype(np.float32)
    theirs = np.random.default_rng(2).standard_normal((1, DIM)).astype(np.float32)
    command = [sys.executable, "-c", OTHER, str(store.directory)]
    with subprocess.Popen(
        command, cwd=graph_index.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin and other.stdout

        def ask(line: str) -> str:
            assert other.stdin and other.stdout
            other.stdin.write(line + "\n")
            other.stdin.flush()
            return other.stdout.readline().strip()

        assert ask("put 2") == "done"
        found = search(store, theirs, 1)
        assert (found.exact, ids(found)) == (False, [["theirs"]])
        store.upsert("docs", [Item("mine", mine[0])])
        assert ask("search 1") == "False mine"
        store.delete("docs", ["theirs"])
        assert "theirs" not in ask("search 2")
        other.stdin.close()
        assert other.wait(60) == 0
    assert graph_file(store).stat().st_ino == before


def test_only_one_process_builds(store: FileStore) -> None:
    folder = collection(store).folder
    with (folder / "ANN.LOCK").open("ab") as lock:
        graph_index.fcntl.flock(lock, graph_index.fcntl.LOCK_EX)
        assert not graph_index.build(folder, 0, ROWS, DIM)
    assert graph_index.build(folder, 0, ROWS, DIM)


def test_a_missing_library_is_named_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_index.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Invalid, match="pip install usearch"):
        open_store(None, tmp_path / "s", ann_above=1000)
    open_store(None, tmp_path / "s").close()
