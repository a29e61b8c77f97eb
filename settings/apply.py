"""Applies changed settings to the running parts: the models, the engine, the log level."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from config import Config, ConfigError, ModelSpec
from engine import Engine
from errors import Invalid
from serving.lanes import Lanes
from serving.registry import Exchange
from settings import Prepared, State
from settings.keys import MODEL_KEYS

# Model settings that a model's own entry may also have.
OF_ALL = ("model", "max_queue_tokens", "interactive_p99_ms")
OWN_KEYS = {k: f for k, f in MODEL_KEYS.items() if f not in OF_ALL}


def models_of(state: State) -> tuple[Sequence[ModelSpec], str]:
    """Return the models to serve and the default's id. Raises ConfigError.

    `model_name` means what `EMBEDDING_MODEL` means. The other stored settings win over the default
    model's own entry; other models keep what their entries say.
    """
    specs, default = state.config.catalogue()
    own = {f: getattr(state.config, f) for k, f in OWN_KEYS.items() if k in state.stored}
    return [s.model_copy(update=own) if s.id == default else s for s in specs], default


def lanes_of(config: Config) -> Lanes:
    """Return the rules of the lanes."""
    promise = config.interactive_p99_ms
    return Lanes(config.interactive_max_tokens, None if promise is None else promise / 1000)


@dataclass(frozen=True)
class PreparedChange(Prepared):
    """What `Prepared` means for the running service; `exchange` is None if no model changes."""

    engine: Engine
    old: State
    new: State
    exchange: Exchange | None

    def commit(self) -> None:
        """See `Prepared`. Returns when models that serve no more are freed, or after 30 s."""
        self.engine.truncate = self.new.config.truncate
        self.engine.lanes = lanes_of(self.new.config)
        if self.new.config.log_level != self.old.config.log_level:
            logging.getLogger().setLevel(self.new.config.log_level)
        if self.exchange is not None:
            self.exchange.commit()

    def abort(self) -> None:
        """See `Prepared`."""
        if self.exchange is not None:
            self.exchange.abort()


class Applier:
    """Applies settings to an engine and its models, starting with the log level of `state`."""

    def __init__(self, engine: Engine, state: State) -> None:
        self._engine = engine
        if "log_level" in state.stored:
            logging.getLogger().setLevel(state.config.log_level)

    def prepare(self, old: State, new: State) -> PreparedChange:
        """Load the models of the new state and return the change, to be committed or aborted.

        Raises Invalid if a model cannot be used, Conflict while models are being changed.
        """
        exchange = None
        if _model_settings(old) != _model_settings(new):
            try:
                specs, default = models_of(new)
            except ConfigError as exc:
                raise Invalid(f"{'; '.join(exc.problems)}. Nothing was changed") from None
            exchange = self._engine.registry.prepare(specs, default, new.config)
        return PreparedChange(self._engine, old, new, exchange)


def _model_settings(state: State) -> object:
    values = [getattr(state.config, field) for field in MODEL_KEYS.values()]
    return values, [json.loads(state.stored[key]) for key in OWN_KEYS if key in state.stored]
