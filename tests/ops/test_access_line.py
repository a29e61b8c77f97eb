"""A request's line in the log: who called and from where, and no value that forges another."""

import io
import json
import logging
import re
from collections.abc import Callable, Iterator

import pytest
from flask.testing import FlaskClient

from config import Config
from factory import create_app
from observability import logs
from tests.accounts.conftest import ADMIN, SECRET, add_user, bearer, token_of

PAIR = re.compile(r'(\w+)=([^ "=\\]+|"(?:[^"\\]|\\.)*")(?: |$)')


def pairs(line: str) -> dict[str, str]:
    """Read a line as logfmt has it; fail where it is none."""
    found, end = {}, 0
    while end < len(line):
        pair = PAIR.match(line, end)
        assert pair, f"no pair at {line[end:]!r}"
        name, value = pair.groups()
        assert name not in found, f"{name} is there twice"
        found[name] = json.loads(value) if value[0] == '"' else value
        end = pair.end()
    return found


NASTY = [
    "", " ", "a b", "a=b", "x status=200 id=forged", '"', 'a" status=200 b="', "\\", "\\n",
    'a\\" b=c', "two\nlines", "\r", "\x00", "\x1b[31m", "\x85", "\u2028", "\u202e", "\ud800", "ü",
    "日本", "😀", "a\tb", "null", "true", "-", "'", "a'b c", "%20", "x" * 199 + " y", "\\" * 300,
]  # fmt: skip


@pytest.mark.parametrize("value", NASTY)
def test_no_value_is_taken_for_another_field(value: str) -> None:
    facts = {"path": value, "user": value, "status": 404, "none": None}
    line = logs.line(facts)
    assert line.isprintable()
    cut = value[: logs.LONGEST]
    assert pairs(line) == {"path": cut, "user": cut, "status": "404"}


@pytest.fixture
def form() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A log in the form of lines, and what was written to it."""
    written, log = io.StringIO(), logging.getLogger("tests.form")
    handler = logging.StreamHandler(written)
    handler.setFormatter(logs.LineFormatter(fmt=logs.FORMAT))
    log.addHandler(handler)
    log.propagate = False
    yield log, written
    log.removeHandler(handler)


@pytest.mark.parametrize(
    "forged", ["\n2026-11-29 10:00:00,000 INFO access: a", "\r\n2026", "\x85x"]
)
def test_a_message_is_one_line_and_a_traceback_is_indented(
    form: tuple[logging.Logger, io.StringIO], forged: str
) -> None:
    log, written = form
    log.warning("a%s", forged)
    try:
        raise ValueError(forged)
    except ValueError:
        log.exception("it failed%s", forged)
    lines = written.getvalue().splitlines()
    assert [line for line in lines if line.startswith("2026-11-29 10:00")] == []
    assert [bool(line[:1].strip()) for line in lines[:2]] == [True, True]
    assert all(line.startswith("  ") for line in lines[2:]) and "Traceback" in lines[2]


@pytest.fixture
def client(config_of: Callable[..., Config], caplog: pytest.LogCaptureFixture) -> FlaskClient:
    """A service where one signs in, whose log is read."""
    caplog.set_level(logging.INFO)
    config = config_of(auth_enabled=True, jwt_secret_key=SECRET, admin_password=ADMIN[1])
    return create_app(config, wait=True).test_client()


def last(caplog: pytest.LogCaptureFixture) -> dict[str, str]:
    """The last request's line."""
    return pairs([r.getMessage() for r in caplog.records if r.name == "access"][-1])


def test_a_line_tells_who_called_and_from_where(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    admin = bearer(token_of(client, *ADMIN))
    add_user(client, admin, "uma =1")
    made = client.post("/users/uma =1/api-key", headers=admin).json
    far = {"REMOTE_ADDR": "203.0.113.9"}
    client.post("/embed", json={"text": "x"}, headers=bearer(made["api_key"]), environ_base=far)
    line = last(caplog)
    assert (line["caller"], line["key"], line["address"]) == ("uma =1", made["id"], "203.0.113.9")
    assert made["api_key"].rpartition("_")[2] not in caplog.text
    client.get("/models", headers=admin)
    assert last(caplog)["caller"] == "admin" and "key" not in last(caplog)
    client.get("/models")
    line = last(caplog)
    assert (line["caller"], line["status"]) == ("anonymous", "401")


@pytest.mark.fault("Accounts")
def test_a_key_that_nobody_checks_leaves_its_id_in_the_log(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A stolen key is tried on unknown routes (404, 405), or with a wrong secret (401) -> the log
    has the id that it claims, and no other part of it.
    """
    for method, path, status in (
        ("GET", "/nowhere", "404"), ("DELETE", "/models", "405"), ("GET", "/models", "401")
    ):  # fmt: skip
        for headers in (bearer("emb_Abcd1234_se-cr_et"), {"X-API-Key": "emb_Abcd1234_se-cr_et"}):
            client.open(path, method=method, headers=headers)
            line = last(caplog)
            assert (line["claimed"], line["caller"], line["status"]) == (
                *("Abcd1234", "anonymous"),
                status,
            )
        for strange in ("emb_secret_x", "emb_ab cd123_x", "eyJh.e30.x", "emb_Abcd1234_", "x"):
            client.open(path, method=method, headers={"X-API-Key": strange})
            assert "claimed" not in last(caplog)
    assert "se-cr" not in caplog.text


@pytest.mark.fault("Accounts")
def test_guessing_is_seen_in_the_log(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    """Passwords are guessed -> the log has a line for each try with the user name and the address,
    without a password; a name forges no field.
    """
    for name in ("admin", "x status=200 caller=admin", 'a" b="', "é" * 150, "two\nlines"):
        body = {"username": name, "password": "a-guess-of-theirs"}
        client.post("/token", json=body, environ_base={"REMOTE_ADDR": "203.0.113.9"})
        line = last(caplog)
        assert line["user"] == name and line["caller"] == "anonymous"
        assert (line["address"], line["status"]) == ("203.0.113.9", "401")
    client.post("/token", data={"username": "admin", "password": "a-guess-of-theirs"})
    assert last(caplog)["user"] == "admin"
    assert "a-guess-of-theirs" not in caplog.text


@pytest.mark.fault("Hostile clients")
def test_a_path_forges_no_field(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    """A path or a model's name holds blanks, quotes, `=` or line ends -> quoted in the log, as
    logfmt requires; it forges no line and no field.
    """
    admin = bearer(token_of(client, *ADMIN))
    client.get("/x%20status=200%20id=forged%22%0a2026", headers=admin)
    line = last(caplog)
    assert line["path"] == '/x status=200 id=forged"\n2026' and line["status"] == "404"
    name = 'm" status=200 x="'
    client.post("/embed", json={"text": "x", "model": name}, headers=admin)
    assert last(caplog)["model"] == name and last(caplog)["status"] == "400"


def test_probes_and_scrapes_that_are_well_are_no_lines(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    admin = bearer(token_of(client, *ADMIN))
    caplog.clear()
    for path in ("/health", "/health/live", "/health/ready", "/ping", "/metrics",
                 "/metrics/history", "/health/live/"):  # fmt: skip
        assert client.get(path, headers=admin).status_code == 200
    assert not [r for r in caplog.records if r.name == "access"]
    client.get("/metrics")
    assert last(caplog)["status"] == "401"
    with caplog.at_level(logging.DEBUG):
        client.get("/health/live")
    assert last(caplog)["path"] == "/health/live"


def test_where_nobody_signs_in_callers_are_told_by_their_address(
    config_of: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client = create_app(config_of(), wait=True).test_client()
    client.get("/models", environ_base={"REMOTE_ADDR": "2001:db8::7"})
    assert (last(caplog)["caller"], last(caplog)["address"]) == ("anonymous", "2001:db8::7")
    client.get("/settings")
    assert (last(caplog)["caller"], last(caplog)["address"]) == ("admin", "127.0.0.1")
