"""A wrong setting ends the start with a line that says what to do; another's is no news."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config import Config, ConfigError, load_config
from config.addresses import check_redis, check_sql
from config.fields import names_of, without_service_links
from server.sockets import addresses_of, bind_of
from tests.conftest import ROOT, free_port, running, write_models

NOTHING = Path("/nonexistent/.env")
SECRET = "hunter2"


def refusal(**environ: str) -> str:
    """Why the service does not start with these settings."""
    with pytest.raises(ConfigError) as refused:
        load_config(environ, NOTHING).catalogue()
    return str(refused.value)


SQL = {
    "mysql://u:hunter2@h/db?ssl-mode=REQUIRED": "'ssl-mode'",
    "mysql://u:hunter2@h/db?sslmode=require": "'sslmode'",
    "mysql://u:hunter2@h/db?ssl=true": "ssl_ca=/path/to/ca.pem",
    "mysql://u:hunter2@h/db?useSSL=false&charset=utf8mb4": "'useSSL'",
    "mysql://u:hunter2@h/db?serverTimezone=UTC": "'serverTimezone'",
    "mysql://u:hunter2@h/db?charset=klingon": "'charset'",
    "mysql://u:hunter2@h/db?connect_timeout=soon": "'connect_timeout'",
    "mysql://u:hunter2@h": "names no database",
    "mysql://u:hunter2@h:99999/db": "1 to 65535",
    "mysql://u:hunter2@h:port/db": "port as a number",
    "mysql://u:hunter2@h /db": "names no host",
    "mysql://u:hunter2@x@h/db": "%40",
    "mysql://u:a@hunter2:1@h/db": "%40",
    "mysql://u:hunter2,/:@h:x/db": "%2F",
    "postgresql://u:hunter2@h/db?pgbouncer=true": "'pgbouncer'",
    "postgresql://u:hunter2@h/db?schema=public": "'schema'",
    "postgresql://u:hunter2@h/db?sslmode=REQUIRED": "'sslmode'",
    "postgresql+asyncpg://u:hunter2@h/db?ssl=require": "'ssl'",
    "postgresql://u:hunter2@h/db?connect_timeout=soon": "'connect_timeout'",
    "postgresql://u:hunter2@h/db?sslmode=verify-full&sslrootcert=/nonexistent": "'sslrootcert'",
    "postgresql://u:hunter2@h/db?hostaddr=zz": "'hostaddr'",
    "postgresql://u:hunter2@h/db?hostaddr=10.0.0.1,h": "'hostaddr'",
    "postgresql://u:hunter2@h/db?sslcert=/nonexistent": "'sslcert'",
    "postgresql://u:hunter2@h/db?sslkey=/nonexistent": "'sslkey'",
    "postgresql://u:hunter2@h/db?sslcrl=/nonexistent": "'sslcrl'",
    "postgresql://u:hunter2@h/db?passfile=/tmp": "'passfile'",
    "postgresql://u:hunter2@h/db?client_encoding=zz": "'client_encoding'",
    "postgresql://u:hunter2@[zz]/db": "names no host",
    "mysql://u:hunter2@[127.0.0.1]:3306/db": "names no host",
    "mysql://u:hunter2@h/db?autocommit=xx": "'autocommit'",
    "mysql://u:hunter2@h/db?max_allowed_packet=16M": "'max_allowed_packet'",
    "sqlite:////tmp": "names a folder",
    "sqlite:////dev/null/x.db": "is no folder",
    "postgresql://u:hunter2@h:/db": "port as a number",
    "postgresql://u:hunter2@h\t/db": "must be escaped",
    "sqlite://data/x.db": "sqlite:///data/x.db",
    "sqlite:///x.db?hunter=1": "'hunter'",
    "sqlite:x.db": "is no URL",
    "C:\\data\\x.db": "is no URL",
    "oracle://u:hunter2@h/db": "'oracle'",
    "jdbc:mysql://h/db?user=u&password=hunter2": "is no URL",
    "hunter2": "is no URL",
}


@pytest.mark.parametrize("url", SQL)
def test_a_database_that_no_driver_could_reach_is_refused_by_what_is_wrong(url: str) -> None:
    said = refusal(EMBEDDING_DB_URL=url)
    assert "EMBEDDING_DB_URL: " in said and SQL[url] in said and "postgresql://" in said
    assert SECRET not in said and len(said.splitlines()) == 2


GOOD_SQL = (
    "sqlite:///data/x.db", "sqlite:////tmp/a@b/c@d.db", "sqlite+aiosqlite:///x.db", "mysql://u@h/db",
    "sqlite://", "sqlite:///:memory:", "mysql://u@h/db?autocommit=off", "mysql://u@[::1]:3306/db",
    "postgresql://h/db?hostaddr=10.0.0.1&client_encoding=utf-8&sslkey=engine:key",
    "mysql://u:p%40:%2F#?@h:3306/db?charset=utf8mb4", "mariadb://u:p@[::1]/db?ssl_check_hostname=0",
    "postgres://u:p@h/db?sslmode=require", "postgresql:///db?host=/var/run/postgresql",
    "postgresql://u:p@one:5432,two:5433/db?target_session_attrs=read-write", "postgresql://",
    "postgresql://u:p@h/db?application_name=x&options=-c%20search_path%3Dx&connect_timeout=3",
)  # fmt: skip


@pytest.mark.parametrize("url", GOOD_SQL)
def test_a_database_that_may_be_there_is_not_refused(url: str) -> None:
    check_sql(url)


def test_stores_and_redis_are_refused_alike() -> None:
    for url in (
        "postgresql://u:hunter2@h/d?pgbouncer=1",
        "mysql://u:hunter2@h/d",
        "file://x",
        "/x",
    ):
        said = refusal(STORE_URL=url)
        assert "STORE_URL: " in said and "file:///" in said and SECRET not in said, url
    for url in (
        "redis://:hunter2#@h/0", "redis://:hunter2@h:port/0", "redis://h/zero", "http://h:6379",
        "redis://:hunter2@h/0?decode=1", "rediss://h/0?ssl_cert_reqs=perhaps",
    ):  # fmt: skip
        said = refusal(REDIS_URL=url)
        assert "REDIS_URL: " in said and "redis://" in said and SECRET not in said, url
    for url in ("redis://h", "rediss://u:p@[::1]:6380/1?ssl_cert_reqs=none", "unix:///s?db=1"):
        check_redis(url)


def links(service: str, port: int = 6379) -> dict[str, str]:
    """What Kubernetes tells every pod of a Service."""
    name, url = service.upper().replace("-", "_"), f"tcp://10.0.0.11:{port}"
    tcp = f"{name}_PORT_{port}_TCP"
    return {
        f"{name}_SERVICE_HOST": "10.0.0.11", f"{name}_SERVICE_PORT": str(port),
        f"{name}_SERVICE_PORT_HTTP": str(port), f"{name}_PORT": url, tcp: url,
        f"{tcp}_PROTO": "tcp", f"{tcp}_PORT": str(port), f"{tcp}_ADDR": "10.0.0.11",
    }  # fmt: skip


@pytest.mark.fault("Deployment")
def test_what_kubernetes_says_of_other_services_is_no_setting(caplog) -> None:
    """A Service is named redis, metrics, embedding, port, ... -> its variables are not read as
    settings.
    """
    services = "redis metrics embedding embedding-service port host api max threads otel log"
    environ = {k: v for name in services.split() for k, v in links(name).items()}
    config = load_config(environ, NOTHING)
    assert config.model_fields_set == set() and not caplog.records
    assert load_config({**environ, "PORT": "9000"}, NOTHING).port == 9000
    mine = {name: "x" for info in Config.model_fields.values() for name in names_of(info)}
    for service in {start for name in mine for start in name.lower().split("_")}:
        assert mine.items() <= without_service_links({**links(service), **mine}).items()
    assert "REDIS_PORT=tcp" in refusal(REDIS_PORT="tcp:10.0.0.11")


@pytest.mark.fault("Deployment")
@pytest.mark.parametrize(
    "content",
    [
        "PORT=1\n".encode("utf-16"),
        "ADMIN_USERNAME=café\n".encode("latin-1"),
        b"PORT=1\0\n",
        b"\xff",
    ],
)
def test_a_dotenv_file_that_is_no_utf_8_is_told_by_its_name(tmp_path: Path, content) -> None:
    """`.env` is UTF-16, Latin-1 or holds NUL -> the start ends with a line that names the file."""
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(ConfigError, match=r"\.env: is not UTF-8 text; save it as UTF-8"):
        load_config({}, tmp_path / ".env")


@pytest.mark.fault("Deployment")
@pytest.mark.parametrize(
    "line",
    ['AUTH_ENABLED="true', "AUTH_ENABLED='true", "AUTH_ENABLED: true", "AUTH_ENABLED true",
     "set AUTH_ENABLED=true", 'AUTH_ENABLED="tr"ue', "AUTH_ENABLED", "- AUTH_ENABLED=true",
     '$env:AUTH_ENABLED="true"', "AUTH_ENABLED+=true", '"AUTH_ENABLED"=true',
     "\u200bAUTH_ENABLED=true", "=true", "AUTH_ENABLED;=true"],
)  # fmt: skip
def test_a_line_of_a_dotenv_file_that_is_none_stops_the_start(tmp_path: Path, line: str) -> None:
    """A line of `.env` cannot be read (`AUTH_ENABLED: true`) -> the start ends and names it."""
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"# mine\n\nPORT=9000\n\n{line}\n")
    with pytest.raises(ConfigError) as refused:
        load_config({}, dotenv)
    assert refused.value.problems == [f"{dotenv}: line 5 cannot be read; write NAME=value"]


def test_a_dotenv_file_may_hold_all_that_shells_let_it(tmp_path: Path, caplog) -> None:
    dotenv, key = tmp_path / ".env", "a b\nc 0123456789 0123456789 0123456789"
    dotenv.write_text(
        "\r\n# a comment\r\nexport PORT = 9000 # ours\r\nOTHER.thing=\r\n"
        f"JWT_SECRET_KEY='{key}'\nLOG_LEVEL=\"debug\"\n'DEVICE'=cpu"
    )
    config = load_config({}, dotenv)
    assert (config.port, config.log_level, config.device) == (9000, "DEBUG", "cpu")
    assert config.jwt_secret_key.get_secret_value() == key and not caplog.records
    dotenv.write_text("auth_enabled=true\nJwt-Secret-Key=x\n")
    load_config({"Cors_Origins": "x"}, dotenv)
    for name in ("AUTH_ENABLED", "JWT_SECRET_KEY", "CORS_ORIGINS"):
        assert f"did you mean {name}?" in caplog.text
    dotenv.write_text("REDIS_PORT=tcp://10.0.0.11:6379")
    with pytest.raises(ConfigError, match="REDIS_PORT"):  # Kubernetes writes no files
        load_config({}, dotenv)


def test_what_is_there_as_a_dotenv_file_but_none_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path, said in ((tmp_path, "cannot be read"), (tmp_path / "link", "leads to no file")):
        with pytest.raises(ConfigError, match=said):
            load_config({}, path)


def test_values_of_a_dotenv_file_are_as_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("X", "other")
    lines = ["API_KEY_SECRET=a${X}b$X-0123456789", "ADMIN_TOKEN='${X:-y}0123456789012'"]
    (tmp_path / ".env").write_text("\ufeff" + "\n".join(lines))
    config = load_config({}, tmp_path / ".env")
    assert config.api_key_secret.get_secret_value() == "a${X}b$X-0123456789"
    assert config.admin_token.get_secret_value() == "${X:-y}0123456789012"


def test_a_file_of_settings_that_cannot_be_one_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "latin").write_bytes(b"caf\xe9-caf\xe9-caf\xe9-caf\xe9")
    for path in (
        tmp_path / "empty",
        tmp_path / "latin",
        tmp_path,
        tmp_path / ("x" * 99),
        "/dev/full",
    ):
        assert f"API_KEY_SECRET_FILE={path}"[:200] in refusal(API_KEY_SECRET_FILE=str(path))
    for path in (tmp_path, tmp_path / "latin", "/dev/full", "x" * 5000):
        for name in ("MODEL_CONFIG", "SUPPORTED_MODELS_FILE"):
            assert str(path)[:200] in refusal(**{name: str(path)})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"models": {"a": {"model_name": "x"}, "a": {"model_name": "y"}}}', "'a' is there twice"),
        ('{"models": {"": {"model_name": "x"}}}', "printable"),
        ('{"models": {"a": {"model_name": "\\ud800"}}}', "printable"),
        ("[" * 100_000, "cannot be read as JSON"),
    ],
)
def test_a_model_file_whose_names_are_no_use_stops_the_start(tmp_path, text, complaint) -> None:
    (tmp_path / "m.json").write_text(text)
    assert complaint in refusal(MODEL_CONFIG=str(tmp_path / "m.json"), SUPPORTED_MODELS_FILE="/x")


def test_a_value_that_is_no_text_or_very_long_is_one_short_line() -> None:
    assert "JWT_SECRET_KEY: is not UTF-8" in refusal(JWT_SECRET_KEY="\udcff" * 40)
    assert len(refusal(TRUSTED_PROXIES="x" * 100_000)) < 1500
    for value in ("10.0.0.1/8", "all", "1.2.3.4/33"):
        assert "TRUSTED_PROXIES" in refusal(TRUSTED_PROXIES=value)


@pytest.mark.fault("Deployment")
def test_the_process_ends_with_a_list_and_without_a_traceback(tmp_path: Path) -> None:
    """Settings are wrong, a database's URL too -> the start ends with a line for each."""
    given = {
        "EMBEDDING_DB_URL": "mysql://u:hunter2@h/db?ssl-mode=REQUIRED", "PORT": "many",
        "AUTH_ENABLED": "true", "EMBEDDING_USE_DB_SETTINGS": "true", "HOST": "localhost:8001",
        "STORE_URL": "postgresql://u:hunter2@h/db?pgbouncer=true", "THREADS": "1000000000",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "app:app"], cwd=ROOT, env={**os.environ, **given},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and lines[0] == "The service cannot start:"
    assert sorted(line.split("=")[0].split(":")[0] for line in lines[1:]) == [
        "  - EMBEDDING_DB_URL", "  - HOST", "  - PORT", "  - STORE_URL", "  - THREADS",
    ]  # fmt: skip
    assert "Traceback" not in done.stderr and SECRET not in done.stdout + done.stderr


def test_a_limit_that_no_clock_can_count_and_a_port_for_two_are_refused() -> None:
    for name in ("READ_TIMEOUT", "REQUEST_DEADLINE", "PROVIDER_TIMEOUT", "GRACEFUL_TIMEOUT"):
        for value in ("1e300", "inf", "nan", "99999999999999999999"):
            assert f"{name}={value}" in refusal(**{name: value})
    said = refusal(ENABLE_METRICS="true", PORT="9000", METRICS_PORT="9000")
    assert "METRICS_PORT=9000 is also EMBEDDING_PORT" in said


@pytest.mark.parametrize("host", ["localhost:80", "[::1]:80", "http://h", "a b", "*", "256.1.1.1"])
def test_a_host_with_anything_else_is_refused(host: str) -> None:
    assert f"EMBEDDING_HOST={host}: must be one address or one name" in refusal(EMBEDDING_HOST=host)


def test_a_host_is_bound_as_it_is_meant() -> None:
    assert bind_of("::1", 80) == ["[::1]:80"]
    assert bind_of("127.0.0.1", 80) == ["127.0.0.1:80"]
    assert addresses_of("::") in (["::"], ["::", "0.0.0.0"], ["0.0.0.0"])
    assert "127.0.0.1" in addresses_of("localhost")
    assert addresses_of("nosuch.invalid") == ["nosuch.invalid"]  # gunicorn says why not
    assert load_config({"HOST": "[::]"}, NOTHING).host == "::"
    both = load_config({"HOST": "::ffff:127.0.0.1", "METRICS_HOST": "[::FFFF:7f00:1]"}, NOTHING)
    assert (both.host, both.metrics_host) == ("127.0.0.1", "127.0.0.1")
    for name in ("HOST", "METRICS_HOST"):
        assert f"{name}=fe80::1%lo: must be an address without a zone" in refusal(
            **{name: "fe80::1%lo"}
        )


@pytest.mark.fault("Deployment")
def test_both_ports_listen_on_ipv6_and_ipv4(tmp_path: Path) -> None:
    """`HOST=::` -> both ports answer IPv6 and IPv4."""
    import requests

    port, metrics_port = free_port(), free_port()
    models = write_models(tmp_path / "m.json", {"f": {"type": "fake", "model_name": "tests/fake"}})
    env = {
        "HOST": "[::]", "METRICS_HOST": "::", "PORT": str(port), "METRICS_PORT": str(metrics_port),
        "ENABLE_METRICS": "true", "MODEL_CONFIG": str(models), "SUPPORTED_MODELS_FILE": "/x",
    }  # fmt: skip
    with running([sys.executable, "-m", "gunicorn", "app:app"], port, env):
        for host in ("127.0.0.1", "[::1]"):
            for url in (f"{host}:{port}/health/live", f"{host}:{metrics_port}/"):
                assert requests.get(f"http://{url}", timeout=30).status_code == 200, url
            local = f"http://{host}:{port}/settings"  # for this machine, however it comes
            assert requests.get(local, timeout=30).status_code == 200, local
