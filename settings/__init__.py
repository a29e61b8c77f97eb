"""Settings that change at run time: which there are, their values, and who changed them.

`Settings.current` is one frozen `Config` that is replaced as a whole: handlers read it without a
lock. Precedence: a stored value, the environment, `.env`, the default. A change is prepared,
stored, then committed, so what cannot be applied or stored changes nothing.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from config import Config
from errors import Conflict, Invalid, NotFound, ServiceError, Unavailable
from settings.keys import KEYS, Key, check_folder, parse
from settings.retry import ModelRetry, with_model_of
from settings.storage import Change, Storage
from sql.database import Database

log = logging.getLogger("settings")

# A change reaches every worker within a second: half for the next look, half to apply it.
POLL_S = 0.5
RETRY_MOST_S = 5.0


@dataclass(frozen=True)
class State:
    """The settings at one time. `stored` are the legal stored values, as JSON text."""

    version: int
    stored: Mapping[str, str]
    config: Config


class Prepared:
    """Running parts (here none) that are ready for a new state: `commit` or `abort` ends it."""

    def commit(self) -> None:
        """Switch the running parts to the new state."""

    def abort(self) -> None:
        """Leave the running parts as they are."""


Prepare = Callable[[State, State], Prepared]  # from the old state to the new


class Settings:
    """The settings of this process. Uses the stored ones from the start, if they can be read.

    `state` are the settings as they are now, and which of them are stored. `degraded` is why this
    process does not use the stored ones, or None if it does.
    """

    def __init__(self, config: Config, storage: Storage | None = None) -> None:
        self._start = config
        self._storage = storage or Storage()
        self._prepare: Prepare = lambda old, new: Prepared()
        self._changing = threading.Lock()
        self._stop = threading.Event()
        self.degraded: str | None = None
        self._retry = ModelRetry()
        self.state = State(0, {}, config)
        self._running = config  # settings that need a restart keep these values until then
        try:
            self.state = self._read(restart_too=True)
        except ServiceError as exc:
            self.degraded = f"{exc.message}; the settings of the environment are used"
            log.warning("settings: %s", self.degraded)
        self._running = self.state.config

    @property
    def current(self) -> Config:
        """The settings as they are now."""
        return self.state.config

    @property
    def persistent(self) -> bool:
        """Whether changes outlive the process."""
        return self._storage.persistent

    def bind(self, prepare: Prepare) -> None:
        """Set the function that prepares the running parts for a change."""
        self._prepare = prepare

    # -- changing -------------------------------------------------------------------------------

    def change(self, values: Mapping[str, Any], who: str, action: str = "set") -> State:
        """Set all of these or none. Raises Invalid, NotFound, Conflict or Unavailable."""
        for key in values:
            _known(key)
        parsed = {key: json.dumps(parse(key, value)[1]) for key, value in values.items()}
        return self._change(lambda state: {**state.stored, **parsed}, who, action)

    def revert(self, key: str, who: str) -> State:
        """Delete a stored value. Raises NotFound, Conflict, Invalid or Unavailable."""
        _known(key)

        return self._change(
            lambda state: {k: v for k, v in state.stored.items() if k != key}, who, "revert"
        )

    def rollback(self, version: int | None, who: str) -> State:
        """Go back to the state as of `version`; None is the state before the last change."""

        def earlier(state: State) -> dict[str, str]:
            target = state.version - 1 if version is None else version
            if not 0 <= target < max(state.version, 1):
                raise Invalid(f"version must be 0 to {state.version - 1}, an earlier version")
            before: dict[str, str | None] = dict(state.stored)
            for entry in self._storage.history(state.version - target, target):
                before |= {key: old for key, (old, _) in entry.changes.items()}
            return {key: old for key, old in before.items() if old is not None}

        return self._change(earlier, who, "rollback")

    def history(self, limit: int) -> list[Change]:
        """Return the newest changes first. Raises Unavailable."""
        return self._storage.history(limit)

    def _change(self, make: Callable[[State], dict[str, str]], who: str, action: str) -> State:
        if not self.persistent and self._start.workers > 1:
            raise Conflict(
                f"there are {self._start.workers} workers and settings are not stored in SQL, "
                "so only one worker would change: set EMBEDDING_USE_DB_SETTINGS=true and restart"
            )
        if not self._changing.acquire(blocking=False):
            raise Conflict("the settings are already being changed; send this again afterwards")
        try:
            old = self._read()
            stored = make(old)
            changes = {
                key: (old.stored.get(key), stored.get(key))
                for key in sorted(old.stored.keys() | stored.keys())
                if old.stored.get(key) != stored.get(key)
            }
            if not changes:
                return old
            wanted = State(old.version + 1, stored, self._config_of(stored))
            if name := json.loads(changes.get("model_name", (None, None))[1] or "null"):
                check_folder(name, self._start)
            taken, prepared = self._prepared(wanted)
            try:
                self._storage.write(old.version, changes, who, action)
            except BaseException:
                prepared.abort()
                raise
            self._commit(prepared, taken, wanted)
        finally:
            self._changing.release()
        log.info("settings version %d by %s: %s %s", taken.version, who, action, ", ".join(changes))
        return taken

    def _prepared(self, wanted: State, *, following: bool = False) -> tuple[State, Prepared]:
        """Prepare the running parts for `wanted`; return the state that they are ready for.

        That is `wanted`, but with the running model if the wanted one does not load and another
        worker has stored it.
        """
        stored = with_model_of(self.state.stored, wanted.stored)
        others = State(wanted.version, stored, self._config_of(stored))
        failed_before = self._retry.concerns(wanted.stored)
        if failed_before and not self._retry.due:
            return others, self._prepare(self.state, others)
        try:
            return wanted, self._prepare(self.state, wanted)
        except Exception as exc:
            if others == wanted or not (following or failed_before):
                raise
            if not isinstance(exc, ServiceError):
                log.exception("the model cannot be changed")
            self._retry.failed(wanted.stored, exc)
        return others, self._prepare(self.state, others)

    def _commit(self, prepared: Prepared, taken: State, wanted: State) -> None:
        self.state = taken
        prepared.commit()
        if taken == wanted:
            self._retry.clear()

    # -- following ------------------------------------------------------------------------------

    def follow(self) -> None:
        """Apply what other workers change, in a thread: no request waits for the database."""
        if self.persistent:
            threading.Thread(target=self._follow, name="settings", daemon=True).start()

    def stop(self) -> None:
        """End the thread and close the connections."""
        self._stop.set()
        self._storage.close()

    def _follow(self) -> None:
        pause = POLL_S
        while not self._stop.wait(pause):
            lost = self._catch_up()
            pause = POLL_S if lost is None else min(pause * 2, RETRY_MOST_S)
            reason = lost or self._retry.reason
            if reason != self.degraded:
                log.warning("settings: %s", reason or "the stored settings are used again")
            self.degraded = reason

    def _catch_up(self) -> str | None:
        """Apply the stored settings if they are newer; return the reason if that fails."""
        try:
            if self._storage.version() == self.state.version and not self._retry.due:
                return None
            with self._changing:
                wanted = self._read()
                taken, prepared = self._prepared(wanted, following=True)
                self._commit(prepared, taken, wanted)
        except Unavailable as exc:
            return f"{exc.message}; the last known settings are used"
        except ServiceError as exc:
            return f"a change cannot be applied: {exc.message}"
        except Exception as exc:
            log.exception("a change of the settings cannot be applied")
            return f"a change cannot be applied ({type(exc).__name__})"
        return None

    # -- reading --------------------------------------------------------------------------------

    def _read(self, *, restart_too: bool = False) -> State:
        """Return the stored state; a row that is not legal is ignored, with a line in the log."""
        version, values = self._storage.read()
        stored = {key: text for key, text in sorted(values.items()) if _legal(key, text)}
        return State(version, stored, self._config_of(stored, restart_too=restart_too))

    def _config_of(self, stored: Mapping[str, str], *, restart_too: bool = False) -> Config:
        values = {}
        for key, text in stored.items():
            if restart_too or not KEYS[key].restart:
                values[KEYS[key].field] = parse(key, json.loads(text))[0]
        if not restart_too:
            fixed = [row.field for row in KEYS.values() if row.restart]
            values |= {field: getattr(self._running, field) for field in fixed}
        return self._start.model_copy(update=values)

    def describe(self, key: str) -> dict[str, Any]:
        """Return one setting: its value, its source, what it takes and does. Raises NotFound."""
        row, state = _known(key), self.state
        is_stored = key in state.stored
        running = row.shown(getattr(state.config, row.field))
        value = json.loads(state.stored[key]) if is_stored else running
        given = row.field in self._start.model_fields_set
        where = "database" if self.persistent else "memory"
        return {
            "key": key,
            "value": value,
            "type": row.type,
            "default": row.shown(row.default),
            **row.allowed,
            "source": where if is_stored else "environment" if given else "default",
            "description": row.description,
            "changes": "at restart" if row.restart else "at once",
            "restart_required": row.restart and value != running,
        }


def open_settings(config: Config) -> Settings:
    """Return the settings, stored where the configuration says."""
    url = config.db_url.get_secret_value()
    return Settings(config, Storage(Database(url) if config.use_db_settings else None))


def _known(key: str) -> Key:
    if key not in KEYS:
        raise NotFound(f"unknown setting {key[:64]!r}; known are {', '.join(KEYS)}")
    return KEYS[key]


def _legal(key: str, text: str) -> bool:
    try:
        parse(key, json.loads(text))
    except (KeyError, ValueError, Invalid) as exc:
        reason = exc.message if isinstance(exc, Invalid) else type(exc).__name__
        log.warning("the stored setting %r is ignored: %s", key[:64], reason)
        return False
    return True
