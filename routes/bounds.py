"""What a request may take of the store, and which names of a collection its caller may know."""

from flask import g

from auth import visible
from context import services
from routes.parse import client_gone
from store.budget import Budget


def budget_of_request() -> Budget:
    """Return what the request may take: until its deadline, while its caller is there."""
    return Budget(g.deadline, client_gone(), services().config.max_reply_bytes)


def known(name: str, asked: str) -> str:
    """Return a collection's name as the caller may know it: a key may be for an alias only."""
    return name if visible(name) else asked
