"""The names of models that anybody may read."""

import hashlib
from pathlib import PurePath


def public_name(name: str) -> str:
    """Return a model's name without folders: the last part of a path, which is a name too."""
    return (PurePath(name).name or name) if _is_path(name) else name


def series_name(name: str) -> str:
    """Return the value of a metric's label `model` for a model's id.

    Of two folders with one name each has its own series, in every process and after every reload.
    """
    if not _is_path(name):
        return name
    return f"{public_name(name)} ({hashlib.sha256(name.encode()).hexdigest()[:6]})"


def _is_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or "\\" in name
