"""What may change while the service runs: which settings, their values now, and who changes them.

`Settings.current` is a whole frozen `Config`, replaced as one reference: a handler reads it without
a lock. Precedence: a kept value, the environment, `.env`, the default. The running parts follow
through the function given to `bind` (`settings.apply.py`); where values are kept is `keepers.py`'s.
"""

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from config import Config
from errors import Conflict, Invalid, NotFound, ServiceError, Unavailable
from settings.folders import check_folder
from settings.keys import KEYS, Key, parse
from settings.retry import Refusal, with_models_of
from settings.storage import Change, Changes, Keeper, MemoryKeeper, SqlKeeper
from sql.database import Database

log = logging.getLogger("settings")

POLL_S = 0.5  # every worker follows within a second: half for the look, half for the change
RETRY_MOST_S = 5.0


@dataclass(frozen=True)
class State:
    """The settings at one time. `kept` are the legal kept values, as JSON text."""

    version: int
    kept: Mapping[str, str]
    config: Config


# Prepares the running parts for a new state; the function it gives makes them follow.
Apply = Callable[[State, State], AbstractContextManager[Callable[[], None]]]


def _nothing_follows(old: State, new: State) -> AbstractContextManager[Callable[[], None]]:
    return nullcontext(lambda: None)


class Settings:
    """The settings of this process. Reads what is kept at once, if it can be had."""

    def __init__(self, config: Config, keeper: Keeper | None = None) -> None:
        self._start = config
        self._keeper: Keeper = keeper or MemoryKeeper()
        self._apply: Apply = _nothing_follows
        self._changing = threading.Lock()
        self._stop = threading.Event()
        self._degraded: str | None = None
        self._refusal: Refusal | None = None
        self._state = State(0, {}, config)
        self._running = config  # what needs a restart keeps these values until then
        try:
            self._state = self._read(restart_too=True)
        except ServiceError as exc:
            self._degraded = f"{exc.message}; settings of the environment are used"
            log.warning("settings: %s", self._degraded)
        self._running = self._state.config

    @property
    def current(self) -> Config:
        """The settings as they are now."""
        return self._state.config

    @property
    def state(self) -> State:
        """The settings as they are now, and which of them are kept."""
        return self._state

    @property
    def degraded(self) -> str | None:
        """Why this process does not run with the settings that are kept, or None."""
        return self._degraded

    @property
    def persistent(self) -> bool:
        """Whether changes outlive the process."""
        return self._keeper.persistent

    def bind(self, apply: Apply) -> None:
        """Name what makes the running parts follow a change."""
        self._apply = apply

    # -- changing -------------------------------------------------------------------------------

    def change(self, values: Mapping[str, Any], who: str, action: str = "set") -> State:
        """Set all of these or none. Raises Invalid, NotFound, Conflict or Unavailable."""
        for key in values:
            _known(key)
        parsed = {key: json.dumps(parse(key, value)[1]) for key, value in values.items()}
        return self._change(lambda state: {**state.kept, **parsed}, who, action)

    def revert(self, key: str, who: str) -> State:
        """Forget a kept value. Raises NotFound, Conflict, Invalid or Unavailable."""
        _known(key)
        return self._change(lambda s: {k: v for k, v in s.kept.items() if k != key}, who, "revert")

    def rollback(self, version: int | None, who: str) -> State:
        """Go back to the state as of `version`; None is the state before the last change."""

        def earlier(state: State) -> dict[str, str]:
            target = state.version - 1 if version is None else version
            if not 0 <= target < max(state.version, 1):
                raise Invalid(f"version: 0 to {state.version - 1}, the versions before this one")
            kept: dict[str, str] = dict(state.kept)
            for entry in self._keeper.history(state.version - target, target):
                for key, (old, _) in entry.changes.items():
                    kept.pop(key, None)
                    if old is not None:
                        kept[key] = old
            return kept

        return self._change(earlier, who, "rollback")

    def history(self, limit: int) -> list[Change]:
        """Return the newest changes first. Raises Unavailable."""
        return list(self._keeper.history(limit))

    def _change(self, make: Callable[[State], dict[str, str]], who: str, action: str) -> State:
        self._check_workers()
        with self._one_at_a_time():
            old = self._read()
            kept = make(old)
            new = State(old.version + 1, kept, self._config_of(kept))
            if refused := self._refusal and self._refusal.concerns(kept):
                new = self._but_for_models(new)  # as they are not what is being changed
            changes = _differences(old.kept, kept)
            if not changes:
                return old
            if name := json.loads(changes.get("model_name", (None, None))[1] or "null"):
                check_folder(name, self._start)
            with self._apply(self._state, new) as follow:
                self._keeper.write(old.version, changes, who, action)
                follow()
                self._state = new
            if not refused:
                self._refusal = None
        log.info("settings version %d by %s: %s %s", new.version, who, action, ", ".join(changes))
        return new

    def _check_workers(self) -> None:
        if not self._keeper.persistent and self._start.max_workers > 1:
            raise Conflict(
                f"{self._start.max_workers} workers run and settings are not kept in SQL, so only "
                "one of them would change: set EMBEDDING_USE_DB_SETTINGS=true and restart"
            )

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        if not self._changing.acquire(blocking=False):
            raise Conflict("the settings are being changed already; send this when that is done")
        try:
            yield
        finally:
            self._changing.release()

    # -- following ------------------------------------------------------------------------------

    def follow(self) -> None:
        """Follow what other workers change, in a thread: no request waits for the database."""
        if self._keeper.persistent:
            threading.Thread(target=self._follow, name="settings", daemon=True).start()

    def stop(self) -> None:
        """End the thread and the connections."""
        self._stop.set()
        self._keeper.close()

    def _follow(self) -> None:
        pause = POLL_S
        while not self._stop.wait(pause):
            lost = self._catch_up()
            pause = POLL_S if lost is None else min(pause * 2, RETRY_MOST_S)
            reason = lost or (self._refusal.reason if self._refusal else None)
            if reason != self._degraded:
                log.warning("settings: %s", reason or "followed again")
            self._degraded = reason

    def _catch_up(self) -> str | None:
        """Follow the kept settings if they are newer; return what keeps this from happening."""
        try:
            due = self._refusal is not None and self._refusal.due
            if self._keeper.version() == self._state.version and not due:
                return None
            with self._changing:
                self._adopt(self._read())
        except Unavailable as exc:
            return f"{exc.message}; the last known settings are used"
        except ServiceError as exc:
            return f"a change cannot be followed: {exc.message}"
        except Exception as exc:
            log.exception("the settings cannot be followed")
            return f"a change cannot be followed ({type(exc).__name__})"
        return None

    def _adopt(self, new: State) -> None:
        """Make everything follow; if a model cannot be had, everything else."""
        others = self._but_for_models(new)
        if self._refusal and self._refusal.concerns(new.kept) and not self._refusal.due:
            self._take(others)
            return
        try:
            self._take(new)
        except Exception as exc:
            if others == new:
                raise
            if not isinstance(exc, ServiceError):
                log.exception("the model cannot be changed")
            self._refusal = Refusal.of(new.kept, exc, self._refusal)
            self._take(others)
        else:
            self._refusal = None

    def _take(self, new: State) -> None:
        with self._apply(self._state, new) as follow:
            follow()
            self._state = new

    def _but_for_models(self, new: State) -> State:
        kept = with_models_of(self._state.kept, new.kept)
        return State(new.version, kept, self._config_of(kept))

    # -- reading --------------------------------------------------------------------------------

    def _read(self, *, restart_too: bool = False) -> State:
        """Read what is kept; a row that is not legal is left out, with a line in the log."""
        found = self._keeper.read()
        kept = {key: text for key, text in sorted(found.values.items()) if _legal(key, text)}
        return State(found.version, kept, self._config_of(kept, restart_too=restart_too))

    def _config_of(self, kept: Mapping[str, str], *, restart_too: bool = False) -> Config:
        values = {}
        for key, text in kept.items():
            if restart_too or not KEYS[key].restart:
                values[KEYS[key].field] = parse(key, json.loads(text))[0]
        if not restart_too:
            fixed = [row.field for row in KEYS.values() if row.restart]
            values |= {field: getattr(self._running, field) for field in fixed}
        return self._start.model_copy(update=values)

    def describe(self, key: str) -> dict[str, Any]:
        """Return all that is known of one setting. Raises NotFound."""
        row, state = _known(key), self._state
        running = getattr(state.config, row.field)
        kept = json.loads(state.kept[key]) if key in state.kept else None
        value = row.shown(running) if kept is None and key not in state.kept else kept
        given = row.field in self._start.model_fields_set
        where = "database" if self._keeper.persistent else "memory"
        return {
            "key": key,
            "value": value,
            "type": row.type,
            "default": row.shown(row.default),
            "source": where if key in state.kept else "environment" if given else "default",
            "description": row.description,
            "changes": "at restart" if row.restart else "at once",
            "restart_required": row.restart and value != row.shown(running),
        }


def open_settings(config: Config) -> Settings:
    """Open the settings where the configuration keeps them."""
    if not config.use_db_settings:
        return Settings(config)
    return Settings(config, SqlKeeper(Database(config.db_url.get_secret_value())))


def _known(key: str) -> Key:
    if key not in KEYS:
        raise NotFound(f"there is no setting {key[:64]!r}; there are: {', '.join(KEYS)}")
    return KEYS[key]


def _differences(old: Mapping[str, str], new: Mapping[str, str]) -> Changes:
    keys = sorted(old.keys() | new.keys())
    return {k: (old.get(k), new.get(k)) for k in keys if old.get(k) != new.get(k)}


def _legal(key: str, text: str) -> bool:
    try:
        parse(key, json.loads(text))
    except (KeyError, ValueError, Invalid) as exc:
        reason = exc.message if isinstance(exc, Invalid) else type(exc).__name__
        log.warning("the kept setting %r is ignored: %s", key[:64], reason)
        return False
    return True
