"""A job that is stopped stays stopped, at whatever moment that comes."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from documents.jobs import Job
from documents.reembed import Reembedder
from store.base import SUCCESSOR


def in_the_midst_of_a_step(reembedder: Reembedder, stop: Callable[[], None]) -> None:
    """Stop the job when a step's vectors are stored and not yet noted."""
    step: Callable[..., None] = reembedder._step

    def stopped(job: Job, *args: Any) -> None:
        step(job, *args)
        stop()

    reembedder._step = stopped  # type: ignore[method-assign]


def after_its_collection_is_made(reembedder: Reembedder, stop: Callable[[], None]) -> None:
    """Stop the job when the collection for its vectors is there and not yet noted."""
    store: Any = reembedder._store
    create = store.create

    def stopped(*args: Any, **named: Any) -> Any:
        made = create(*args, **named)
        stop()
        return made

    store.create = stopped


@pytest.mark.parametrize("moment", [in_the_midst_of_a_step, after_its_collection_is_made])
def test_a_job_that_is_stopped_does_not_come_back_and_leaves_nothing(
    app: Flask, client: FlaskClient, moment: Callable[..., None]
) -> None:
    texts = {"collection": "c", "model": "small", "ids": ["a", "b"], "texts": ["one", "two"]}
    assert client.post("/embed-and-store", json=texts).status_code == 201
    before = client.get("/collections/c").json
    services = app.extensions["services"]

    def stop() -> None:
        (job,) = services.reembedder.jobs.all()
        services.reembedder.jobs.forget(job)

    moment(services.reembedder, stop)
    assert client.post("/collections/c/reembed", json={"model": "other"}).status_code == 202
    for thread in threading.enumerate():
        if thread.name.startswith("reembed-"):
            thread.join(120)
    assert client.get("/jobs").json == {"jobs": []}
    assert client.get("/collections/c").json == before
    assert not [name for name in services.documents.store.names() if name.startswith(SUCCESSOR)]
    assert client.post("/embed-and-store", json=texts).status_code == 201  # nothing blocks writes
