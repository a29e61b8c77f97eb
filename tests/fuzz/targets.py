"""What is fuzzed: each target takes any bytes, and must refuse them in an expected way or be right.

`open_*` builds what a target needs and returns the function that is called, hundreds of thousands
of times, with the first inputs to start from. A target ends in an error of its own only where the
service would be wrong: an exception of a class that its caller does not expect, or a false answer.
"""

import json
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import numpy as np
from flask import Flask
from pydantic import BaseModel

import auth
from accounts import FIXED_KEY
from accounts.tokens import ALGORITHM, ISSUER
from cache.codec import CRC, Entry, pack, unpack
from config import Config
from embedders.base import Output, Sparse, Value
from errors import BadRequest, Invalid, TooLarge, Unauthorized, UnsupportedMedia
from factory import create_app
from routes.openapi import described
from routes.parse import parse_body, parse_query

Target = Callable[[bytes], None]
SECRET = "a-secret-that-is-long-enough-for-hs256-signing"
REFUSALS = (BadRequest, Invalid, TooLarge, UnsupportedMedia)
KEY = b"emb:v1:key"


def application(folder: Path) -> Flask:
    """The service on a fake model, with accounts."""
    file = folder / "models.json"
    models = {"fake": {"type": "fake", "model_name": "tests/fake"}}
    file.write_text(json.dumps({"default": "fake", "models": models}))
    given = {
        "model_config_file": file, "supported_models_file": folder / "none",
        "store_dir": folder / "store", "data_dir": folder / "data", "auth_enabled": True,
        "db_url": f"sqlite:///{folder}/service.db", "jwt_secret_key": SECRET,
        "admin_password": "admin-password-1", "api_key_secret": "one-fixed-key-here",
    }  # fmt: skip
    return create_app(Config.model_validate(given), wait=True)


def open_requests(folder: Path) -> tuple[Target, list[bytes]]:
    """The request decoder: the first byte chooses the route, the rest is the body and the query."""
    app = application(folder)
    bodies = [m for row in described() if (m := row.body or row.optional_body)]
    queries = [row.query for row in described() if row.query]
    shown = json.loads(Path("routes/examples.json").read_text())

    def run(data: bytes) -> None:
        at, rest = data[:1] or b"\0", data[1:]
        query = rest[:200].decode("latin-1")
        headers = {"content_type": "application/json", "query_string": query}
        with app.test_request_context("/", method="POST", data=rest, **headers):
            _read(lambda: parse_body(bodies[at[0] % len(bodies)]))
            _read(lambda: parse_query(queries[at[0] % len(queries)]))

    rows = [row for row in described() if row.body or row.optional_body]
    calls = [shown.get(f"{row.method} {row.path}", {}).get("body", {}) for row in rows]
    seeds = [bytes([i]) + json.dumps(call).encode() for i, call in enumerate(calls)]
    return run, [
        *seeds,
        b'\0{"texts": ["\\ud800"], "truncate": true}',
        b"\1text=a&limit=5&model_id=x",
    ]


def _read(parse: Callable[[], BaseModel]) -> None:
    """Parse, and look at all that a handler would look at."""
    body = _refused_or(parse)
    for name, value in vars(type(body)).items():
        if isinstance(value, property):
            _refused_or(partial(getattr, body, name))


def _refused_or(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except REFUSALS as exc:
        assert 0 < len(exc.message) < 400, f"a message of {len(exc.message)} characters"
        return None


def open_credentials(folder: Path) -> tuple[Target, list[bytes]]:
    """The credential's reader. An odd first byte signs what follows: so claims are read, too."""
    app = application(folder)
    accounts = app.extensions["services"].accounts
    accounts.users.add("uma", "uma-password-1", "user")
    token = accounts.login("uma", "uma-password-1", "here")
    _, key = accounts.keys.add("uma")
    kid = jwt.get_unverified_header(token)["kid"]
    claims = jwt.decode(token, SECRET, [ALGORITHM], audience=ISSUER)

    def run(data: bytes) -> None:
        text = data[1:].decode("latin-1")
        signed = data[:1] and data[0] % 2
        if signed:
            with suppress(Exception):  # what cannot be signed cannot be sent
                payload = json.loads(data[1:])
                text = "Bearer " + _signed(payload, kid)
        with app.test_request_context("/", headers={"Authorization": _line(text)}):
            try:
                caller = accounts.identify(auth.credential(), local=False, address="here")
            except Unauthorized:
                return
        assert (caller.name, caller.role) in (
            ("uma", "user"), ("admin", "admin"), (FIXED_KEY, "user")
        )  # fmt: skip
        assert caller.name != "admin" or signed, "a stranger became admin"

    seeds = [f"0Bearer {token}", f"0bearer {key}", "0Bearer one-fixed-key-here", "0Basic dTpw",
             "1" + json.dumps(claims), "1" + json.dumps({**claims, "exp": "9" * 30}),
             "1" + json.dumps({**claims, "ver": 1e308, "iat": None})]  # fmt: skip
    return run, [seed.encode() for seed in seeds]


def _signed(payload: Any, kid: str) -> str:
    signer = jwt.PyJWS()
    return signer.encode(json.dumps(payload).encode(), SECRET, ALGORITHM, headers={"kid": kid})


def _line(text: str) -> str:
    """Make one header line of any text: a server passes on no line's end."""
    return text.translate({10: None, 13: None})


KEPT: tuple[tuple[Output, ...], ...] = (
    ("dense",), ("score",), ("sparse",), ("multi_vector",), ("dense", "sparse", "multi_vector"),
)  # fmt: skip
WIDTH = 8  # of a vector in the values below


def open_values(_: Path) -> tuple[Target, list[bytes]]:
    """The cache's decoder. An odd first byte mends the sum, so that what it guards is read too."""

    def run(data: bytes) -> None:
        head, value = data[:3].ljust(3, b"\0"), data[3:]
        outputs, width = KEPT[head[1] % len(KEPT)], head[2] % 33 or 1
        if head[0] % 2:
            body = value[: -CRC.size]
            value = body + CRC.pack(zlib.crc32(body, zlib.crc32(KEY)))
        found = unpack({KEY: value, b"other": value}, outputs, width)
        assert "other" not in found
        for key, entry in found.items():
            assert key == KEY and entry.finite and len(entry.values) == len(outputs)
            for output, given in zip(outputs, entry.values, strict=True):
                assert isinstance(given, Sparse) == (output == "sparse")
                assert isinstance(given, Sparse) or given.shape[-1] == width
            again = pack(KEY, outputs, entry)
            assert unpack({KEY: again}, outputs, width)[KEY].tokens == entry.tokens
            # All but the bytes that may have any value that is not 0.
            assert again[2 : -CRC.size] == value[2 : -CRC.size]

    vector = np.linspace(-1, 1, WIDTH, dtype=np.float32)
    sparse = Sparse(np.array([3, 7], np.int32), np.array([0.5, 1.5], np.float32))
    given: dict[Output, Value] = {
        "dense": vector, "score": vector, "sparse": sparse,
        "multi_vector": np.stack([vector, -vector]),
    }  # fmt: skip
    seeds = [b"\1\0\1"]
    for place, outputs in enumerate(KEPT):
        sound = pack(KEY, outputs, Entry(tuple(given[each] for each in outputs), 3, False))
        seeds += [bytes([mends, place, WIDTH]) + sound for mends in (0, 1)]
    infinite = Entry((np.full(WIDTH, np.inf, np.float32),), 3, True)
    return run, [*seeds, bytes([0, 0, WIDTH]) + pack(KEY, ("dense",), infinite)]


def open_planted(_: Path) -> tuple[Target, list[bytes]]:
    """The control: a reader of lengths with a fault four bytes deep, which only a guided search
    finds in seconds."""

    def run(data: bytes) -> None:
        wrong = len(data) >= 6
        for at, byte in enumerate(b"\xe5z\x13\x99"):  # one after the other: that is what guides
            if not wrong or data[at] != byte:
                return
        struct.unpack("<I", data[4:6])

    import atheris  # noqa: PLC0415 - there is none for every Python

    return atheris.instrument_func(run), [b"\0\0\0\0\0\0\0"]


TARGETS = {
    "requests": open_requests,
    "credentials": open_credentials,
    "values": open_values,
    "planted": open_planted,
}
