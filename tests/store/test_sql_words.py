"""What a database says in codes and in URLs, in the store's own words."""

import pytest
import sqlalchemy as sa

import errors


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("23505", errors.Conflict),
        ("22000", errors.Invalid),
        ("42P01", errors.NotFound),
        ("53100", errors.Full),
        ("53300", errors.Busy),
        ("53200", errors.Unavailable),
        ("40001", errors.Busy),
        ("40P01", errors.Busy),
        ("55P03", errors.Busy),
        ("57014", errors.DeadlineExceeded),
        ("57P01", errors.Unavailable),
        ("57P03", errors.Unavailable),
        ("08006", errors.Unavailable),
        ("25006", errors.Unavailable),
        ("28P01", errors.Unavailable),
        ("3D000", errors.Unavailable),
        ("42501", errors.Unavailable),
        ("58030", errors.Unavailable),
        ("XX001", errors.Corrupt),
        ("42601", errors.ServiceError),
    ],
)
def test_every_refusal_has_a_meaning(state: str, kind: type[errors.ServiceError]) -> None:
    import psycopg

    from store.sql_engine import translate

    origin = psycopg.errors.lookup(state)("secret detail")
    said = translate(sa.exc.DBAPIError("SELECT secret", {"p": "secret"}, origin))
    assert type(said) is kind
    assert "secret" not in said.message
    if said.status in (503, 507):
        assert said.retry_after_s


@pytest.mark.parametrize(
    ("text", "hosts", "database"),
    [
        ("postgresql://u:p@h:1/d", {"h"}, "d"),
        ("postgres://u:p@h/d", {"h"}, "d"),
        ("postgresql+asyncpg://u:p@h/d", {"h"}, "d"),
        ("postgresql://u:p%40,w@h1:1,h2:2/d?target_session_attrs=any", {"h1:1", "h2:2"}, "d"),
        ("postgresql://h1,h2/d", {"h1", "h2"}, "d"),
        ("postgresql://u@/d?host=h1:1&host=h2:2", {"h1:1", "h2:2"}, "d"),
    ],
)
def test_every_spelling_of_a_url_is_read(text: str, hosts: set[str], database: str) -> None:
    from store.sql_engine import driver_url

    url = driver_url(text)
    given = url.query.get("host", url.host)
    assert url.drivername == "postgresql+psycopg"
    assert ({given} if isinstance(given, str) else set(given)) == hosts
    assert url.database == database
    if "%40" in text:
        assert url.password == "p@,w"
