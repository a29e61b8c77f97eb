"""Collections over HTTP: what is stored is found, exactly, and bad input leaves them untouched."""

import base64
import threading
import time
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from context import services
from tests.collections.conftest import unit


def ids(reply) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [hit["id"] for hit in reply.json["results"]]


def test_it_works(points: FlaskClient) -> None:
    reply = points.post("/collections/points/search", json={"vector": unit(1, 0.1), "k": 2})
    assert ids(reply) == ["x", "xy"]
    assert reply.json["exact"] is True
    assert reply.json["results"][0]["score"] == pytest.approx(1 / np.sqrt(1.01), abs=1e-6)


def test_collections_are_listed_described_and_dropped(points: FlaskClient) -> None:
    described = points.get("/collections/points").json
    assert described["count"] == 4
    assert (described["dimension"], described["metric"]) == (4, "cosine")
    assert [c["name"] for c in points.get("/collections").json["collections"]] == ["points"]
    assert points.delete("/collections/points").status_code == 200
    assert points.get("/collections/points").status_code == 404


def test_a_damaged_collection_is_named_and_hides_no_other(points: FlaskClient) -> None:
    assert points.post("/collections", json={"name": "a-bad", "dim": 4}).status_code == 201
    with points.application.app_context():
        uuid = services().documents.store.info("a-bad").uuid
        store: Any = services().documents.store
    files = getattr(getattr(store, "_store", store), "files", None)
    if files is None:
        pytest.skip("PostgreSQL looks after its own files")
    files._open.pop(uuid).close()  # as if it had not been used yet
    (files.path(uuid) / "records.db").write_bytes(b"?" * 9000)
    listed = points.get("/collections").json
    assert [each["name"] for each in listed["collections"]] == ["points"]
    assert (listed["damaged"], listed["next_cursor"]) == (["a-bad"], None)
    assert points.get("/collections/a-bad").status_code == 503


def test_a_collection_is_made_once(client: FlaskClient) -> None:
    body = {"name": "c", "dim": 4}
    assert client.post("/collections", json=body).status_code == 201
    assert client.post("/collections", json=body).status_code == 409
    assert client.post("/collections", json={**body, "if_exists": "ok"}).status_code == 200
    other = {"name": "c", "dim": 5, "if_exists": "ok"}
    assert client.post("/collections", json=other).status_code == 409


def test_fields_are_declared_at_creation_and_filter_as_others_do(client: FlaskClient) -> None:
    body = {"name": "c", "dim": 4, "indexed": ["n", "author.name"]}
    made = client.post("/collections", json=body)
    assert (made.status_code, made.json["indexed"]) == (201, ["n", "author.name"])
    client.post("/collections", json={"name": "plain", "dim": 4})
    rows = [{"id": f"{i}", "vector": unit(1, i), "metadata": {"n": i, "author": {"name": "ada"}}}
            for i in range(5)]  # fmt: skip
    for name in ("c", "plain"):
        assert client.post(f"/collections/{name}/vectors", json={"vectors": rows}).status_code < 300
    asked = {"vector": unit(1), "filter": {"n": {"$gte": 2}, "author.name": "ada"}}
    found = [client.post(f"/collections/{name}/search", json=asked) for name in ("c", "plain")]
    assert ids(found[0]) == ids(found[1]) == ["2", "3", "4"]
    listed = client.get("/collections").json["collections"]
    assert [c["indexed"] for c in listed] == [["n", "author.name"], []]
    assert client.get("/collections/c").json["indexed"] == ["n", "author.name"]
    same = client.post("/collections", json={**body, "if_exists": "ok"})
    other = client.post("/collections", json={**body, "indexed": ["n"], "if_exists": "ok"})
    assert (same.status_code, other.status_code) == (200, 409)


def test_a_vector_comes_back_bit_for_bit(points: FlaskClient) -> None:
    vector = np.float32([0.1, -1e-7, 3e8, 1 / 3])
    sent = base64.b64encode(vector.tobytes()).decode()
    points.post("/collections/points/vectors", json={"id": "b/64 ü", "vector": sent})
    got = points.get("/collections/points/vectors/b/64%20%C3%BC").json
    np.testing.assert_array_equal(np.float32(got["vector"]), vector)


def test_columns_are_the_rows_they_stand_for(points: FlaskClient) -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    texts, metadata = ["one", None, "three"], [{"n": 1}, None, {}]
    columns = {"ids": ["a", "b", "c"], "documents": texts, "metadatas": metadata}
    ways = ({"matrix": base64.b64encode(vectors.tobytes()).decode()},
            {"embeddings": vectors.tolist()},
            {"embeddings": [base64.b64encode(v.tobytes()).decode() for v in vectors]})  # fmt: skip
    for i, way in enumerate(ways):
        reply = points.post("/collections/points/vectors", json=columns | way)
        assert reply.status_code == 201, reply.text
        assert reply.json["ids"] == ["a", "b", "c"]
        assert (reply.json["inserted"], reply.json["updated"]) == ((0, 3) if i else (3, 0))
        asked = {"ids": ["a", "b", "c"]}
        got = points.post("/collections/points/vectors/get", json=asked).json["vectors"]
        np.testing.assert_array_equal(np.float32([r["vector"] for r in got]), vectors)
        assert [r.get("text") for r in got] == texts
        assert [r["metadata"] for r in got] == [{"n": 1}, {}, {}]


def test_a_column_of_documents_is_embedded(client: FlaskClient) -> None:
    client.post("/collections", json={"name": "c", "model": "small"})
    columns = {"ids": ["a", "b"], "documents": ["first text", "another"]}
    assert client.post("/collections/c/vectors", json=columns).status_code == 201
    found = client.post("/collections/c/search", json={"text": "first text", "k": 1})
    assert ids(found) == ["a"]


@pytest.mark.parametrize("name", ["k", "top_k", "limit"])
@pytest.mark.parametrize("where", ["filter", "where"])
def test_the_names_of_other_stores_work(points: FlaskClient, name: str, where: str) -> None:
    body = {"vector": unit(1, 1), name: 1, where: {"tag": "a"}}
    assert len(ids(points.post("/collections/points/search", json=body))) == 1


def test_many_queries_at_once(points: FlaskClient) -> None:
    body = {"vectors": [unit(1), unit(0, 0, 1)], "k": 1}
    results = points.post("/collections/points/search", json=body).json["results"]
    assert [[hit["id"] for hit in hits] for hits in results] == [["x"], ["z"]]


def test_more_like_this_leaves_itself_out(points: FlaskClient) -> None:
    search = "/collections/points/search"
    assert ids(points.post(search, json={"id": "xy", "k": 2})) == ["x", "y"]
    assert ids(points.post(search, json={"id": "xy", "k": 1, "offset": 1})) == ["y"]
    assert points.post(search, json={"id": "none"}).status_code == 404


@pytest.mark.parametrize(
    ("window", "status"),
    [
        ({"k": 1000}, 200),
        ({"k": 1000, "offset": 9000}, 200),
        ({"k": 10, "offset": 9990}, 200),
        ({"k": 1001}, 422),
        ({"k": 10, "offset": 9991}, 422),
    ],
)
def test_more_like_this_goes_as_far_as_other_searches(
    points: FlaskClient, window: dict[str, int], status: int
) -> None:
    replies = [
        points.post("/collections/points/search", json={**like, **window})
        for like in ({"id": "xy"}, {"vector": unit(1)})
    ]
    assert [reply.status_code for reply in replies] == [status] * 2
    if status != 200:
        assert replies[0].json["error"] == replies[1].json["error"]


def test_scores_offsets_and_parts(points: FlaskClient) -> None:
    search = "/collections/points/search"
    assert ids(points.post(search, json={"vector": unit(1, 1), "min_score": 0.9})) == ["xy"]
    assert ids(points.post(search, json={"vector": unit(1, 1), "offset": 3})) == ["z"]
    body = {"vector": unit(1, 1), "k": 1, "include": ["vector"]}
    hit = points.post(search, json=body).json["results"][0]
    assert set(hit) == {"id", "score", "vector"}
    assert hit["vector"] == unit(3, 3)


def test_records_are_got_counted_scrolled_and_deleted(points: FlaskClient) -> None:
    base = "/collections/points/vectors"
    got = points.post(f"{base}/get", json={"ids": ["z", "none", "x"]}).json["vectors"]
    assert [row["id"] for row in got] == ["z", "x"]
    assert points.post(f"{base}/count", json={"filter": {"n": {"$gte": 2}}}).json["count"] == 3
    seen, cursor = [], None
    while True:
        page = points.post(f"{base}/scroll", json={"cursor": cursor, "limit": 3}).json
        seen += [row["id"] for row in page["vectors"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == ["x", "xy", "y", "z"]
    assert points.post(f"{base}/delete", json={"ids": ["x", "none"]}).json == {"deleted": 1}
    assert points.post(f"{base}/delete", json={"filter": {"tag": "a"}}).json == {"deleted": 1}
    assert points.delete(f"{base}/z").status_code == 200
    assert points.delete(f"{base}/z").status_code == 404
    assert points.get("/collections/points").json["count"] == 1


def test_write_modes(points: FlaskClient) -> None:
    base = "/collections/points/vectors"
    body = {"id": "x", "vector": unit(0, 0, 0, 1)}
    assert points.post(base, json={**body, "mode": "insert"}).status_code == 409
    assert points.post(base, json={**body, "mode": "update"}).json["updated"] == 1
    missing = points.post(base, json={**body, "id": "new", "mode": "update"})
    assert missing.status_code == 404


def test_an_alias_is_the_collection(points: FlaskClient) -> None:
    assert points.post("/collections/points/aliases", json={"alias": "now"}).status_code == 201
    assert ids(points.post("/collections/now/search", json={"vector": unit(1), "k": 1})) == ["x"]
    assert points.get("/collections/points").json["aliases"] == ["now"]
    assert points.delete("/collections/points/aliases/now").status_code == 200
    assert points.delete("/collections/points/aliases/now").status_code == 404


@pytest.mark.fault("The store")
@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"id": "a", "vector": [1, 2, 3]}, 400, "3 dimensions, the collection 4"),
        ({"vectors": [{"id": "a", "vector": unit(1)}, {"id": "b", "vector": [1]}]}, 400, "item 1"),
        ({"id": "a", "vector": [0, 0, 0, 0]}, 422, "zeros"),
        ({"id": "a" * 600, "vector": unit(1)}, 422, "600"),
        ({"id": "a", "vector": unit(1), "metadata": {"m": "x" * 66_560}}, 413, "metadata"),
        ({"vectors": [{"id": "a", "vector": unit(1)}] * 2}, 422, "twice"),
        ({"vectors": [{"vector": unit(1)}] * 1001}, 413, "vectors: over 1000 items"),
        ({"id": "a", "vector": ["x"]}, 422, "vector"),
        ({"id": "a", "vector": "!!"}, 422, "base64"),
        ({"id": "a", "vector": "AAAA"}, 422, "base64"),
        ({"id": "a"}, 422, "give one item"),
        ({"id": "a", "vector": unit(1), "mode": "replace"}, 422, "mode"),
        ({"id": 5, "vector": unit(1)}, 422, "id"),
    ],
)
def test_a_bad_item_is_named_and_nothing_is_stored(
    points: FlaskClient, body: dict, status: int, said: str
) -> None:
    """A vector of the wrong length, an id twice, huge metadata -> 400, 413 or 422 that names the
    item; nothing is stored.
    """
    reply = points.post("/collections/points/vectors", json=body)
    assert reply.status_code == status, reply.text
    assert said in reply.json["error"]
    assert points.get("/collections/points").json["count"] == 4


@pytest.mark.fault("Malformed requests")
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "1e39"])
def test_numbers_that_are_none_are_refused(points: FlaskClient, number: str) -> None:
    """NaN, Infinity, 1e400 in a vector -> 400 or 422."""
    raw = f'{{"id": "a", "vector": [1, 2, 3, {number}]}}'
    reply = points.post("/collections/points/vectors", data=raw,
                        content_type="application/json")  # fmt: skip
    assert reply.status_code == 422
    query = points.post("/collections/points/search", data=raw.replace('"id": "a", ', ""),
                        content_type="application/json")  # fmt: skip
    assert query.status_code == 422


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"vector": unit(1), "k": 0}, 422),
        ({"vector": unit(1), "k": 10**9}, 422),
        ({"vector": unit(1), "offset": -1}, 422),
        ({"vector": unit(1), "filter": {"n": {"$near": 1}}}, 400),
        ({"vector": unit(1), "filter": {"$xor": []}}, 400),
        ({"vector": [1, 2]}, 400),
        ({"vectors": [unit(1)] * 101}, 413),
        ({"vector": unit(1), "text": "x"}, 422),
        ({}, 422),
        ({"vector": unit(1), "include": ["all"]}, 422),
    ],
)
def test_a_bad_search_is_refused(points: FlaskClient, body: dict, status: int) -> None:
    reply = points.post("/collections/points/search", json=body)
    assert reply.status_code == status, reply.text
    assert len(reply.json["error"]) > 10


@pytest.mark.fault("The store")
@pytest.mark.parametrize("name", ["../x", "", "a/b", "-a", "x" * 256, "a b", "ü", "a\x00"])
def test_a_name_that_is_none_is_refused(client: FlaskClient, name: str) -> None:
    """A collection's name with `../` -> 422."""
    reply = client.post("/collections", json={"name": name, "dimension": 4})
    assert reply.status_code == 422
    assert client.get("/collections").json["collections"] == []


@pytest.mark.parametrize("dim", [0, -1, 16_001, "4", 1.5, None])
def test_a_dimension_that_is_none_is_refused(client: FlaskClient, dim: object) -> None:
    reply = client.post("/collections", json={"name": "c", "dimension": dim})
    assert reply.status_code == 422


def test_an_unknown_collection_is_404_everywhere(client: FlaskClient) -> None:
    for method, path, body in [
        ("GET", "", None), ("DELETE", "", None), ("POST", "/search", {"vector": [1]}),
        ("POST", "/vectors", {"vector": [1]}), ("GET", "/vectors/a", None),
        ("POST", "/vectors/count", {}), ("POST", "/vectors/scroll", {}),
        ("POST", "/vectors/get", {"ids": ["a"]}), ("POST", "/vectors/delete", {"ids": ["a"]}),
        ("POST", "/aliases", {"alias": "b"}), ("POST", "/reembed", {"model": "small"}),
    ]:  # fmt: skip
        reply = client.open(f"/collections/none{path}", method=method, json=body)
        assert reply.status_code == 404, (path, reply.text)
        assert "none" in reply.json["error"]


# -- texts -----------------------------------------------------------------------------------------


@pytest.fixture
def notes(client: FlaskClient) -> FlaskClient:
    """A collection `notes` of three texts, made by storing them."""
    body = {
        "collection": "notes",
        "texts": ["one", "two", "three"],
        "ids": ["1", "2", "3"],
        "metadata": [{"n": 1}, {"n": 2}, {"n": 3}],
    }
    reply = client.post("/embed-and-store", json=body)
    assert reply.status_code == 201, reply.text
    assert reply.json["created"] is True
    assert (reply.json["inserted"], reply.json["dimension"]) == (3, 8)
    return client


def test_a_stored_text_is_found_by_its_text(notes: FlaskClient) -> None:
    # the fake model puts "query: " before questions and nothing before documents
    body = {"text": "two", "prompt": "", "k": 1}
    hit = notes.post("/collections/notes/search", json=body).json["results"][0]
    assert (hit["id"], hit["text"], hit["metadata"]) == ("2", "two", {"n": 2})
    assert hit["score"] == pytest.approx(1, abs=1e-6)


def test_questions_and_documents_get_their_own_prompts(notes: FlaskClient) -> None:
    asked = notes.post("/collections/notes/search", json={"text": "two", "k": 3}).json
    named = {"text": "two", "k": 3, "input_type": "search_query"}
    written = {"text": "query: two", "k": 3, "prompt": ""}
    for body in (named, written):
        assert notes.post("/collections/notes/search", json=body).json == asked


def test_many_texts_are_asked_at_once(notes: FlaskClient) -> None:
    body = {"texts": ["three", "one"], "prompt": "", "k": 1}
    results = notes.post("/collections/notes/search", json=body).json["results"]
    assert [hits[0]["id"] for hits in results] == ["3", "1"]


def test_texts_may_be_added_as_vectors_are(notes: FlaskClient) -> None:
    reply = notes.post("/collections/notes/vectors", json={"id": "4", "text": "four"})
    assert reply.status_code == 201
    assert reply.headers["X-Embedding-Fingerprint"]
    body = {"text": "four", "prompt": "", "k": 1}
    assert ids(notes.post("/collections/notes/search", json=body)) == ["4"]


def test_a_single_text_gets_an_id_if_it_has_none(notes: FlaskClient) -> None:
    reply = notes.post("/embed-and-store", json={"collection": "notes", "text": "five"})
    assert len(reply.json["ids"]) == 1
    assert reply.json["created"] is False
    assert notes.get(f"/collections/notes/vectors/{reply.json['ids'][0]}").json["text"] == "five"


def test_another_models_vectors_are_refused_with_what_to_do(notes: FlaskClient) -> None:
    for path, body in [
        ("/embed-and-store", {"collection": "notes", "text": "x", "model": "other"}),
        ("/embed-and-store", {"collection": "notes", "text": "x", "dimensions": 4}),
    ]:
        reply = notes.post(path, json=body)
        assert reply.status_code == 409, reply.text
        assert "reembed" in reply.json["error"]
    assert notes.get("/collections/notes").json["count"] == 3


def test_a_collection_may_be_made_for_a_model(client: FlaskClient) -> None:
    reply = client.post("/collections", json={"name": "w", "model": "wide"})
    assert (reply.status_code, reply.json["dimension"]) == (201, 12)
    assert reply.json["model"] == "tests/wide"
    wrong = client.post("/collections", json={"name": "v", "model": "wide", "dimension": 3})
    assert wrong.status_code == 422
    stored = client.post("/embed-and-store", json={"collection": "w", "text": "x"})
    assert stored.json["model"] == "tests/wide"


def test_a_collection_is_not_made_when_it_must_be_there(client: FlaskClient) -> None:
    body = {"collection": "typo", "text": "x", "create": False}
    assert client.post("/embed-and-store", json=body).status_code == 404
    assert client.get("/collections").json["collections"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"collection": "c", "texts": ["a", "b"], "ids": ["1"]},
        {"collection": "c", "texts": ["a"], "metadata": [{}, {}]},
        {"collection": "c"},
        {"collection": "c", "text": "a", "texts": ["b"]},
        {"collection": "../c", "text": "a"},
        {"text": "a"},
    ],
)
def test_texts_that_do_not_fit_together_are_refused(client: FlaskClient, body: dict) -> None:
    assert client.post("/embed-and-store", json=body).status_code == 422
    assert client.get("/collections").json["collections"] == []


# -- re-embedding ----------------------------------------------------------------------------------


def finished(client: FlaskClient, job: str) -> dict:
    end = time.monotonic() + 90
    while (state := client.get(f"/jobs/{job}").json)["state"] == "running":
        assert time.monotonic() < end, state
        time.sleep(0.02)
    return state


def test_a_collection_gets_another_models_vectors_while_it_is_searched(
    notes: FlaskClient, app
) -> None:
    texts = [f"text {i}" for i in range(600)]
    for start in range(0, 600, 300):
        body = {"collection": "notes", "texts": texts[start : start + 300],
                "ids": [f"t{i:03}" for i in range(start, start + 300)]}  # fmt: skip
        assert notes.post("/embed-and-store", json=body).status_code == 201
    problems: list[str] = []
    stop = threading.Event()

    def searching() -> None:
        with app.test_client() as mine:
            while not stop.is_set():
                body = {"text": "text 7", "prompt": "", "k": 1}
                reply = mine.post("/collections/notes/search", json=body)
                if reply.status_code != 200 or reply.json["results"][0]["id"] != "t007":
                    problems.append(reply.text)
                stop.wait(0.01)  # or they take the CPU from the job

    threads = [threading.Thread(target=searching) for _ in range(3)]
    for thread in threads:
        thread.start()
    job = notes.post("/collections/notes/reembed", json={"model": "wide"})
    assert job.status_code == 202, job.text
    state = finished(notes, job.json["id"])
    stop.set()
    for thread in threads:
        thread.join()
    assert (state["state"], state["done"], state["total"]) == ("done", 603, 603)
    assert problems == []
    described = notes.get("/collections/notes").json
    assert (described["dimension"], described["model"]) == (12, "tests/wide")
    assert described["count"] == 603
    assert notes.get("/collections/notes/vectors/2").json["metadata"] == {"n": 2}
    assert [c["name"] for c in notes.get("/collections").json["collections"]] == ["notes"]
    assert (
        notes.post("/embed-and-store", json={"collection": "notes", "text": "x"}).status_code == 201
    )


def test_vectors_without_texts_cannot_be_re_embedded(points: FlaskClient) -> None:
    job = points.post("/collections/points/reembed", json={"model": "small"}).json
    state = finished(points, job["id"])
    assert state["state"] == "failed"
    assert "have no text" in state["error"]
    assert points.get("/collections/points").json["dimension"] == 4
    more = {"id": "n", "vector": unit(1)}
    assert points.post("/collections/points/vectors", json=more).status_code == 201


def test_the_same_model_and_an_unknown_one_are_refused(notes: FlaskClient) -> None:
    again = notes.post("/collections/notes/reembed", json={"model": "small"})
    assert again.status_code == 422
    assert notes.post("/collections/notes/reembed", json={"model": "none"}).status_code == 400
    assert notes.get("/jobs/none").status_code == 404
    assert notes.get("/jobs").json["jobs"] == []
