"""The JSON of the settings: what changes them, their values and their history."""

from typing import Annotated, Any

from pydantic import Field, StrictInt, StrictStr
from typing_extensions import TypedDict

from schemas.base import Query, Strict, doc, optional


class SettingBody(Strict):
    """Body of `POST /settings`."""

    key: StrictStr = doc("The setting's name.")
    value: Any = doc("Its new value.")


class BulkBody(Strict):
    """Body of `POST /settings/bulk`: all are set, or none."""

    settings: dict[str, Any] = Field(min_length=1, max_length=100, description="Values by key.")


class RollbackBody(Strict):
    """Body of `POST /settings/rollback`."""

    version: StrictInt | None = optional(
        "The state to go back to; by default that before the last change.", ge=0
    )


class HistoryQuery(Query):
    """Query string of `GET /settings/history`."""

    limit: int = Field(50, ge=1, le=1000, description="Most changes to list, newest first.")


class SettingReply(TypedDict):
    """One setting."""

    key: str
    value: Any
    type: Annotated[str, doc("`str`, `int`, `float`, `bool`, or `list` of strings.")]
    default: Annotated[Any, doc("If it is null, null is a value too: unset.")]
    choices: Annotated[list[str] | None, doc("The only values; of a list those of its items.")]
    examples: Annotated[list[str] | None, doc("Some values, where others are allowed too.")]
    minimum: Annotated[float | None, doc("The least value.")]
    above: Annotated[float | None, doc("The value must be more than this.")]
    maximum: Annotated[float | None, doc("The greatest value.")]
    unit: Annotated[str | None, doc("What its number counts.")]
    source: Annotated[str, doc("`database`, `memory`, `environment` or `default`.")]
    description: str
    changes: Annotated[str, doc("`at once` or `at restart`.")]
    restart_required: Annotated[bool, doc("Whether the value waits for a restart.")]


class SettingsReply(TypedDict):
    """All settings, by key."""

    settings: dict[str, SettingReply]
    version: Annotated[int, doc("The number of the last change.")]
    persistent: Annotated[bool, doc("Whether changes outlive the process.")]
    degraded: str | None


class ChangeReply(TypedDict):
    """One change of the history."""

    version: int
    at: str
    who: str
    action: str
    changes: Annotated[dict[str, dict[str, Any]], doc("By key: `old` and `new`; null is unset.")]


class HistoryReply(TypedDict):
    """Changes, newest first."""

    history: list[ChangeReply]
