"""Re-embedding and the other routes of background jobs."""

from dataclasses import asdict
from typing import Any

from auth import visible
from context import services
from documents.jobs import Job, no_job
from rate_limits import allowance, key_of_caller, throttle
from routes.bounds import known
from routes.table import Reply, route
from schemas.collections import ReembedBody
from schemas.replies import DeletedReply, JobReply, JobsReply

TAG = "collections"
INTERNAL = ("target", "asked", "by", "pace", "counted")


@route("POST", "/collections/<name>/reembed", access="write", body=ReembedBody, reply=JobReply,
       errors=(404, 409, 413, 422, 429, 503, 504, 507), tag=TAG, success=(202,))  # fmt: skip
def reembed(name: str, body: ReembedBody) -> Reply:
    """Give a collection another model's vectors, in the background.

    Its texts count against the caller's texts a minute, for which it waits; it begins once they
    allow its first minute.
    """
    job = services().reembedder.start(
        name, body.model, key_of_caller(), allowance("texts"), throttle().count_texts
    )
    return Reply(_job(job), 202, {"Location": f"/jobs/{job.id}"})


@route("GET", "/jobs", access="read", reply=JobsReply, errors=(503,), tag=TAG)
def jobs() -> dict[str, Any]:
    """List background jobs, the newest first."""
    found = services().reembedder.jobs()
    return {"jobs": [_job(job) for job in found if _sees(job)]}


@route("GET", "/jobs/<id_>", access="read", reply=JobReply, errors=(404, 503), tag=TAG)
def job(id_: str) -> dict[str, Any]:
    """Tell how far a background job is."""
    found = services().reembedder.get(id_)
    if not _sees(found):  # as if there were none: that there is says something
        raise no_job(id_)
    return _job(found)


@route("DELETE", "/jobs/<id_>", access="write", reply=DeletedReply, errors=(404, 503), tag=TAG)
def stop_job(id_: str) -> dict[str, Any]:
    """Stop a job that is running, with nothing changed; forget one that has ended."""
    found = services().reembedder.load(id_)
    if not _sees(found):
        raise no_job(id_)
    services().reembedder.forget(found)
    return {"deleted": id_}


def _sees(job: Job) -> bool:
    return visible(job.collection) or (job.asked is not None and visible(job.asked))


def _job(job: Job) -> dict[str, Any]:
    """Write a job, but for what only its next run needs to know."""
    body = {key: value for key, value in asdict(job).items() if key not in INTERNAL}
    name = known(job.collection, job.asked or job.collection)
    error = job.error and job.error.replace(repr(job.collection), repr(name))
    return body | {"collection": name, "error": error}
