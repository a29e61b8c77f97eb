"""What an admin may read and change while the service runs."""

import json
from typing import Any

from flask import g

from context import services
from errors import TooLarge
from routes.table import route
from schemas.settings import (
    BulkBody,
    HistoryQuery,
    HistoryReply,
    RollbackBody,
    SettingBody,
    SettingReply,
    SettingsReply,
)
from settings.keys import KEYS
from settings.storage import Change

ERRORS = (400, 404, 409, 413, 415, 422, 503)


@route("GET", "/settings", access="admin", reply=SettingsReply, tag="settings")
def list_settings() -> dict[str, Any]:
    """List every setting with its value, its source and what is allowed."""
    return _all()


def _all() -> dict[str, Any]:
    settings = services().settings
    return {
        "settings": {key: _describe(key) for key in KEYS},
        "version": settings.state.version,
        "persistent": settings.persistent,
        "degraded": settings.degraded,
    }


@route("GET", "/settings/<key>", access="admin", reply=SettingReply, errors=(404,),
       tag="settings")  # fmt: skip
def get_setting(key: str) -> dict[str, Any]:
    """Describe one setting."""
    return _describe(key)


@route("POST", "/settings", access="admin", body=SettingBody, reply=SettingReply, errors=ERRORS,
       tag="settings")  # fmt: skip
def set_setting(body: SettingBody) -> dict[str, Any]:
    """Change one setting; a model is swapped without losing a request."""
    services().settings.change({body.key: body.value}, _who())
    return _describe(body.key)


@route("POST", "/settings/bulk", access="admin", body=BulkBody, reply=SettingsReply, errors=ERRORS,
       tag="settings")  # fmt: skip
def set_settings(body: BulkBody) -> dict[str, Any]:
    """Change many settings: all of them, or none."""
    services().settings.change(body.settings, _who(), "bulk")
    return _all()


@route("DELETE", "/settings/<key>", access="admin", reply=SettingReply, errors=ERRORS,
       tag="settings")  # fmt: skip
def revert_setting(key: str) -> dict[str, Any]:
    """Bring a setting back to what the environment says, or to its default."""
    services().settings.revert(key, _who())
    return _describe(key)


@route("GET", "/settings/history", access="admin", query=HistoryQuery, reply=HistoryReply,
       errors=(413, 422, 503), tag="settings")  # fmt: skip
def history(query: HistoryQuery) -> dict[str, Any]:
    """List who changed what and when, newest first."""
    changes, most = services().settings.history(query.limit), services().config.max_reply_bytes
    texts = (text for change in changes for pair in change.changes.values() for text in pair)
    if sum(len(text or "") for text in texts) > most:
        raise TooLarge(
            f"{len(changes)} changes are over the {most} bytes of a reply: ask for fewer"
        )
    return {"history": [_entry(change) for change in changes]}


@route("POST", "/settings/rollback", access="admin", body=RollbackBody, reply=SettingsReply,
       errors=ERRORS, tag="settings")  # fmt: skip
def rollback(body: RollbackBody) -> dict[str, Any]:
    """Go back to the state before the last change, or to that of an earlier version."""
    services().settings.rollback(body.version, _who())
    return _all()


def _describe(key: str) -> dict[str, Any]:
    row = services().settings.describe(key)
    if key == "model_name" and row["value"] is None:  # the model files chose
        row["value"] = services().engine.registry.default.spec.model_name
    return row


def _who() -> str:
    """Name the caller for the history; without accounts there is only one admin."""
    return str(g.get("who") or "admin")


def _entry(change: Change) -> dict[str, Any]:
    changes = {
        key: {"old": _value(old), "new": _value(new)} for key, (old, new) in change.changes.items()
    }
    return {
        "version": change.version,
        "at": change.at,
        "who": change.who,
        "action": change.action,
        "changes": changes,
    }


def _value(text: str | None) -> Any:
    return None if text is None else json.loads(text)
