"""Payloads of records: pickles that can hold data and nothing else.

`loads` calls and imports nothing; it is for checksummed records. `check` goes before it for bytes
of a backup: only the opcodes that our own data needs, references only to strings, a bound on what
those stand for together, and no size larger than the bytes, so that a small file cannot ask for
much memory.
"""

import io
import pickle
import pickletools
from collections.abc import Mapping
from typing import Any, NoReturn

from errors import Corrupt, Invalid

PROTOCOL = 5
# What dict, list, str, bytes, int, float, bool and None need.
OPCODES = frozenset(
    """
    PROTO FRAME MEMOIZE STOP MARK EMPTY_DICT EMPTY_LIST SETITEM SETITEMS APPEND APPENDS NONE
    NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE BINUNICODE BINUNICODE8
    SHORT_BINBYTES BINBYTES BINBYTES8 BINGET LONG_BINGET
    """.split()  # noqa: SIM905 - a list of names is easier to read
)
MAX_OPCODES = 2_000_000
MAX_DEPTH = 64
# What all references to strings of one record stand for: four times what its bytes may be.
MAX_REFERRED = 256 << 20


class _Data(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"a pickle asks for {module_name}.{global_name}")


def dumps(text: str | None, metadata: Mapping[str, Any]) -> bytes:
    """Return a record's payload: the pickle of its text and metadata."""
    return pickle.dumps([text, metadata], PROTOCOL)


def loads(data: bytes) -> tuple[str | None, dict[str, Any]]:
    """Return the text and metadata of a payload. Raises Corrupt for anything else."""
    try:
        # A new unpickler each time: one that is used again takes references for the payload before.
        text, metadata = _Data(io.BytesIO(data)).load()
        if type(metadata) is not dict or not (text is None or type(text) is str):
            raise ValueError("no text with metadata")
    except Exception as exc:  # an unpickler raises whatever the bytes lead it to
        raise Corrupt(f"a stored payload cannot be read: {type(exc).__name__}") from exc
    return text, metadata


class _Nesting:
    """How deep the containers on an unpickler's stack are nested; None is a mark."""

    def __init__(self) -> None:
        self._stack: list[int | None] = []

    def step(self, name: str) -> int:
        """Follow one opcode; return the depth of what is now on top."""
        stack = self._stack
        if name in ("APPEND", "SETITEM"):
            inner = [stack.pop() for _ in range(1 if name == "APPEND" else 2)]
        elif name in ("APPENDS", "SETITEMS"):
            inner = []
            while (each := stack.pop()) is not None:
                inner.append(each)
        else:
            if name not in ("PROTO", "FRAME", "MEMOIZE", "STOP"):
                stack.append(None if name == "MARK" else int(name in ("EMPTY_LIST", "EMPTY_DICT")))
            return 0
        if None in inner or stack[-1] is None:
            raise ValueError("a mark stands where a value is needed")
        stack[-1] = max([stack[-1], *(each + 1 for each in inner if each is not None)])
        return stack[-1]


def check(data: bytes) -> None:
    """Raise Invalid unless the pickle holds only plain data and asks for nothing more."""
    strings: list[int | None] = []  # the length of the memo's entry, if it is a string
    nesting = _Nesting()
    last, size, count, referred = "", None, 0, 0
    try:
        for opcode, argument, _ in pickletools.genops(_Sized(data)):
            name, count = opcode.name, count + 1
            if name not in OPCODES or count > MAX_OPCODES:
                raise Invalid(f"not a backup: its pickle uses {name}")
            if name == "FRAME" and int(argument or 0) > len(data):
                raise Invalid("not a backup: its pickle is longer than its bytes")
            if name == "MEMOIZE":
                strings.append(size)
            elif name.endswith("BINGET"):
                length = strings[int(argument or 0)]
                if length is None:
                    raise Invalid("not a backup: its pickle refers to itself")
                referred += length
                if referred > MAX_REFERRED:
                    raise Invalid("not a backup: its pickle repeats a string too often")
            if nesting.step(name) > MAX_DEPTH:
                raise Invalid("not a backup: its pickle is nested too deep")
            last, size = name, len(argument) if isinstance(argument, str | bytes) else None
    except (ValueError, IndexError, OverflowError, EOFError) as exc:
        raise Invalid("not a backup: its pickle is broken") from exc
    if last != "STOP":
        raise Invalid("not a backup: its pickle has no end")


class _Sized(io.BytesIO):
    """Bytes whose `read(n)` never asks for more memory than there are bytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(-1 if size is None else min(size, len(self.getbuffer())))
