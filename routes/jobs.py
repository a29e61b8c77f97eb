"""Re-embedding a collection, and the other routes of background jobs."""

from auth import caller, sees_all, shown, visible
from context import services
from documents.jobs import Job, no_job
from rate_limits import allowance, key_of_caller, throttle
from routes.collections import Read, Write, known
from routes.errors import PATH
from routes.table import Reply
from schemas.base import reply
from schemas.collections import DeletedReply, JobReply, JobsReply, ReembedBody
from schemas.files import file_reply


@Write("POST", "/collections/<name>/reembed", scope=("name",),
       errors=(404, 409, 413, 422, 429, 503, 504, 507), success=(202,))  # fmt: skip
def reembed(name: str, body: ReembedBody) -> Reply[JobReply]:
    """Replace a collection's vectors by another model's, in the background.

    Its texts count against the caller's texts a minute; it waits while they are used up.
    """
    job = services().reembedder.start(
        name, body.model, key_of_caller(), allowance("texts"), throttle().count_texts
    )
    return Reply(described(job), 202, {"Location": f"/jobs/{job.id}"})


@Read("GET", "/jobs", errors=(503,))
def jobs() -> JobsReply:
    """List background jobs, the newest first; jobs of files are those of the caller."""
    return {"jobs": [described(job) for job in services().reembedder.jobs.all() if _visible(job)]}


@Read("GET", "/jobs/<id_>", errors=(404, 503))
def job(id_: str) -> JobReply:
    """Describe a background job and its progress."""
    services().loader.get(id_)
    return described(required(services().reembedder.get(id_)))


@Write("DELETE", "/jobs/<id_>", errors=(404, 503))
def stop_job(id_: str) -> DeletedReply:
    """Stop a running job, or forget one that has ended.

    A re-embedding then has changed nothing; what a file's job has stored stays.
    """
    services().loader.forget(required(services().reembedder.jobs.load(id_)))
    return {"deleted": id_}


def required(job: Job) -> Job:
    """Return the job. Raises NotFound, as if there were none, where the caller may not see it."""
    if not _visible(job):
        raise no_job(job.id)
    return job


def _visible(job: Job) -> bool:
    """Return whether the caller may see a job; one of a file shows rows that only its giver has."""
    in_scope = visible(job.collection) or (job.asked is not None and visible(job.asked))
    if job.kind != "file" or not services().accounts.enabled:
        return in_scope
    return in_scope and (job.by == key_of_caller() or (sees_all() and not caller().limited))


def described(job: Job) -> JobReply:
    """Return a job under the collection's name that the caller may know."""
    name = known(job.collection, job.asked or job.collection)
    error = services().loader.waits_for(job)
    error = error and error.replace(repr(job.collection), repr(name))
    if error and not sees_all():
        error = PATH.sub("(a path)", error)
    model = None if job.model is None else shown(job.model)
    return reply(JobReply, job, collection=name, model=model, error=error, file=file_reply(job))
