"""The settings that an admin may read and change while the service runs."""

import json
from functools import partial
from typing import cast

from flask import g

from context import services
from errors import TooLarge
from routes.table import Route
from schemas import settings as schema
from schemas.base import reply
from settings.keys import KEYS

ERRORS = (400, 404, 409, 413, 415, 422, 503)
Admin = partial(Route, tag="settings", access="admin")


@Admin("GET", "/settings")
def list_settings() -> schema.SettingsReply:
    """List every setting with its value, its source and its valid values."""
    settings = services().settings
    return {
        "settings": {key: _describe(key) for key in KEYS},
        "version": settings.state.version,
        "persistent": settings.persistent,
        "degraded": settings.degraded,
    }


@Admin("GET", "/settings/<key>", errors=(404,))
def get_setting(key: str) -> schema.SettingReply:
    """Describe one setting."""
    return _describe(key)


@Admin("POST", "/settings", errors=ERRORS)
def set_setting(body: schema.SettingBody) -> schema.SettingReply:
    """Change one setting; a model is swapped without losing a request."""
    services().settings.change({body.key: body.value}, _who())
    return _describe(body.key)


@Admin("POST", "/settings/bulk", errors=ERRORS)
def set_settings(body: schema.BulkBody) -> schema.SettingsReply:
    """Change several settings: all of them, or none."""
    services().settings.change(body.settings, _who(), "bulk")
    return list_settings()


@Admin("DELETE", "/settings/<key>", errors=ERRORS)
def revert_setting(key: str) -> schema.SettingReply:
    """Reset a setting to the environment's value, or to its default."""
    services().settings.revert(key, _who())
    return _describe(key)


@Admin("GET", "/settings/history", errors=(413, 422, 503))
def history(query: schema.HistoryQuery) -> schema.HistoryReply:
    """List the changes with their time and author, the newest first."""
    changes, most = services().settings.history(query.limit), services().config.max_reply_bytes
    texts = (text for change in changes for pair in change.changes.values() for text in pair)
    if sum(len(text or "") for text in texts) > most:
        raise TooLarge(
            f"{len(changes)} changes are over the {most} bytes of a reply: ask for fewer"
        )
    return {
        "history": [
            reply(schema.ChangeReply, change, changes={
                key: {"old": json.loads(old or "null"), "new": json.loads(new or "null")}
                for key, (old, new) in change.changes.items()
            })
            for change in changes
        ]
    }  # fmt: skip


@Admin("POST", "/settings/rollback", errors=ERRORS)
def rollback(body: schema.RollbackBody) -> schema.SettingsReply:
    """Go back to the state before the last change, or to that of an earlier version."""
    services().settings.rollback(body.version, _who())
    return list_settings()


def _describe(key: str) -> schema.SettingReply:
    row = cast(schema.SettingReply, services().settings.describe(key))
    if key == "model_name" and row["value"] is None:  # the model files chose it
        row["value"] = services().engine.registry.default.spec.model_name
    return row


def _who() -> str:
    """Return the caller's name for the history; without accounts there is only one admin."""
    return str(g.get("who") or "admin")
