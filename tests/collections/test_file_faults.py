"""Jobs that store files: a full disk, a file that is gone, rejects, and what is not guessed."""

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from errors import Full
from tests.collections.test_file_jobs import alone, docs, loader_of
from tests.collections.test_files import ended, give, stored, until

__all__ = ["alone", "docs"]  # fixtures


@pytest.mark.fault("Files")
def test_a_full_disk_is_told_by_the_job_that_waits_for_it(
    docs: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills while a job runs, so that the job cannot be written down either -> its
    `error` says so; with space it goes on and ends.
    """
    loader = loader_of(docs)

    def full(*args: Any, **named: Any) -> Any:
        raise Full("no space left on the store's disk to write")

    with monkeypatch.context() as patch:
        patch.setattr(loader._documents, "add", full)
        patch.setattr(loader.jobs, "update", full)
        id_ = give(docs, "a.txt", "one\ntwo\n").json["id"]
        until(lambda: docs.get(f"/jobs/{id_}").json["error"])
        assert "no space left" in docs.get("/jobs").json["jobs"][0]["error"]
    job = ended(docs, id_)
    assert (job["state"], job["error"], job["file"]["stored"]) == ("done", None, 2)
    assert not loader.spool.file(id_).parent.exists()


def test_a_file_that_is_removed_while_it_is_shown_is_told(
    docs: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.csv", "a.parquet"):
        id_ = give(docs, name, "text\nx\n", start="false").json["id"]
        with monkeypatch.context() as patch:
            path = loader_of(docs)._here(loader_of(docs).jobs.load(id_))
            patch.setattr(loader_of(docs), "_here", lambda job, path=path: path)
            path.unlink()
            assert docs.post(f"/jobs/{id_}/preview", json={}).status_code == 409
        assert docs.delete(f"/jobs/{id_}").status_code == 200
        assert docs.post(f"/jobs/{id_}/preview", json={}).status_code == 404


def test_a_start_at_once_does_not_guess_what_is_unlikely(docs: FlaskClient) -> None:
    russian = "Съешь же ещё этих мягких французских булок\n".encode("cp1251")
    for name, content, param in (
        ("a.txt", russian, "encoding"),
        ("a.csv", "apple\npear\n", "text"),
    ):
        reply = give(docs, name, content)
        assert (reply.status_code, reply.json["param"]) == (422, param), reply.text
    assert give(docs, "a.txt", russian, encoding="windows-1252").status_code == 202
    assert stored(docs, "a.csv", "apple\npear\n", header="false")["file"]["stored"] == 2


def test_an_offset_inside_a_line_of_rejects_is_refused(docs: FlaskClient) -> None:
    job = stored(docs, "a.jsonl", '{"text": "x", "n": NaN}\n{"text": "y", "n": 1e400}\n')
    whole = docs.get(f"/jobs/{job['id']}/rejects").data
    second = whole.index(b"\n") + 1
    as_json = {"Accept": "application/json"}
    for offset, status in ((0, 200), (1, 422), (second, 200), (len(whole), 200), (10**12, 200)):
        reply = docs.get(f"/jobs/{job['id']}/rejects?offset={offset}", headers=as_json)
        assert reply.status_code == status, (offset, reply.text)
    reply = docs.get(f"/jobs/{job['id']}/rejects", headers=as_json).json
    assert [out["row"]["n"] for out in reply["rejects"]] == ["nan", "inf"]


def test_a_step_holds_few_large_rejects(docs: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    loader, held_at_once = loader_of(docs), []
    real = loader.spool.reject

    def reject(id_: str, rows: Any) -> int:
        rows = list(rows)
        held_at_once.append(sum(len(row["text"]) for _, _, row in rows))
        return real(id_, rows)

    monkeypatch.setattr(loader.spool, "reject", reject)
    large = json.dumps({"text": "x" * (2 << 20)}) + "\n"
    job = stored(docs, "a.jsonl", large * 9)
    assert job["file"]["rejected"] == 9 and max(held_at_once) <= 6 << 20
