"""Sessions of the console: a cookie that only pages of the service itself may use."""

import time
from collections.abc import Callable
from http.cookies import SimpleCookie

import jwt
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from accounts.tokens import ALGORITHM, ISSUER
from tests.accounts.conftest import ADMIN, SECRET, accounts_of, add_user, bearer

HOST = "box:8001"
OWN = {"Host": HOST, "Sec-Fetch-Site": "same-origin"}
PLAIN = {"Host": HOST, "Origin": f"http://{HOST}"}  # over plain HTTP there is no Sec-Fetch-Site
ADA = {"username": "admin", "password": ADMIN[1]}
AWAY = {"REMOTE_ADDR": "192.0.2.7"}


def call(client: FlaskClient, method: str, path: str, headers: dict, **more) -> TestResponse:
    return client.open(path, method=method, headers=headers, environ_overrides=AWAY, **more)


def sign_in(app: Flask, body: dict = ADA, headers: dict = PLAIN) -> tuple[FlaskClient, str]:
    """A browser that signed in, which sends no cookie by itself, and its `Cookie` header."""
    browser = app.test_client(use_cookies=False)
    reply = call(browser, "POST", "/session", headers, json=body)
    assert reply.status_code == 200, reply.text
    return browser, cookie_of(reply)


def cookie_of(reply: TestResponse) -> str:
    return reply.headers["Set-Cookie"].partition(";")[0]


def who(client: FlaskClient, headers: dict) -> str | None:
    return call(client, "GET", "/session", headers).json["username"]


def test_the_cookie_is_for_this_host_over_http_and_for_no_script(app: Flask) -> None:
    reply = call(app.test_client(), "POST", "/session", PLAIN, json=ADA)
    name, morsel = next(iter(SimpleCookie(reply.headers["Set-Cookie"]).items()))
    assert name == "embedding-session-8001"  # a service on another port has its own
    assert morsel["httponly"] and morsel["samesite"] == "Strict" and morsel["path"] == "/"
    assert (morsel["max-age"], morsel["secure"], morsel["domain"]) == ("3600", "", "")
    assert reply.headers["Cache-Control"] == "no-store"
    assert morsel.value not in reply.text
    assert reply.json == {
        "username": "admin", "role": "admin", "collections": None, "auth_enabled": True,
        "signed_in": True, "takes": ["password", "key"],
    }  # fmt: skip


@pytest.mark.parametrize(
    "headers", [{"Host": "box.example", "Origin": "https://box.example"}, {**OWN, "Origin": ""}]
)
def test_over_tls_the_cookie_is_for_tls_alone(app: Flask, headers: dict) -> None:
    """Whether TLS ends at a proxy that tells only the browser, or here."""
    tls = {} if headers["Origin"] else {"base_url": f"https://{HOST}"}
    headers = {name: value for name, value in headers.items() if value}
    reply = call(app.test_client(), "POST", "/session", headers, json=ADA, **tls)
    assert "Secure" in reply.headers["Set-Cookie"]


def test_a_page_of_the_service_uses_it(app: Flask) -> None:
    browser, cookie = sign_in(app)
    for page in (
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "same-origin", "Origin": f"http://{HOST}"},
        {"Origin": f"http://{HOST}"},
        {"Origin": f"https://{HOST}"},  # a proxy that ends TLS and passes the name on
        {"Referer": f"http://{HOST}/"},
    ):
        headers = {"Host": HOST, "Cookie": cookie, **page}
        assert who(browser, headers) == "admin", page
        reply = call(browser, "GET", "/users", headers)
        assert (reply.status_code, reply.headers["Cache-Control"]) == (200, "no-store")


STRANGE = [
    {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://box:3000"},
    {"Sec-Fetch-Site": "same-site", "Referer": f"http://{HOST}/"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "none"},  # an address that was typed
    {"Sec-Fetch-Site": ""},
    {"Origin": "http://box:3000"},
    {"Origin": "null"},
    {"Origin": "null", "Referer": f"http://{HOST}/"},
    {"Origin": f"http://{HOST}.evil.example"},
    {"Referer": "http://box:3000/"},
    {"Referer": f"http://evil.example/http://{HOST}/"},
    {"Referer": f"http://{HOST}@evil.example/"},
    {"Referer": f"//{HOST}/"},
    {"Referer": ""},
    {},  # an old browser's image, or a program
]


@pytest.mark.fault("Other origins")
def test_no_other_page_uses_it(app: Flask) -> None:
    """A page of another origin, or of another port of this host, calls a service whose console is
    signed in, and the browser sends the cookie -> it counts for nothing, whether to read, to change
    or by a form.
    """
    browser, cookie = sign_in(app)
    for page in STRANGE:
        headers = {"Host": HOST, "Cookie": cookie, **page}
        for method, path, sent in [
            ("GET", "/users", {}), ("GET", "/collections", {}), ("DELETE", "/users/admin", {}),
            ("POST", "/users", {"data": {"username": "eve", "password": "eve-password-1"}}),
            ("POST", "/embed", {"json": {"texts": "one"}}),
            ("POST", "/embed", {"data": '{"texts": "one"}', "content_type": "text/plain"}),
        ]:  # fmt: skip
            reply = call(browser, method, path, headers, **sent)
            assert reply.status_code in (401, 403), (page, method, path, reply.text)
            assert "Access-Control-Allow-Credentials" not in reply.headers
    assert [user.username for user in accounts_of(app).users.list()] == ["admin"]


def test_no_other_page_signs_a_browser_in_or_out(app: Flask) -> None:
    browser = app.test_client()
    sent_with_these = [one for one in STRANGE if {"Sec-Fetch-Site", "Origin"} & one.keys()]
    for page in sent_with_these:
        if page.get("Sec-Fetch-Site") == "none":
            continue  # nobody types a POST
        for method, sent in (("POST", {"json": ADA}), ("POST", {"data": ADA}), ("DELETE", {})):
            reply = call(browser, method, "/session", {"Host": HOST, **page}, **sent)
            assert (reply.status_code, "Set-Cookie" in reply.headers) == (403, False), page


def test_a_named_origin_signs_no_browser_in(make_app: Callable[..., Flask]) -> None:
    app = make_app(cors_origins=("https://app.example",))
    named = {"Host": HOST, "Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}
    reply = call(app.test_client(), "POST", "/session", named, json=ADA)
    assert (reply.status_code, "Set-Cookie" in reply.headers) == (403, False)
    browser, cookie = sign_in(app)
    assert call(browser, "GET", "/users", {**named, "Cookie": cookie}).status_code == 401


def test_a_preflight_allows_no_cookies(app: Flask) -> None:
    asked = {"Host": HOST, "Origin": "http://box:3000", "Access-Control-Request-Method": "POST",
             "Access-Control-Request-Headers": "content-type"}  # fmt: skip
    reply = call(app.test_client(), "OPTIONS", "/session", asked)
    assert "Access-Control-Allow-Credentials" not in reply.headers
    assert "Access-Control-Allow-Origin" not in reply.headers


def test_a_header_counts_before_the_cookie(app: Flask, client: FlaskClient) -> None:
    browser, cookie = sign_in(app)
    admin = {**OWN, "Cookie": cookie}
    reply = call(browser, "POST", "/users", admin, json={**ADA, "username": "uma"})
    assert reply.status_code == 201
    key = call(browser, "POST", "/users/uma/api-key", admin).json["api_key"]
    assert who(browser, {**admin, **bearer(key)}) == "uma"
    assert call(browser, "GET", "/users", {**admin, **bearer(key)}).status_code == 403
    for wrong in (bearer("wrong"), {"X-API-Key": "wrong"}, {"api-key": "wrong"}):
        assert call(browser, "GET", "/users", {**admin, **wrong}).status_code == 401
    empty = {"Authorization": "Bearer ", "X-API-Key": ""}  # as Dify sends
    assert call(browser, "GET", "/users", {**admin, **empty}).status_code == 200


def signed(secret: str = SECRET, **changes: object) -> str:
    now = int(time.time())
    claims = {"sub": "admin", "ver": 1, "iat": now, "nbf": now, "exp": now + 3600, "jti": "x",
              "iss": ISSUER, "aud": ISSUER, **changes}  # fmt: skip
    return jwt.encode(claims, secret, ALGORITHM, headers={"kid": "key/API_KEY_SECRET"})


def test_an_expired_or_forged_cookie_counts_for_nothing_and_goes(app: Flask) -> None:
    browser, cookie = sign_in(app)
    name, _, token = cookie.partition("=")
    version = accounts_of(app).users.require("admin").token_version
    kid = jwt.get_unverified_header(token)["kid"]
    now = int(time.time())
    old = {"sub": "admin", "ver": version, "iat": now - 3700, "nbf": now - 3700, "exp": now - 100,
           "jti": "x", "iss": ISSUER, "aud": ISSUER}  # fmt: skip
    forged = [
        jwt.encode(old, SECRET, ALGORITHM, headers={"kid": kid}),
        jwt.encode(old | {"exp": now + 3600}, "another" * 9, ALGORITHM, headers={"kid": kid}),
        jwt.encode(old | {"exp": now + 90000}, SECRET, ALGORITHM, headers={"kid": kid}),
        jwt.encode(old | {"exp": now + 3600}, None, "none", headers={"kid": kid}),
        signed(ver=version), token[:-2], token + "x", "", "x" * 5000, "admin",
    ]  # fmt: skip
    for value in forged:
        headers = {**OWN, "Cookie": f"{name}={value}"}
        reply = call(browser, "GET", "/session", headers)
        assert (reply.json["username"], reply.json["signed_in"]) == (None, False), value
        assert ("Max-Age=0" in reply.headers.get("Set-Cookie", "")) == bool(value)
        assert call(browser, "GET", "/users", headers).status_code == 401
    assert who(browser, {**OWN, "Cookie": f"embedding-session-9={token}"}) is None


def test_signing_out_takes_the_cookie_from_this_browser_alone(app: Flask) -> None:
    browser, cookie = sign_in(app)
    other, others = sign_in(app)
    reply = call(browser, "DELETE", "/session", {**OWN, "Cookie": cookie})
    assert reply.json == {"signed_in": False}
    assert "Max-Age=0" in reply.headers["Set-Cookie"] and cookie_of(reply).endswith("=")
    assert who(other, {**OWN, "Cookie": others}) == "admin"


def test_a_foreign_cookie_of_the_name_locks_nobody_out(app: Flask) -> None:
    """A service of the same domain may have set one, which the browser sends first."""
    browser, cookie = sign_in(app)
    name = cookie.partition("=")[0]
    gone = accounts_of(app).tokens.issue("nobody", 1)
    for foreign in ("x", "", "a.b.c", signed("another-secret-that-is-long-enough-too"), gone):
        for both in (f"{name}={foreign}; {cookie}", f"{cookie}; {name}={foreign}"):
            headers = {**OWN, "Cookie": both}
            assert who(browser, headers) == "admin", foreign
            assert call(browser, "GET", "/users", headers).status_code == 200
        assert who(browser, {**OWN, "Cookie": f"{name}={foreign}; {name}=y"}) is None


def test_a_page_that_came_without_tls_is_another_than_one_over_it(app: Flask) -> None:
    """Where it is known that the browser called over TLS: by a proxy's word, true or not."""
    browser, cookie = sign_in(app)
    plain, tls = f"http://{HOST}", f"https://{HOST}"
    for by, page, known in [
        ({}, plain, True), ({}, tls, True), ({"X-Forwarded-Proto": "http"}, plain, True),
        ({"X-Forwarded-Proto": "https, http"}, tls, True),
        ({"X-Forwarded-Proto": "https, http"}, plain, False),
    ]:  # fmt: skip
        headers = {"Host": HOST, "Cookie": cookie, "Origin": page, **by}
        reply = call(browser, "GET", "/users", headers)
        assert (reply.status_code == 200) == known, (by, page)
    for page, known in ((tls, True), (plain, False)):
        headers = {"Host": HOST, "Cookie": cookie, "Origin": page}
        reply = browser.get("/users", base_url=f"https://{HOST}", headers=headers)
        assert (reply.status_code == 200) == known, page


@pytest.mark.parametrize("ends", ["deleted", "another password"])
def test_it_ends_with_its_user_or_password(app: Flask, admin: dict, ends: str) -> None:
    add_user(app.test_client(), admin, "uma")
    browser, cookie = sign_in(app, {"username": "uma", "password": "uma-password-1"})
    mine = {**OWN, "Cookie": cookie}
    assert who(browser, mine) == "uma"
    if ends == "deleted":
        call(browser, "DELETE", "/users/uma", admin)
        add_user(app.test_client(), admin, "uma")  # another of this name
    else:
        body = {"password": "uma-password-2", "current_password": "uma-password-1"}
        assert call(browser, "POST", "/users/uma/password", mine, json=body).status_code == 200
    assert who(browser, mine) is None
    assert call(browser, "GET", "/collections", mine).status_code == 401


def test_with_a_key_it_may_what_the_key_may_and_ends_with_it(
    app: Flask, client: FlaskClient, admin: dict
) -> None:
    add_user(client, admin, "uma")
    limits = {"role": "reader", "collections": ["docs"]}
    made = client.post("/users/uma/api-key", headers=admin, json=limits).json
    browser, cookie = sign_in(app, {"key": made["api_key"]})
    mine = {**OWN, "Cookie": cookie}
    assert made["api_key"] not in cookie
    told = call(browser, "GET", "/session", mine).json
    assert (told["username"], told["role"], told["collections"]) == ("uma", "reader", ["docs"])
    assert call(browser, "POST", "/users/uma/api-key", mine).status_code == 403
    assert call(browser, "GET", "/collections/others", mine).status_code == 403
    reply = client.delete(f"/users/uma/api-keys/{made['id']}", headers=admin)
    assert reply.status_code == 200
    assert who(browser, mine) is None


def test_nobody_prolongs_one(app: Flask) -> None:
    """What is made of a token, a key's or a user's, is that token."""
    browser, cookie = sign_in(app)
    token = cookie.partition("=")[2]
    assert cookie_of(call(browser, "POST", "/session", PLAIN, json={"key": token})) == cookie
    key = call(browser, "POST", "/users/admin/api-key", bearer(token)).json["api_key"]
    browser, cookie = sign_in(app, {"key": key})
    token = cookie.partition("=")[2]
    assert cookie_of(call(browser, "POST", "/session", PLAIN, json={"key": token})) == cookie


def test_the_fixed_key_signs_in_without_a_secret_for_signing(
    make_app: Callable[..., Flask],
) -> None:
    fixed = "a-key-of-16-char"
    app = make_app(jwt_secret_key=None, api_key_secret=fixed)
    browser, cookie = sign_in(app, {"key": fixed})
    assert fixed not in cookie
    told = call(browser, "GET", "/session", {**OWN, "Cookie": cookie}).json
    assert (told["role"], told["takes"], told["signed_in"]) == ("user", ["key"], True)
    later = make_app(jwt_secret_key=None, api_key_secret=fixed)  # a restart, or another worker
    assert (
        who(later.test_client(use_cookies=False), {**OWN, "Cookie": cookie}) == "key/API_KEY_SECRET"
    )
    changed = make_app(jwt_secret_key=None, api_key_secret="another-of-16-ch")
    assert who(changed.test_client(use_cookies=False), {**OWN, "Cookie": cookie}) is None
    reply = call(browser, "POST", "/session", PLAIN, json=ADA)
    assert reply.status_code == 409 and "JWT_SECRET_KEY" in reply.json["error"]


def test_nobody_passes_for_the_fixed_key(make_app: Callable[..., Flask]) -> None:
    """Neither what signs for users signs for it, nor it for a user."""
    app = make_app(api_key_secret="a-key-of-16-char")
    browser, cookie = sign_in(app, {"key": "a-key-of-16-char"})
    name, _, token = cookie.partition("=")
    claims = jwt.decode(token, options={"verify_signature": False})
    users = accounts_of(app).tokens.signer("admin")
    for subject, kid in (("key/API_KEY_SECRET", users), ("admin", "key/API_KEY_SECRET")):
        key = accounts_of(app).tokens._secret(kid)
        forged = jwt.encode(claims | {"sub": subject}, key, ALGORITHM, headers={"kid": kid})
        assert who(browser, {**OWN, "Cookie": f"{name}={forged}"}) is None


def test_admin_token_signs_in_where_nobody_has_to(make_app: Callable[..., Flask]) -> None:
    admin_token = "let-me-administrate"
    app = make_app(auth_enabled=False, admin_token=admin_token, jwt_secret_key="short")
    stranger = app.test_client()
    told = call(stranger, "GET", "/session", OWN).json
    assert (told["username"], told["role"]) == ("192.0.2.7", "anonymous")
    assert (told["signed_in"], told["takes"]) == (False, ["admin_token"])
    assert call(stranger, "POST", "/session", PLAIN, json={"key": "wrong"}).status_code == 401
    assert call(stranger, "POST", "/session", PLAIN, json=ADA).status_code == 409
    browser, cookie = sign_in(app, {"key": admin_token})
    mine = {**OWN, "Cookie": cookie}
    assert call(browser, "GET", "/settings", mine).status_code == 200
    told = call(browser, "GET", "/session", mine).json
    assert (told["role"], told["signed_in"]) == ("admin", True)
    assert call(browser, "GET", "/settings", {**mine, "Sec-Fetch-Site": "same-site"}).status_code \
        in (401, 403)  # fmt: skip
    without = make_app(auth_enabled=False)
    told = call(without.test_client(use_cookies=False), "GET", "/session", mine).json
    assert (told["role"], told["signed_in"], told["takes"]) == ("anonymous", False, [])


@pytest.mark.parametrize("body", [
    {}, {"username": "admin"}, {"password": "x"}, {"username": "admin", "password": ""},
    {"key": ""}, {"key": "x", "username": "admin", "password": ADMIN[1]}, {"key": ["x"]},
])  # fmt: skip
def test_half_a_sign_in_is_told(app: Flask, body: dict) -> None:
    reply = call(app.test_client(), "POST", "/session", PLAIN, json=body)
    assert (reply.status_code, "Set-Cookie" in reply.headers) == (422, False)


def test_wrong_passwords_are_counted_with_those_of_tokens(app: Flask) -> None:
    browser = app.test_client()
    wrong = {"username": "admin", "password": "not-this-one"}
    for path in ("/token", "/session", "/session", "/token", "/session"):
        assert call(browser, "POST", path, PLAIN, json=wrong).status_code == 401
    reply = call(browser, "POST", "/session", PLAIN, json=ADA)
    assert reply.status_code == 429 and int(reply.headers["Retry-After"]) > 0
