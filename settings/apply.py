"""Makes the running parts follow the settings: the models, the engine, the log.

`settings/` says what changed and when; this says what that means. Knows no HTTP and no SQL.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from config import ConfigError, ModelSpec
from engine import Engine
from errors import Invalid
from settings import State
from settings.keys import MODEL_KEYS

# Of the settings that load models, what a model may say for itself in its own entry.
OWN_KEYS = {k: f for k, f in MODEL_KEYS.items() if f not in ("model", "max_queue_tokens")}


def models_of(state: State) -> tuple[Sequence[ModelSpec], str]:
    """Return the models to serve and the default's id. Raises ConfigError.

    `model_name` means what `EMBEDDING_MODEL` means. The other settings, when kept, are stronger
    than the default model's own entry; other models keep what their entries say.
    """
    specs, default = state.config.catalogue()
    own = {field: getattr(state.config, field) for k, field in OWN_KEYS.items() if k in state.kept}
    return [s.model_copy(update=own) if s.id == default else s for s in specs], default


class Follower:
    """Changes the running service from one state of the settings to another."""

    def __init__(self, engine: Engine, state: State) -> None:
        self._engine = engine
        if "log_level" in state.kept:
            logging.getLogger().setLevel(state.config.log_level)

    @contextmanager
    def prepare(self, old: State, new: State) -> Iterator[Callable[[], None]]:
        """Load what the new state needs; give the function that makes everything follow.

        Raises Invalid if the models cannot be had, Conflict while they are being changed.
        """
        with ExitStack() as stack:
            exchange: list[Callable[[], None]] = []
            if _models(old) != _models(new):
                wanted = _catalogue(new)
                registry = self._engine.registry
                exchange = [stack.enter_context(registry.exchange(*wanted, new.config))]

            def follow() -> None:
                for take in exchange:
                    take()
                self._engine.truncate = new.config.truncate
                if new.config.log_level != old.config.log_level:
                    logging.getLogger().setLevel(new.config.log_level)

            yield follow


def _models(state: State) -> object:
    values = [getattr(state.config, field) for field in MODEL_KEYS.values()]
    return values, [json.loads(state.kept[key]) for key in OWN_KEYS if key in state.kept]


def _catalogue(state: State) -> tuple[Sequence[ModelSpec], str]:
    try:
        return models_of(state)
    except ConfigError as exc:
        raise Invalid(f"{'; '.join(exc.problems)}. Nothing was changed") from None
