"""The commands that ask a running service: models, collections, search, keys."""

import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from tests.cli.conftest import run
from tests.conftest import free_port

TEXTS = ["a cat sat down", "a dog ran", "the sea\nis \x1b[31mblue " + "x" * 300]


@pytest.fixture
def pets(at: str) -> Iterator[str]:
    """A collection of three texts."""
    body = {"collection": "pets", "texts": TEXTS, "ids": ["cat", "dog", "sea"],
            "metadata": [{"legs": 4}, {"legs": 4}, {"legs": 0}]}  # fmt: skip
    assert requests.post(f"{at}/embed-and-store", json=body, timeout=60).status_code == 201
    yield "pets"
    requests.delete(f"{at}/collections/pets", timeout=60)


def test_models_are_listed_with_the_default_marked(at: str) -> None:
    done = run("models")
    assert done.code == 0 and "fake *" in done.out and "ready" in done.out
    assert run("models", "--json").json["default"] == "fake"


def test_collections_are_listed(at: str, pets: str) -> None:
    lines = run("collections").out.splitlines()
    assert lines[0].split()[:2] == ["COLLECTION", "TEXTS"]
    assert [line.split()[:2] for line in lines[1:]] == [["pets", "3"]]
    (row,) = run("collections", "--json").json["collections"]
    assert row["name"] == "pets" and row["count"] == 3


def test_a_search_shows_the_nearest_text_first(at: str, pets: str) -> None:
    done = run("search", pets, "an animal", "-k", "2")
    shown = [line.split()[:2] for line in done.out.splitlines()[1:]]
    hits = run("search", pets, "an animal", "-k", "2", "--json").json["results"]
    assert shown == [[f"{hit['score']:.3f}", hit["id"]] for hit in hits] and len(hits) == 2
    assert hits[0]["score"] >= hits[1]["score"]
    found = run("search", pets, "x", "--filter", '{"legs": 0}', "--json").json["results"]
    assert [hit["id"] for hit in found] == ["sea"]
    assert "nothing found" in run("search", pets, "x", "--min-score", "2").out


def test_what_is_stored_cannot_write_to_the_terminal(at: str, pets: str) -> None:
    done = run("search", pets, "the sea", "-k", "3")
    assert "\x1b" not in done.out and len(done.out.splitlines()) == 4 and "the sea is" in done.out
    assert all(len(line) < 140 for line in done.out.splitlines())


def test_a_filter_that_is_no_json_is_told_with_an_example(at: str, pets: str) -> None:
    done = run("search", pets, "x", "--filter", "lang=en")
    assert done.code == 2 and "must be JSON" in done.err


def test_an_unknown_collection_is_told_in_a_line(at: str) -> None:
    done = run("search", "no-such", "x")
    assert done.code == 1 and "the service answered 404" in done.err
    assert done.err.count("\n") == 1 and "no-such" in done.err


COMMANDS = [["models"], ["collections"], ["search", "docs", "x"], ["keys", "list"]]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_service_that_does_not_answer_is_told_with_what_to_do(words: list[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = run(*words, "--url", url)
    assert done.code == 1 and done.err.count("\n") == 1 and not done.out
    assert url in done.err and "embedding-service serve" in done.err and "--url" in done.err
    as_json = run(*words, "--url", url, "--json")
    assert as_json.code == 1 and "cannot be reached" in as_json.json["error"]


def test_what_is_no_such_service_is_told(at: str) -> None:
    assert "404" in run("models", "--url", f"{at}/static").err
    assert "--url" in run("models", "--url", "localhost:8001").err
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.01,))
        thread.start()
        try:
            done = run("models", "--url", f"http://127.0.0.1:{other.server_port}")
        finally:
            other.shutdown()
            thread.join()
    assert done.code == 1 and "is it the address?" in done.err


def test_a_service_that_asks_for_a_key_says_how_to_give_it(guarded: tuple[str, str]) -> None:
    url, token = guarded
    without = run("collections", "--url", url)
    assert without.code == 1 and "--key" in without.err and "EMBEDDING_API_KEY" in without.err
    wrong = run("collections", "--url", url, "--key", "emb_wrong")
    assert (
        wrong.code == 1 and "does not take this key" in wrong.err and "emb_wrong" not in wrong.err
    )
    assert run("collections", "--url", url, EMBEDDING_API_KEY=token).code == 0
    blank = run("collections", "--url", url, "--key", "a b")
    assert blank.code == 1 and "has a blank" in blank.err


def test_a_key_is_made_used_rotated_and_revoked(guarded: tuple[str, str]) -> None:
    url, token = guarded
    admin = {"EMBEDDING_SERVICE_URL": url, "EMBEDDING_API_KEY": token}
    made = run("keys", "create", "admin", "--label", "laptop", "--role", "reader",
               "--collection", "docs", "--days", "3", "--json", **admin).json  # fmt: skip
    listed = run("keys", "list", **admin).out
    assert "laptop" in listed and "docs" in listed and "until" in listed
    assert made["api_key"] not in listed
    assert run("models", "--url", url, "--key", made["api_key"]).code == 0
    second = run("keys", "rotate", "admin", made["id"], "--overlap", "0", "--json", **admin).json
    assert second["api_key"] != made["api_key"]
    assert run("collections", "--url", url, "--key", second["api_key"]).code == 0
    assert "revoked" in run("keys", "revoke", "admin", second["id"], **admin).out
    assert run("collections", "--url", url, "--key", second["api_key"]).code == 1
    assert run("keys", "rotate", "admin", "no-such-id", **admin).code == 1


def test_a_random_key_is_one_that_serve_takes() -> None:
    first, second = (run("keys", "random").out.strip() for _ in range(2))
    assert first != second and len(first) >= 40
    assert len(run("keys", "random", "--json").json["key"]) >= 40


def test_collections_of_several_pages_are_all_listed(
    at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands.asking.PAGE", 2)
    names = [f"many-{number}" for number in range(3)]
    for name in names:
        body = {"name": name, "dimension": 8}
        assert requests.post(f"{at}/collections", json=body, timeout=60).status_code == 201
    try:
        listed = [row["name"] for row in run("collections", "--json").json["collections"]]
        assert set(names) <= set(listed) and len(listed) == len(set(listed))
    finally:
        for name in names:
            requests.delete(f"{at}/collections/{name}", timeout=60)
