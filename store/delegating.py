"""Stores that pass operations on: every one of them, or those on names alone."""

import functools
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar, cast

from store.base import VectorStore
from store.keyvalue import KeyValue

Operation = TypeVar("Operation", bound=Callable[..., Any])


def passed_on(operation: Operation) -> Operation:
    """Return a method that passes an operation of a store on to `self._call`."""

    @functools.wraps(operation, updated=())  # or it would be abstract, too
    def call(self: Any, *args: Any, **named: Any) -> Any:
        return self._call(operation.__name__, *args, **named)

    return cast(Operation, call)


class DelegatingNames(VectorStore):
    """Passes every operation on names on to `_call`."""

    create = passed_on(VectorStore.create)
    collections = passed_on(VectorStore.collections)
    names = passed_on(VectorStore.names)
    info = passed_on(VectorStore.info)
    drop = passed_on(VectorStore.drop)
    rename = passed_on(VectorStore.rename)
    swap = passed_on(VectorStore.swap)
    alias = passed_on(VectorStore.alias)
    unalias = passed_on(VectorStore.unalias)
    stamp = passed_on(VectorStore.stamp)
    wait_for_writers = passed_on(VectorStore.wait_for_writers)

    @abstractmethod
    def _call(self, operation: str, *args: Any, **named: Any) -> Any:
        """Do an operation, by its name."""


class DelegatingStore(DelegatingNames):
    """Passes every operation on to the store that `_inner` returns."""

    identity = passed_on(VectorStore.identity)
    upsert = passed_on(VectorStore.upsert)
    delete = passed_on(VectorStore.delete)
    get = passed_on(VectorStore.get)
    search = passed_on(VectorStore.search)
    scroll = passed_on(VectorStore.scroll)
    count = passed_on(VectorStore.count)
    sample = passed_on(VectorStore.sample)
    version = passed_on(VectorStore.version)
    backup = passed_on(VectorStore.backup)
    restore = passed_on(VectorStore.restore)
    verify = passed_on(VectorStore.verify)
    compact = passed_on(VectorStore.compact)
    stats = passed_on(VectorStore.stats)

    @property
    def notes(self) -> KeyValue:  # type: ignore[override]
        """The notes of the other store."""
        return self._inner().notes

    @abstractmethod
    def _inner(self) -> VectorStore:
        """Return the other store."""

    def _call(self, operation: str, *args: Any, **named: Any) -> Any:
        return getattr(self._inner(), operation)(*args, **named)
