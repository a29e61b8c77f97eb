"""Which role may use which kind of route. A route declares its kind in the route table."""

from typing import Literal

# Anyone; whoever may embed; who may read or change collections; admins.
Access = Literal["public", "embed", "read", "write", "admin"]

_READER = frozenset({"public", "embed", "read"})
_USER = _READER | {"write"}
_ADMIN = _USER | {"admin"}
ALLOWED: dict[str, frozenset[str]] = {
    "reader": _READER,
    "user": _USER,
    "anonymous": _USER,  # only while nobody must sign in
    "admin": _ADMIN,
}
