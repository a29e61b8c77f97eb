"""Tells the log how far a long step is, in place of a bar that a log cannot hold."""

import logging
from typing import Any

from tqdm import tqdm

log = logging.getLogger("embedders")
EVERY_S = 5.0
SHORT_S = 2.0  # a step that ends sooner is not told


class LoggedBar(tqdm):  # type: ignore[misc]
    """A progress bar of tqdm's that writes a line every five seconds, and none for a short step."""

    monitor_interval = 0  # no thread of tqdm's own

    def __init__(self, *args: Any, **options: Any) -> None:
        chosen = {"mininterval": EVERY_S, "delay": SHORT_S, **options, "leave": False}
        super().__init__(*args, **chosen)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write how much is done; nothing where tqdm would clear its bar."""
        if msg is None:
            share = f"{self.n / self.total:.0%}" if self.total else str(self.n)
            log.info("%s: %s in %.0f s", self.desc or "done", share, self.format_dict["elapsed"])

    def clear(self, nolock: bool = False) -> None:
        """Leave what is on the terminal: this wrote nothing there."""


def tell_of_weights() -> None:
    """Have transformers tell the log how far it has read a model's weights."""
    from transformers.utils import logging as transformers_logging

    def bar(factory: object, args: tuple[Any, ...], options: dict[str, Any]) -> LoggedBar:
        return LoggedBar(*args, **options)

    transformers_logging.set_tqdm_hook(bar)
