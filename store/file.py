"""FileStore: collections in files of this machine, for any number of processes. Being written."""

from pathlib import Path
from typing import Any

from store.base import VectorStore
from store.validation import Limits


class FileStore(VectorStore):
    """Collections kept in a folder."""

    def __init__(self, directory: Path, *, limits: Limits, **options: Any) -> None:
        raise NotImplementedError
