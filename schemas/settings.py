"""The JSON of the settings: what changes them, and what is told of them."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from schemas.strict import Strict


class SettingBody(Strict):
    """Body of `POST /settings`."""

    key: StrictStr = Field(description="Which setting.")
    value: Any = Field(description="Its new value.")


class BulkBody(Strict):
    """Body of `POST /settings/bulk`: all are set, or none."""

    settings: dict[str, Any] = Field(min_length=1, max_length=100, description="Values by key.")


class RollbackBody(Strict):
    """Body of `POST /settings/rollback`."""

    version: StrictInt | None = Field(
        None, ge=0, description="The state to go back to; by default that before the last change."
    )


class HistoryQuery(BaseModel):
    """Query string of `GET /settings/history`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: int = Field(50, ge=1, le=1000, description="Most changes to list, newest first.")


class SettingReply(BaseModel):
    """One setting."""

    key: str
    value: Any
    type: str
    default: Any
    source: str = Field(description="`database`, `memory`, `environment` or `default`.")
    description: str
    changes: str = Field(description="`at once` or `at restart`.")
    restart_required: bool = Field(description="Whether the value waits for a restart.")


class SettingsReply(BaseModel):
    """Every setting, by key."""

    settings: dict[str, SettingReply]
    version: int = Field(description="The number of the last change.")
    persistent: bool = Field(description="Whether changes outlive the process.")
    degraded: str | None


class ChangeReply(BaseModel):
    """One change of the history."""

    version: int
    at: str
    who: str
    action: str
    changes: dict[str, dict[str, Any]] = Field(description="By key: `old` and `new`; null is unset")


class HistoryReply(BaseModel):
    """Changes, newest first."""

    history: list[ChangeReply]
