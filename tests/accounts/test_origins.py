"""What a page of another origin gets from a service that runs beside the browser: only what is for
every page, whatever it sends; and that programs, proxies and pages that are named lose nothing.
"""

import re
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from config import Config, ConfigError, load_config
from errors import Invalid
from factory import create_app
from routes import ROUTES
from settings.keys import parse
from tests.accounts.conftest import add_user, bearer
from tests.conftest import write_models

TOKEN = "let-me-administrate"
OURS = "http://localhost:8001"
HERE = {"SERVER_PORT": "8001", "REMOTE_ADDR": "127.0.0.1"}
FOREIGN = [
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
    {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site"},  # an image, a script, a link
    {"Origin": "http://evil.example"},  # an older browser, or plain HTTP to another machine
    {"Origin": "null"},
    {"Origin": "http://localhost:8002"},
]
FORGED = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Host": "evil.example",
          "X-Forwarded-Proto": "https", "Forwarded": "for=203.0.113.7"}  # fmt: skip
JUNK = [bearer("x"), {"X-API-Key": "x"}, {"api-key": "x"}, {"Authorization": "x"},
        {"Authorization": "Basic eDp5"}, {}]  # fmt: skip
STAINLESS = "authorization,content-type,x-stainless-os,x-stainless-retry-count,x-request-id"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """A service as it is installed, but for an ADMIN_TOKEN, that holds a collection."""
    folder = tmp_path_factory.mktemp("origins")
    models = write_models(folder / "m.json", {"fake": {"type": "fake", "model_name": "tests/fake"}})
    config = Config(
        model_config_file=models, supported_models_file=folder / "none", store_dir=folder / "store",
        data_dir=folder / "data", db_url=f"sqlite:///{folder}/db", admin_token=TOKEN,
    )  # fmt: skip
    app = create_app(config, wait=True)
    yield app
    app.extensions["services"].documents.store.close()


@pytest.fixture
def diary(service: Flask) -> Iterator[FlaskClient]:
    """A client on this machine; after the test the collection still holds what it held."""
    client = service.test_client()
    given = {"collection": "diary", "texts": ["my PIN is 1234"], "ids": ["pin"]}
    assert client.post("/embed-and-store", json=given, base_url=OURS).status_code == 201
    before = client.get("/collections", base_url=OURS).json
    yield client
    assert client.get("/collections", base_url=OURS).json == before
    assert client.delete("/collections/diary", base_url=OURS).status_code == 200


def call(
    client: FlaskClient, method: str, path: str, headers: dict, json: object = None, **at: str
):
    """Send what a page would send to this machine, by `Host: localhost:8001` unless `host` says."""
    host = at.pop("host", "localhost:8001")
    environ = {**HERE, **at}
    return client.open(
        path, method=method, json=json, headers={"Host": host, **headers}, environ_overrides=environ
    )


def leave(reply) -> list[str]:
    """The headers of a reply that let a page read it."""
    return [name for name in dict(reply.headers) if name.startswith("Access-Control-")]


def test_only_what_computes_or_is_public_to_read_is_for_every_page() -> None:
    """A new route is not, until somebody says so in the table and here."""
    assert {f"{row.method} {row.path}" for row in ROUTES if row.any_page} == {
        "POST /embed", "POST /batch-embed", "POST /embed/single", "POST /rerank",
        "POST /v1/embeddings", "POST /embeddings", "POST /openai/v1/embeddings",
        "POST /openai/deployments/<path:name>/embeddings",
        "POST /v1/embed", "POST /v2/embed", "POST /v1/rerank", "POST /v2/rerank",
        "POST /v1/tokenize", "POST /v1/detokenize", "POST /v1/check-api-key",
        "POST /v1/contextualizedembeddings", "POST /v1/multimodalembeddings",
        "POST /", "POST /invocations", "POST /vertex", "POST /embed_all", "POST /embed_sparse",
        "POST /predict", "POST /similarity", "POST /tokenize", "POST /decode",
        "POST /pooling", "POST /score", "POST /v1/score", "POST /detokenize",
        "POST /api/embed", "POST /api/embeddings", "POST /api/rerank", "POST /api/show",
        "POST /api/pull", "GET /api/tags", "GET /api/ps", "GET /api/version",
        "GET /v1/models", "GET /v1/models/<path:name>", "GET /models",
        "GET /models/<path:model_id>", "GET /model/info", "GET /info", "GET /health", "GET /ping",
        "GET /health/live", "GET /health/ready", "GET /", "GET /docs", "GET /redoc",
        "GET /static/<path:name>", "GET /openapi.json",
    }  # fmt: skip


@pytest.mark.fault("Other origins")
def test_no_page_of_another_origin_gets_at_what_is_stored(diary: FlaskClient) -> None:
    """In a browser on the service's machine a page of another origin calls any route of stored
    data, accounts or settings -> 401 or 403 without a header that lets the page read it; nothing is
    changed.
    """
    wrong = []
    for row in ROUTES:
        path = re.sub(r"<[^>]+>", "diary", row.path)
        for page in FOREIGN:
            reply = call(diary, row.method, path, page)
            refused = reply.status_code in (401, 403) and not leave(reply)
            if refused == row.any_page:
                wrong.append((row.method, row.path, page, reply.status_code, leave(reply)))
    assert wrong == []


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "192.0.2.7"])
@pytest.mark.parametrize("credential", JUNK)
def test_a_credential_that_is_good_for_nothing_opens_nothing(
    diary: FlaskClient, credential: dict, peer: str
) -> None:
    for page in FOREIGN:
        for forged in ({}, FORGED):
            headers = {**page, **credential, **forged}
            for method, path, body in (
                ("DELETE", "/collections/diary", None),
                ("POST", "/collections/diary/vectors/get", {"ids": ["pin"]}),
                ("POST", "/embed-and-store", {"collection": "diary", "texts": ["x"]}),
                ("POST", "/settings", {"key": "max_texts", "value": 9}),
            ):
                reply = call(diary, method, path, headers, body, REMOTE_ADDR=peer)
                assert reply.status_code in (401, 403), (headers, reply.text)
                assert "my PIN" not in reply.text


def test_a_refusal_says_what_to_do(diary: FlaskClient) -> None:
    reply = call(diary, "GET", "/collections", FOREIGN[1])
    assert "'http://localhost:3000' is not named in CORS_ORIGINS" in reply.json["error"]
    assert "ADMIN_TOKEN" in reply.json["error"]


def test_a_good_credential_opens_what_its_owner_may(
    diary: FlaskClient, make_app: Callable[..., Flask]
) -> None:
    page = FOREIGN[0]
    reply = call(diary, "GET", "/collections", {**page, **bearer(TOKEN)})
    assert reply.status_code == 200 and leave(reply)
    guarded = make_app().test_client()
    admin = bearer(_sign_in(guarded))
    reader = add_user(guarded, admin, "rita", "reader")
    listed = call(guarded, "GET", "/collections", {**page, **reader})
    assert listed.status_code == 200 and listed.headers["Access-Control-Allow-Origin"] == "*"
    assert call(guarded, "DELETE", "/collections/x", {**page, **reader}).status_code == 403
    assert call(guarded, "GET", "/collections", {**page, **bearer("x")}).status_code == 401
    guess = call(guarded, "POST", "/token", page, {"username": "admin", "password": "x" * 9})
    assert guess.status_code == 403, "a stranger's page guesses no passwords in our browser"


def _sign_in(client: FlaskClient) -> str:
    body = {"username": "admin", "password": "admin-password-1"}
    return client.post("/token", json=body).json["access_token"]


def test_pages_that_are_named_may_all_that_a_program_may(config_of: Callable[..., Config]) -> None:
    config = config_of(cors_origins="*, HTTP://Localhost:3000/")
    client = create_app(config, wait=True).test_client()
    named = {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}
    stored = call(client, "POST", "/embed-and-store", named, {"collection": "c", "texts": ["x"]})
    assert stored.status_code == 201
    assert stored.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert "Origin" in stored.headers["Vary"]
    assert call(client, "DELETE", "/collections/c", named).status_code == 200
    for other in ("http://localhost:3001", "https://localhost:3000", "http://localhost", "*"):
        reply = call(client, "GET", "/collections", {**named, "Origin": other})
        assert reply.status_code == 403 and not leave(reply), other
    assert call(client, "GET", "/settings", named).status_code == 401, "it is no admin for that"


def test_a_list_without_a_star_lets_nobody_else_in_whatever_they_send(
    config_of: Callable[..., Config],
) -> None:
    config = config_of(cors_origins=("https://a.example",), admin_token=TOKEN)
    client = create_app(config, wait=True).test_client()
    for path in ("/", "/models", "/collections", "/settings"):
        for headers in (FOREIGN[0], {**FOREIGN[0], **bearer(TOKEN)}):
            assert not leave(call(client, "GET", path, headers))
            assert not leave(_preflight(client, path, "GET", STAINLESS, Origin="https://b.example"))


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "192.0.2.7"])
def test_programs_lose_nothing(diary: FlaskClient, peer: str) -> None:
    """They send neither Origin nor Sec-Fetch-Site; Node's fetch sends Sec-Fetch-Mode."""
    for headers in ({}, {"Sec-Fetch-Mode": "cors"}, {"User-Agent": "curl/8.5.0"}):
        assert call(diary, "GET", "/collections", headers, REMOTE_ADDR=peer).status_code == 200


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_the_consoles_own_page_and_a_persons_own_address_bar_are_no_other_origin(
    diary: FlaskClient, site: str
) -> None:
    for host in ("localhost:8001", "127.0.0.1:8001", "[::1]:8001", "0.0.0.0:8001"):
        headers = {"Sec-Fetch-Site": site, "Origin": f"http://{host}"}
        assert call(diary, "GET", "/collections", headers, host=host).status_code == 200
    # behind a proxy that names this machine in Host the browser still says so
    headers = {"Sec-Fetch-Site": site, "Origin": "https://embed.example"}
    assert call(diary, "GET", "/collections", headers).status_code == 200


@pytest.mark.fault("Other origins")
def test_a_name_that_was_made_to_lead_here_opens_nothing(diary: FlaskClient) -> None:
    """A page uses DNS rebinding to call the service as its own origin, with or without forged
    `X-Forwarded-*` -> 403; nothing is read or changed.
    """
    for host in ("evil.example:8001", "localhost.evil.example:8001", "127.0.0.1.evil.example:8001",
                 "evil@localhost:8001", "evil.example", "local.evil.example.",
                 "evil.example:9000"):  # by a port that is forwarded here  # fmt: skip
        origin = {"Origin": f"http://{host}"}
        for headers in ({}, origin, {**origin, **JUNK[0]}, {"X-Forwarded-For": "::1"} | origin):
            for peer in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
                for method in ("GET", "DELETE"):
                    at = {"host": host, "REMOTE_ADDR": peer}
                    reply = call(diary, method, "/collections/diary", headers, **at)
                    assert reply.status_code == 403, (host, headers, peer)
                    assert "CORS_ORIGINS" in reply.json["error"], "it says what to do"


def test_believed_proxies_do_not_let_a_made_name_in(config_of: Callable[..., Config]) -> None:
    client = create_app(config_of(trusted_proxy_hops=1), wait=True).test_client()
    forged = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
    reply = call(client, "GET", "/collections", forged, host="evil.example:8001")
    assert reply.status_code == 403
    assert call(client, "GET", "/collections", forged, host="embed.example").status_code == 200


def test_every_name_that_a_person_may_call_this_machine_by_works(
    diary: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cors.own_names", lambda: {"box", "box.corp.example"})
    for host in (
        "localhost:8001", "LOCALHOST:8001", "127.0.0.1:8001", "127.1:8001", "[::1]:8001",
        "192.168.1.5:8001", "[fe80::1]:8001", "0.0.0.0:8001", "box:8001", "box.local:8001",
        "Box.Corp.Example:8001", "host.docker.internal:8001", "embedding:8001", "me.localhost:8001",
    ):  # fmt: skip
        assert call(diary, "GET", "/collections", {}, host=host).status_code == 200, host


def test_a_proxy_that_is_configured_passes_on_its_public_name(
    config_of: Callable[..., Config],
) -> None:
    client = create_app(config_of(trusted_proxy_hops=1), wait=True).test_client()
    for proxy in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Via"):
        for host in ("embed.example", "embed.example:8443"):
            headers = {proxy: "203.0.113.7"}
            assert call(client, "GET", "/collections", headers, host=host).status_code == 200
            headers["Origin"] = f"http://{host}"  # its console, over plain HTTP
            assert call(client, "GET", "/collections", headers, host=host).status_code == 200
            at = {"host": host, "REMOTE_ADDR": "127.0.0.6"}  # which is not in TRUSTED_PROXIES
            reply = call(client, "GET", "/collections", headers, **at)
            assert reply.status_code == 403 and "TRUSTED_PROXY_HOPS" in reply.json["error"]


def test_another_machine_may_call_this_one_by_any_name(diary: FlaskClient) -> None:
    at = {"host": "gpubox.corp.example:8001", "REMOTE_ADDR": "192.0.2.7"}
    assert call(diary, "GET", "/collections", {}, **at).status_code == 200


def test_a_host_that_is_named_is_known(config_of: Callable[..., Config]) -> None:
    config = config_of(cors_origins="*, http://embed.example:8001")
    client = create_app(config, wait=True).test_client()
    for host, status in (("embed.example:8001", 200), ("x.embed.example:8001", 403)):
        assert call(client, "GET", "/collections", {}, host=host).status_code == status


@pytest.mark.fault("Deployment")
def test_an_ipv4_caller_of_an_ipv6_socket_is_on_this_machine(diary: FlaskClient) -> None:
    """`HOST=::` and a caller on 127.0.0.1, seen as ::ffff:127.0.0.1 -> counts as local, so an
    admin.
    """
    for peer, host, status in (
        ("::ffff:127.0.0.1", "127.0.0.1:8001", 200), ("::1", "[::1]:8001", 200),
        ("::ffff:127.0.0.1", "[::ffff:7f00:1]:8001", 200), ("::ffff:192.0.2.7", "[::1]:8001", 401),
        ("::ffff:127.0.0.1", "evil.example:8001", 401),
    ):  # fmt: skip
        reply = call(diary, "GET", "/settings", {}, host=host, REMOTE_ADDR=peer)
        assert reply.status_code == status, (peer, host)
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert call(diary, "GET", "/settings", image).status_code == 401, "no Origin, and no admin"


def _preflight(client: FlaskClient, path: str, method: str, headers: str | None, **more: str):
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": method, **more}
    if headers is not None:
        asked["Access-Control-Request-Headers"] = headers
    return call(client, "OPTIONS", path, asked)


@pytest.mark.fault("Other origins")
def test_a_preflight_gives_leave_for_the_headers_that_an_sdk_sends(diary: FlaskClient) -> None:
    """A page uses OpenAI's SDK, which sends headers of its own -> the preflight allows the headers
    it asks for, up to 1,024 characters.
    """
    reply = _preflight(diary, "/v1/embeddings", "POST", STAINLESS)
    assert reply.headers["Access-Control-Allow-Headers"] == STAINLESS
    assert reply.headers["Access-Control-Allow-Methods"] == "POST"
    assert reply.headers["Access-Control-Max-Age"] == "600"
    assert "Access-Control-Allow-Credentials" not in reply.headers
    assert {"origin", "access-control-request-headers"} <= {v.lower() for v in reply.vary}
    for strange in ("x" * 1025, "a b", "a,,b", "a;b", "a\x7f", "é"):
        reply = _preflight(diary, "/v1/embeddings", "POST", strange)
        assert "Access-Control-Allow-Headers" not in reply.headers


def test_a_preflight_is_judged_by_the_route_that_it_asks_for(diary: FlaskClient) -> None:
    for method, path in (
        ("DELETE", "/collections/diary"), ("GET", "/collections"), ("POST", "/embed-and-store"),
        ("DELETE", "/collections/diary/vectors/delete"), ("POST", "/token"), ("GET", "/metrics"),
    ):  # fmt: skip
        assert not leave(_preflight(diary, path, method, "content-type"))
        for credential in ("X-API-Key", "Authorization", "api-key"):
            reply = _preflight(diary, path, method, f"Content-Type, {credential}")
            assert reply.headers["Access-Control-Allow-Origin"] == "*"
            assert reply.headers["Access-Control-Allow-Methods"] == method
    for method in ("PUT", "TRACE", "x"):
        reply = _preflight(diary, "/embed", method, None)
        assert "Access-Control-Allow-Methods" not in reply.headers


def test_only_a_page_that_is_named_comes_from_the_internet_into_a_private_network(
    config_of: Callable[..., Config],
) -> None:
    asked = {"Access-Control-Request-Private-Network": "true"}
    given = "Access-Control-Allow-Private-Network"
    for origins, allowed in (("*", None), ("*, https://a.example", "true")):
        client = create_app(config_of(cors_origins=origins), wait=True).test_client()
        reply = _preflight(client, "/embed", "POST", None, **asked)
        assert reply.headers.get(given) == allowed


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("http://b.example/", "http://b.example"),
        ("HTTPS://B.Example:443", "https://b.example"),
        ("http://b.example:80", "http://b.example"),
        ("http://b.example:443/", "http://b.example:443"),
        ("http://[0:0::1]:3000", "http://[::1]:3000"),
        ("http://[::1]", "http://[::1]"),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
        ('"http://b.example"', "http://b.example"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
    ],
)
def test_an_origin_is_read_as_browsers_send_it(written: str, sent: str) -> None:
    environ = {"CORS_ORIGINS": f" {written} ,{written}"}
    assert load_config(environ).cors_origins == (sent,)
    assert load_config({"CORS_ORIGINS": f'["*", "{written.strip(chr(34))}"]'}).cors_origins == (
        "*",
        sent,
    )
    assert parse("cors_origins", [written]) == ((sent,), [sent])


@pytest.mark.fault("Deployment")
@pytest.mark.parametrize(
    "origin",
    [
        "b.example", "localhost:3000", "//b.example", "http:b.example", "http://", "null",
        "http://b.example/app", "http://b.example?x", "http://b.example#x", "http://u:p@b.example",
        "http://*.b.example", "*.b.example", "http://b .example", "http://b.example:99999",
        "http://b.example:x", "file:///srv", "ws://b.example", "http://bücher.example",
        "http://1.2.3", "http://[::g]", "http://b..example",
    ],
)  # fmt: skip
def test_an_origin_that_no_browser_sends_stops_the_start(origin: str) -> None:
    """CORS_ORIGINS holds what no browser sends as an origin: a path, a user, `null`,
    `*.example.org`, no scheme -> the start, or the change, is refused and says what an origin is.
    """
    with pytest.raises(ConfigError, match=r"CORS_ORIGINS.*item 2 .*scheme://host\[:port\]"):
        load_config({"CORS_ORIGINS": f"*,{origin}"})
    with pytest.raises(Invalid, match=r"item 2 .*scheme://host\[:port\]"):
        parse("cors_origins", ["*", origin])
