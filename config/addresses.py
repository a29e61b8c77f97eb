"""Addresses in the configuration: of SQL databases, of Redis, and to listen on.

What a driver would refuse at its first connection is refused at the start, or it would look like a
server that is away. No message holds any value of a URL, since one may be a password.
"""

import ipaddress
import os
import re
import warnings
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
from pydantic import AfterValidator, BeforeValidator
from sqlalchemy.exc import ArgumentError, SAWarning

# Whatever driver a URL names, the one that is installed is used.
DRIVERS = {
    "sqlite": "sqlite",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
}
TLS = {
    "mysql": "for TLS write ssl_ca=/path/to/ca.pem",
    "postgresql": "for TLS write sslmode=verify-full&sslrootcert=/path/to/ca.pem",
    "sqlite": "leave it out",
}
ESCAPE = "write @ : / ? # % and blanks in a name or password as %40 %3A %2F %3F %23 %25 %20"
SEVERAL = re.compile(r"(?P<start>[^/]+//(?:[^/]*@)?)(?P<hosts>[^/@?]*,[^/@?]*)(?P<rest>[^@]*)")
HOSTS = re.compile(r"[\w.:-]+")
BRACKETS = re.compile(r"[^/]+//(?:[^/]*@)?\[(?P<host>[^]]*)\]")
WHOLE = re.compile(r"connect_timeout|keepalives(_idle|_interval)?|tcp_user_timeout")
FILES = ("sslcert", "sslkey", "sslcrl", "sslrootcert", "passfile")
REDIS = "it takes db, protocol, socket_timeout, ssl_ca_certs, ssl_cert_reqs and the like"
NOWHERE = "/nonexistent"  # a folder of sockets, so that no name is looked up


def driver_url(text: str) -> sa.URL:
    """Return a database URL of any common spelling with a driver of ours. Raises ValueError.

    libpq's own `//user@one:5432,two:5433/db` becomes SQLAlchemy's `?host=one:5432&host=two:5433`.
    """
    several = SEVERAL.fullmatch(text)
    hosts = tuple(several["hosts"].split(",")) if several else ()
    try:
        url = sa.make_url(several["start"] + several["rest"] if several else text)
    except (ArgumentError, ValueError):  # the message may hold a part of the password
        raise ValueError(f"is no URL; {ESCAPE}, and the port as a number") from None
    driver = DRIVERS.get(url.drivername.partition("+")[0].lower())
    if driver is None:
        scheme = url.drivername[:40]
        raise ValueError(f"has the unknown scheme {scheme!r}; known are {', '.join(DRIVERS)}")
    url = url.set(drivername=driver)
    return url.update_query_dict({"host": hosts}, append=True) if hosts else url


def check_sql(text: str) -> None:
    """Raise ValueError if no driver could ever connect to this URL."""
    several = text.count("@") > 1 and not text.startswith("sqlite")  # the last one is meant
    if several or not text.isprintable():
        raise ValueError(f"has a character that must be escaped; {ESCAPE}")
    url = driver_url(text)
    kind = url.get_backend_name()
    bracketed = BRACKETS.match(text)
    no_ipv6 = bracketed is not None and not _is_address(bracketed["host"], version=6)
    if no_ipv6 or (url.host is not None and not HOSTS.fullmatch(url.host)):
        raise ValueError(f"names no host; {ESCAPE}")
    if url.port is not None and not 1 <= url.port <= 65535:
        raise ValueError("has a port that is not 1 to 65535")
    if kind == "sqlite" and url.host is not None:
        raise ValueError("has two slashes; write sqlite:///data/x.db, or four for /data/x.db")
    if kind == "sqlite":
        _check_file(url.database or "")
    if kind == "mysql" and not url.database:
        raise ValueError("names no database; write mysql://user:password@host/database")
    if _refused(url):
        for name in url.query:
            if _refused(url.set(query={name: url.query[name]})):
                raise ValueError(
                    f"has the parameter {name[:40]!r}, which the driver does not know or whose "
                    f"value it does not take; {TLS[kind]}"
                )
        raise ValueError("has parameters that the driver does not take together")


def _check_file(name: str) -> None:
    """Raise ValueError if this can never be a database of SQLite.

    A folder that cannot be written is allowed: models serve on a read-only disk, too.
    """
    if name in ("", ":memory:") or name.startswith("file:"):
        return
    path = Path(os.path.abspath(name))
    if path.is_dir():
        raise ValueError("names a folder; name a file in it, as in sqlite:///data/x.db")
    if path.exists():  # its data can be read, whatever else fails
        return
    above = next(parent for parent in path.parents if os.path.lexists(parent))
    if not above.is_dir():
        raise ValueError("leads through what is no folder; name a file in a folder")


def _is_address(text: str, version: int | None = None) -> bool:
    try:
        return version in (None, ipaddress.ip_address(text).version)
    except ValueError:
        return False


def _refused(url: sa.URL) -> bool:
    """Whether the driver refuses the URL; nothing is connected."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", SAWarning)
            _, params = url.get_dialect()().create_connect_args(url)
        kind = url.get_backend_name()
        if kind == "mysql":
            import pymysql  # type: ignore[import-untyped]

            pymysql.connect(defer_connect=True, **params)
            # PyMySQL passes these on as they are, and the server would refuse them.
            commits = str(params.get("autocommit", "off")).lower() in ("on", "off")
            return not commits or not str(params.get("max_allowed_packet", 0)).isdecimal()
        return kind == "postgresql" and _libpq_refuses(dict(params))
    except Exception:  # of any kind: none of them is a server's answer
        return True


def _libpq_refuses(params: dict[str, Any]) -> bool:
    """Whether libpq refuses an option; it connects to a socket that does not exist."""
    from psycopg import pq
    from psycopg.conninfo import make_conninfo

    hosts = str(params.pop("host", "")).split(",")
    addresses = str(params.pop("hostaddr", "")).split(",")
    if (
        any(address and not _is_address(address) for address in addresses)
        or any(WHOLE.fullmatch(k) and not str(v).isdecimal() for k, v in params.items())
        or not _is_encoding(str(params.get("client_encoding", "auto")))
    ):
        return True
    files = {name: params[name] for name in FILES if params.get(name)}
    if files.get("sslrootcert") == "system":
        del files["sslrootcert"]
    if ":" in files.get("sslkey", ""):  # of a device, by the name of its engine
        del files["sslkey"]
    if not all(Path(file).is_file() for file in files.values()):
        return True
    nowhere = ",".join([NOWHERE] * len(hosts))
    link = pq.PGconn.connect_start(make_conninfo(**params, host=nowhere).encode())
    said = link.get_error_message()
    link.finish()
    return not said.startswith("connection to server")


def _is_encoding(name: str) -> bool:
    """Whether psycopg can read text of this encoding, in any of PostgreSQL's spellings."""
    from psycopg._encodings import py_codecs

    plain = re.sub(r"\W|_", "", name).upper()
    return plain == "AUTO" or plain.encode() in {known.replace(b"_", b"") for known in py_codecs}


def check_redis(text: str) -> None:
    """Raise ValueError if redis-py could never connect to this URL."""
    from redis.connection import Connection, parse_url

    schemes = ("redis://", "rediss://", "unix://")
    if not text.startswith(schemes):
        raise ValueError(f"must begin with {', '.join(schemes)}")
    try:
        options: dict[str, Any] = dict(parse_url(text))  # type: ignore[no-untyped-call]
    except (ValueError, TypeError):
        raise ValueError(f"is no URL of Redis; {ESCAPE}, and the port as a number") from None
    path = re.fullmatch(r"rediss?://[^/?#]*(/\d*/?)?([?].*)?", text, re.S)
    if not text.startswith("unix://") and path is None:
        raise ValueError(f"must end with the database's number, as in /0; {ESCAPE}")
    try:
        options.pop("connection_class", Connection)(**options)
    except Exception:
        raise ValueError(f"has a parameter that redis-py does not take; {REDIS}") from None


def _host(value: object) -> object:
    if not isinstance(value, str):
        return value
    host = value.strip().removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        named = re.fullmatch(r"(?!\d+(\.\d+)*$)[\w-]+(\.[\w-]+)*\.?", host)
        if named is None or len(host) > 253:
            raise ValueError("must be one address or one name, without a port") from None
        return host
    return str(getattr(address, "ipv4_mapped", None) or host)


def _without_zone(host: str) -> str:
    if "%" in host:
        raise ValueError("must be an address without a zone: %name cannot be listened on")
    return host


Host = Annotated[str, BeforeValidator(_host)]
ListenHost = Annotated[Host, AfterValidator(_without_zone)]
