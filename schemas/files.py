"""The JSON of files whose rows are stored: how they are read, what is shown of them."""

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictStr
from typing_extensions import TypedDict

from documents.jobs import FileState, Job
from schemas.base import Query, Strict, doc, optional
from tools.layout import Encoding, Kind, Layout, Type
from tools.preview import Preview
from tools.rows import Refused

SHOWN_CHARS = 1000  # of a text of a preview
MOST_COLUMNS = 1000
Delimiter = Literal[",", ";", "\t", "|"]

KIND = "What the file is; guessed from its name and its first bytes."
TEXT = "Columns whose cells, joined by a line feed, are the text; guessed from their names."
ID = (
    "Column of the ids; empty for none. Rows without one get ids made of what they hold. Whole "
    'numbers are ids as text: 1, 1.0 and "1" are one.'
)
METADATA = "Columns that are stored as metadata; all others if it is missing."


class FileQuery(Query):
    """Query string of `POST /collections/{name}/files`."""

    filename: str = Field(
        "file", min_length=1, max_length=255, description="Its ending says what the file is."
    )
    start: bool = Field(
        True, description="`false` keeps the file until `POST /jobs/{id}/start`, for a day."
    )
    kind: Kind | None = optional(KIND)
    encoding: Encoding | None = optional("Guessed from all of the file.")
    delimiter: Delimiter | None = optional("What parts the cells of a CSV file.")
    header: bool | None = optional("Whether the first row of a CSV file names its columns.")
    text: str | None = optional(f"{TEXT} Names, with commas between them.")
    id: str | None = optional(ID)
    metadata: str | None = optional(f"{METADATA} Names, with commas between them.")

    @property
    def layout(self) -> Layout:
        """How the file is read, as far as the query says it."""
        return Layout(
            self.kind, self.encoding, self.delimiter, self.header, _names(self.text) or (),
            self.id, _names(self.metadata),
        )  # fmt: skip


def _names(given: str | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(n.strip() for n in given.split(",") if n.strip())


class LayoutBody(Strict):
    """Body of `POST /jobs/{id}/preview` and `POST /jobs/{id}/start`; what is missing is guessed."""

    kind: Kind | None = optional(KIND)
    encoding: Encoding | None = optional("Guessed from all of the file.")
    delimiter: Delimiter | None = optional("What parts the cells of a CSV file.")
    header: StrictBool | None = optional("Whether the first row of a CSV file names its columns.")
    text: list[StrictStr] = Field([], max_length=MOST_COLUMNS, description=TEXT)
    id: StrictStr | None = optional(ID)
    metadata: list[StrictStr] | None = optional(METADATA, max_length=MOST_COLUMNS)
    types: dict[StrictStr, Type] = Field(
        {},
        max_length=MOST_COLUMNS,
        description="Types of columns. Cells of CSV files are guessed; other files have types of "
        "their own, and only those that are named are changed.",
    )

    @property
    def layout(self) -> Layout:
        """How the file is read, as far as the body says it."""
        metadata = None if self.metadata is None else tuple(self.metadata)
        return Layout(
            self.kind, self.encoding, self.delimiter, self.header, tuple(self.text), self.id,
            metadata, self.types,
        )  # fmt: skip


class LayoutReply(TypedDict):
    """How a file is read."""

    kind: Kind
    encoding: Encoding | None
    delimiter: Delimiter | None
    header: bool | None
    text: list[str]
    id: Annotated[str, doc("Empty if no column has ids.")]
    metadata: Annotated[list[str] | None, doc("null: all columns but those of text and id.")]
    types: dict[str, Type]


class ColumnReply(TypedDict):
    """One column of a file."""

    name: Annotated[str, doc("As it is stored: dots, and a $ at its start, are taken out.")]
    type: Type
    filled: Annotated[int, doc("Rows, of those looked at, that have a value in it.")]
    example: str


class PreviewRowReply(TypedDict):
    """One row as it will be stored."""

    line: int
    id: Annotated[str | None, doc("null if it will be made of what the row holds.")]
    text: Annotated[str, doc(f"Its first {SHOWN_CHARS} characters.")]
    metadata: dict[str, Any]


class ProblemReply(TypedDict):
    """A row that cannot be stored."""

    line: int
    reason: str


class PreviewReply(TypedDict):
    """What would be stored of a file."""

    layout: LayoutReply
    columns: list[ColumnReply]
    rows: Annotated[list[PreviewRowReply], doc("The first 20.")]
    problems: Annotated[list[ProblemReply], doc("The first 20.")]
    read: Annotated[int, doc("Rows that were looked at.")]
    rejected: Annotated[int, doc("Of these, rows that cannot be stored.")]
    blank: int
    total: Annotated[int, doc("Rows of the file; an estimate unless it is `complete`.")]
    complete: bool
    sure: Annotated[bool, doc("Whether the text's column is known by its name, or was given.")]
    warnings: Annotated[list[str], doc("What was guessed and may be wrong: look at the rows.")]


class FileReply(TypedDict):
    """What a job of a file knows of it."""

    name: str
    bytes: int
    layout: Annotated[LayoutReply | None, doc("null before the job is started.")]
    exact: Annotated[bool, doc("Whether the job's `total` is counted, and no estimate.")]
    stored: int
    rejected: Annotated[int, doc("Rows that could not be stored: `GET /jobs/{id}/rejects`.")]
    blank: int
    repeated: Annotated[int, doc("Rows whose id came before in the file; the later one stays.")]
    truncated: Annotated[int, doc("Texts that were longer than the model takes, and cut.")]
    rate: Annotated[float, doc("Rows a second, lately.")]
    left_s: Annotated[float | None, doc("Seconds until it is done, at this rate.")]


class RejectsQuery(Query):
    """Query string of `GET /jobs/{id}/rejects`."""

    offset: int = Field(0, ge=0, description="The `next_offset` of the part before.")


class RejectReply(TypedDict):
    """A row that was not stored."""

    line: int
    reason: str
    row: Any


class RejectsReply(TypedDict):
    """Rows of a file that were not stored, in order."""

    rejects: list[RejectReply]
    next_offset: Annotated[int | None, doc("Where the next part begins; null on the last.")]


def preview_reply(shown: Preview) -> PreviewReply:
    """Return a preview."""
    layout = shown.layout
    return {
        "layout": layout_reply(vars(layout)),
        "columns": [
            {"name": c.name, "type": c.type, "filled": c.filled, "example": c.example}
            for c in shown.columns
        ],
        "rows": [
            {"line": r.line, "id": r.id, "text": r.text[:SHOWN_CHARS], "metadata": r.metadata}
            for r in shown.rows
        ],
        "problems": [_problem(out) for out in shown.problems],
        "read": shown.read,
        "rejected": shown.refused,
        "blank": shown.blank,
        "total": shown.total,
        "complete": shown.complete,
        "sure": shown.sure,
        "warnings": shown.warnings,
    }


def _problem(out: Refused) -> ProblemReply:
    return {"line": out.line, "reason": out.reason}


def layout_reply(fields: Any) -> LayoutReply:
    """Return a layout in which nothing is left to guess, given as its fields."""
    metadata = fields["metadata"]
    return {
        "kind": fields["kind"],
        "encoding": fields["encoding"],
        "delimiter": fields["delimiter"],
        "header": fields["header"],
        "text": list(fields["text"]),
        "id": fields["id"] or "",
        "metadata": None if metadata is None else list(metadata),
        "types": dict(fields["types"]),
    }


def file_reply(job: Job) -> FileReply | None:
    """Return what a job knows of its file; None for other jobs."""
    state: FileState | None = job.file
    if state is None:
        return None
    left = job.total - job.done
    runs = job.state == "running" and state.rate > 0
    return {
        "name": state.name,
        "bytes": state.bytes,
        "layout": layout_reply(state.layout) if state.layout else None,
        "exact": state.exact,
        "stored": state.stored,
        "rejected": state.rejected,
        "blank": state.blank,
        "repeated": state.repeated,
        "truncated": state.truncated,
        "rate": round(state.rate, 1),
        "left_s": round(left / state.rate, 1) if runs else None,
    }
