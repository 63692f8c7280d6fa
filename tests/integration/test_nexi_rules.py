"""What Nexi rejects, the sandbox's Nexi rejects: a row per rule of the contract.

The client here shares nothing with the layer: requests and http.client, and assertions that joserfc makes.
"""

import base64
import http.client
import json
import ssl
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from joserfc import jwe, jws
from joserfc.jwk import RSAKey
from lines import Lines

from sandbox.authority import Authority, Issued
from sandbox.nexi import Nexi
from sandbox.rules import App

TOKEN = "/softpos/appenrollment/token"
KEYS = "/softpos/par/jwks.json"
PAR = "/softpos/as/par"
NOW = 1_800_000_000
FORM = "application/x-www-form-urlencoded"


class Clock:
    """Nexi's clock: it stands still unless a test moves it."""

    def __init__(self) -> None:
        self.now: float = NOW + 0.25

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    """A Nexi with two apps, and a client of the first."""

    nexi: Nexi
    clock: Clock
    app: App
    other_app: App
    authority: Authority
    developer: Issued
    second: Issued
    """Registered for the same app."""
    others: Issued
    """Registered for the other app."""
    strangers: Issued
    """Of the right authority, registered for nobody."""
    folder: Path
    sessions: dict[str, requests.Session] = field(default_factory=dict)

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def call(
        self,
        method: str,
        path: str,
        form: Any = None,
        headers: dict[str, str] | None = None,
        shown: Issued | None = None,
    ) -> requests.Response:
        """One request with a client certificate."""
        session = self.session(shown or self.developer)
        return session.request(method, self.nexi.base_url + path, data=form, headers=headers, timeout=10)

    def session(self, shown: Issued) -> requests.Session:
        """The kept-alive session of a certificate."""
        if shown.thumbprint not in self.sessions:
            session = self.sessions[shown.thumbprint] = requests.Session()
            session.trust_env = False
            session.verify = self.file("authority.pem", self.authority.certificate_pem)
            session.cert = self.file(f"{shown.thumbprint}.pem", shown.certificate_pem + shown.key_pem)
        return self.sessions[shown.thumbprint]

    def token_form(self, **changes: str | None) -> dict[str, str]:
        right = {
            "grant_type": "client_credentials",
            "client_id": self.app.client_id,
            "client_secret": self.app.client_secret,
        }
        return {name: value for name, value in {**right, **changes}.items() if value is not None}

    def ask(self, **changes: str | None) -> requests.Response:
        """The token call, with other form fields; one that is None is left away."""
        return self.call("POST", TOKEN, self.token_form(**changes))

    def bearer(self, app: App | None = None, shown: Issued | None = None) -> str:
        app = app or self.app
        form = self.token_form(client_id=app.client_id, client_secret=app.client_secret)
        return str(self.call("POST", TOKEN, form, shown=shown).json()["access_token"])

    def claims(self, **changes: Any) -> dict[str, Any]:
        """The right claims with other values; one that is ABSENT is left away."""
        right = {
            "appId": self.app.client_id,
            "pointOfSale": "POS1",
            "terminal_ids": ["S1", "M1"],
            "app_username_merchant": "operator@example.com",
            "app_deviceid": "device",
            "iss": self.app.client_id,
            "sub": self.app.client_id,
            "aud": self.nexi.base_url,
            "iat": NOW,
            "exp": NOW + 300,
            "jti": str(uuid.uuid4()),
        }
        return {name: value for name, value in {**right, **changes}.items() if value is not ABSENT}

    def sign(self, payload: Any, header: dict[str, Any] | None = None, by: Issued | None = None) -> str:
        key = RSAKey.import_key((by or self.developer).key_pem)
        header = header or {"alg": "RS256"}
        text = payload if isinstance(payload, str) else json.dumps(payload)
        # joserfc guards its header members; what a test wants to send is for Nexi to judge.
        registry = jws.JWSRegistry(algorithms=[header["alg"]], strict_check_header=False)
        return jws.serialize_compact(header, text, key, registry=registry)

    def encryption_key(self, position: int = 0) -> dict[str, Any]:
        keys = self.call("GET", KEYS).json()["keys"]
        found: dict[str, Any] = [key for key in keys if key["use"] == "enc"][position]
        return found

    def encrypt(self, plaintext: str, header: dict[str, Any] | None = None, key: dict[str, Any] | None = None) -> str:
        protected = {"alg": "RSA-OAEP-256", "enc": "A128CBC-HS256", **(header or {})}
        usable = {name: value for name, value in (key or self.encryption_key()).items() if name in ("kty", "n", "e")}
        registry = jwe.JWERegistry(algorithms=[protected["alg"], protected["enc"], "DEF"], strict_check_header=False)
        return jwe.encrypt_compact(protected, plaintext, RSAKey.import_key(usable), registry=registry)

    def seal(self, claims: dict[str, Any]) -> str:
        return self.encrypt(self.sign(claims))

    def push(
        self,
        assertion: str | None = None,
        *,
        form: dict[str, str | None] | None = None,
        authorization: str | None = "",
        shown: Issued | None = None,
        **claims: Any,
    ) -> requests.Response:
        """PAR, right but for what is given."""
        right = {
            "client_assertion": self.seal(self.claims(**claims)) if assertion is None else assertion,
            "client_id": self.app.client_id,
            "scope": "oidc",
            "redirect_uri": self.app.redirect_uri,
        }
        fields = {name: value for name, value in {**right, **(form or {})}.items() if value is not None}
        if authorization == "":
            authorization = f"Bearer {self.bearer(shown=shown)}"
        headers = {"Authorization": authorization} if authorization else {}
        return self.call("POST", PAR, fields, headers, shown)


ABSENT = object()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    authority = Authority()
    developer, second, others = (authority.developer(name) for name in ("APP", "APP2", "OTHER"))
    points_of_sale = {"POS1": {"S1": "softpos", "S2": "softpos", "M1": "mpos"}, "POS2": {"S9": "softpos"}}
    app = App("app-1", "secret-1", "https://a.example/cb", {}, points_of_sale, {"operator@example.com"})
    other_app = App("app-2", "secret-2", "https://b.example/cb", {}, {"POS3": {"S8": "softpos"}}, {"b@example.com"})
    for each in (developer, second):
        app.register(each.certificate, each.thumbprint)
    other_app.register(others.certificate, others.thumbprint)
    clock = Clock()
    nexi = Nexi(authority, [app, other_app], now=clock)
    nexi.start()
    folder = tmp_path_factory.mktemp("nexi")
    strangers = authority.developer("STRANGER")
    world = World(nexi, clock, app, other_app, authority, developer, second, others, strangers, folder)
    yield world
    for session in world.sessions.values():
        session.close()
    nexi.stop()


@pytest.fixture(autouse=True)
def _clock_stands_still(world: World) -> None:
    world.clock.now = NOW + 0.25
    world.nexi.token_seconds = 3600


# ---------------------------------------------------------------- what is accepted


def test_the_token_lives_an_hour(world: World) -> None:
    response = world.ask()
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("application/json")
    answer = response.json()
    assert answer["token_type"] == "Bearer"
    assert answer["expires_in"] == 3600
    assert len(answer["access_token"]) >= 32


def test_the_jwks_holds_a_signing_key_first_and_two_to_encrypt_to_and_nothing_private(world: World) -> None:
    keys = world.call("GET", KEYS).json()["keys"]
    assert [key["use"] for key in keys] == ["sig", "enc", "enc"]
    assert all(set(key) == {"kty", "use", "kid", "n", "e"} for key in keys)


ACCEPTED: dict[str, Callable[[World], requests.Response]] = {
    "the headers of Nexi's samples": lambda w: w.push(w.encrypt(w.sign(w.claims(), {"alg": "RS256"}))),
    "the full headers": lambda w: w.push(
        w.encrypt(
            w.sign(w.claims(), {"alg": "RS256", "typ": "JWT"}), {"kid": w.encryption_key()["kid"], "cty": "JWT"}
        )
    ),
    "the second encryption key, with its kid": lambda w: w.push(
        w.encrypt(w.sign(w.claims()), {"kid": w.encryption_key(1)["kid"]}, w.encryption_key(1))
    ),
    "the second encryption key, without its kid": lambda w: w.push(
        w.encrypt(w.sign(w.claims()), key=w.encryption_key(1))
    ),
    "one SoftPOS": lambda w: w.push(terminal_ids=["S1"]),
    "one MPOS": lambda w: w.push(terminal_ids=["M1"]),
    "a SoftPOS before an MPOS": lambda w: w.push(terminal_ids=["S2", "M1"]),
    "several scopes": lambda w: w.push(form={"scope": "openid oidc email profile phone address"}),
    "iat of this very second": lambda w: w.push(iat=NOW, exp=NOW + 300),
    "iat that is late": lambda w: w.push(iat=NOW - 120, exp=NOW + 180),
    "a lifetime of 900 seconds": lambda w: w.push(iat=NOW, exp=NOW + 900),
    "exp of the next second": lambda w: w.push(iat=NOW - 10, exp=NOW + 1),
    "the app's second certificate": lambda w: w.push(
        w.encrypt(w.sign(w.claims(), by=w.second)), shown=w.second
    ),
    "a content type with a charset": lambda w: w.call(
        "POST", TOKEN, w.token_form(), {"Content-Type": f"{FORM}; charset=UTF-8"}
    ),
}  # a row per rule reads best in one place # fmt: skip


@pytest.mark.parametrize("rule", ACCEPTED)
def test_nexi_accepts(rule: str, world: World, nexi_lines: Lines) -> None:
    response = ACCEPTED[rule](world)

    assert response.status_code in (200, 201), nexi_lines.text
    if response.status_code == 201:
        assert set(response.json()) == {"request_uri", "expires_in"}
        assert response.json()["request_uri"].startswith("urn:softpos_")
        assert response.json()["expires_in"] == 90


# ---------------------------------------------------------------- what is not

BAD_REQUEST = {"statusCode": None}
UNAUTHORIZED = {"errcode": "401", "errmsg": "Unauthorized"}
FORBIDDEN = {"errcode": "403", "errmsg": "Forbidden"}


def _none(world: World) -> str:
    """An unsigned JWS: no library makes one by accident."""
    segments = [{"alg": "none"}, world.claims()]
    return (
        ".".join([base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode() for each in segments]) + "."
    )


def _expired_token(world: World) -> requests.Response:
    bearer = world.bearer()
    world.clock.now += 3600
    return world.push(authorization=f"Bearer {bearer}")


def _revoked_token(world: World) -> requests.Response:
    bearer = world.bearer()
    world.nexi.revoke_tokens()
    return world.push(authorization=f"Bearer {bearer}")


def _foreign_token(world: World) -> requests.Response:
    return world.push(authorization=f"Bearer {world.bearer(world.other_app, world.others)}")


def _token_of_the_other_certificate(world: World) -> requests.Response:
    return world.push(authorization=f"Bearer {world.bearer(shown=world.second)}")


def _assertion_twice(world: World) -> requests.Response:
    assertion = world.seal(world.claims())
    assert world.push(assertion).status_code == 201
    return world.push(assertion)


def _jti_twice(world: World) -> requests.Response:
    jti = str(uuid.uuid4())
    assert world.push(jti=jti).status_code == 201
    return world.push(jti=jti)


def _signing_key(world: World, *, kid: bool) -> requests.Response:
    (key,) = (each for each in world.call("GET", KEYS).json()["keys"] if each["use"] == "sig")
    return world.push(world.encrypt(world.sign(world.claims()), {"kid": key["kid"]} if kid else None, key))


def _rotated_out(world: World, *, kid: bool) -> requests.Response:
    key = world.encryption_key()
    world.nexi.rotate_keys()
    return world.push(world.encrypt(world.sign(world.claims()), {"kid": key["kid"]} if kid else None, key))


def _kid_of_the_other_key(world: World) -> requests.Response:
    header = {"kid": world.encryption_key(1)["kid"]}
    return world.push(world.encrypt(world.sign(world.claims()), header, world.encryption_key(0)))


def _garbled(world: World) -> requests.Response:
    head, key, iv, text, tag = world.seal(world.claims()).split(".")
    return world.push(".".join([head, key, iv, ("A" if text[0] != "A" else "B") + text[1:], tag]))


def _posted(world: World, body: str, content_type: str = FORM) -> requests.Response:
    return world.call("POST", TOKEN, body, {"Content-Type": content_type})


def _twice(world: World) -> requests.Response:
    return world.call("POST", TOKEN, [*world.token_form().items(), ("client_id", world.app.client_id)])


TOO_DEEP = base64.urlsafe_b64encode(b"[" * 30_000).rstrip(b"=").decode() + ".a.a.a.a"

REJECTED: dict[str, tuple[Callable[[World], requests.Response], int, str, dict[str, Any]]] = {
    # the certificate
    "token: a certificate that is no app's": (
        lambda w: w.call("POST", TOKEN, w.token_form(), shown=w.strangers), 403, "certificate", FORBIDDEN),
    "keys: a certificate that is no app's": (
        lambda w: w.call("GET", KEYS, shown=w.strangers), 403, "certificate", FORBIDDEN),
    "PAR: a certificate that is no app's": (
        lambda w: w.push(shown=w.strangers, authorization=f"Bearer {w.bearer()}"), 403, "certificate", FORBIDDEN),
    # the token call
    "another client secret": (
        lambda w: w.ask(client_secret="secret-2"), 401, "client-credentials", {"error": "invalid_client"}),
    "another client id": (
        lambda w: w.ask(client_id="app-2"), 401, "client-credentials", {"error": "invalid_client"}),
    "another app's id and secret": (
        lambda w: w.ask(client_id="app-2", client_secret="secret-2"),
        401, "client-credentials", {"error": "invalid_client"}),
    "another grant type": (
        lambda w: w.ask(grant_type="password"), 400, "grant-type", {"error": "unsupported_grant_type"}),
    "JSON in place of a form": (
        lambda w: _posted(w, json.dumps(w.token_form()), "application/json"), 400, "content-type", BAD_REQUEST),
    "a form that does not say so": (lambda w: _posted(w, "a=b", ""), 400, "content-type", BAD_REQUEST),
    "a body that is no form": (lambda w: _posted(w, "hello"), 400, "form", BAD_REQUEST),
    "a body that is empty": (lambda w: _posted(w, ""), 400, "form-fields", BAD_REQUEST),
    "a body that is not ASCII": (lambda w: _posted(w, "a=\u00e8"), 400, "form", BAD_REQUEST),
    "a form of too many fields": (lambda w: _posted(w, "&".join(["a=b"] * 21)), 400, "form", BAD_REQUEST),
    "token: a field that is missing": (lambda w: w.ask(client_id=None), 400, "form-fields", BAD_REQUEST),
    "token: a field that is unknown": (lambda w: w.ask(scope="oidc"), 400, "form-fields", BAD_REQUEST),
    "token: a field that is empty": (lambda w: w.ask(client_secret=""), 400, "form-field-empty", BAD_REQUEST),
    "token: a field that comes twice": (_twice, 400, "form-field-twice", BAD_REQUEST),
    # PAR's token
    "no token": (lambda w: w.push(authorization=None), 401, "token-missing", UNAUTHORIZED),
    "a token that is empty": (lambda w: w.push(authorization="Bearer"), 401, "token-missing", UNAUTHORIZED),
    "basic authentication": (lambda w: w.push(authorization="Basic YTpi"), 401, "token-missing", UNAUTHORIZED),
    "a token that nobody gave out": (
        lambda w: w.push(authorization="Bearer made-up"), 401, "token-unknown", UNAUTHORIZED),
    "a token that was revoked": (_revoked_token, 401, "token-unknown", UNAUTHORIZED),
    "a token that has expired": (_expired_token, 401, "token-expired", UNAUTHORIZED),
    "a token of another app": (_foreign_token, 401, "token-foreign", UNAUTHORIZED),
    "a token of the app's other certificate": (_token_of_the_other_certificate, 401, "token-foreign", UNAUTHORIZED),
    # PAR's form
    "PAR: a field that is missing": (lambda w: w.push(form={"scope": None}), 400, "form-fields", BAD_REQUEST),
    "PAR: a field that is unknown": (lambda w: w.push(form={"state": "x"}), 400, "form-fields", BAD_REQUEST),
    "PAR: a field that is empty": (lambda w: w.push(form={"scope": ""}), 400, "form-field-empty", BAD_REQUEST),
    "a client id in the form that is not the app's": (
        lambda w: w.push(form={"client_id": "app-2"}), 400, "client-id", BAD_REQUEST),
    "a redirect URI that is not the app's": (
        lambda w: w.push(form={"redirect_uri": "https://b.example/cb"}),
        400, "redirect-uri", {"statusCode": None, "message": "Invalid redirect_uri."}),
    "a redirect URI with a slash more": (
        lambda w: w.push(form={"redirect_uri": w.app.redirect_uri + "/"}), 400, "redirect-uri", BAD_REQUEST),
    "a scope outside the list": (
        lambda w: w.push(form={"scope": "oidc admin"}),
        400, "scope", {"statusCode": None, "message": "Invalid scope."}),
    "a scope twice": (lambda w: w.push(form={"scope": "oidc oidc"}), 400, "scope", BAD_REQUEST),
    "scopes with commas": (lambda w: w.push(form={"scope": "oidc,email"}), 400, "scope", BAD_REQUEST),
    # the JWE
    "not a JWE at all": (lambda w: w.push("hello"), 400, "jwe", BAD_REQUEST),
    "a JWS that is not encrypted": (lambda w: w.push(w.sign(w.claims())), 400, "jwe", BAD_REQUEST),
    "five dots and no JSON": (lambda w: w.push("a.a.a.a.a"), 400, "jwe", BAD_REQUEST),
    "a header nested too deep": (lambda w: w.push(TOO_DEEP), 400, "jwe", BAD_REQUEST),
    "a JWE header with unknown members": (
        lambda w: w.push(w.encrypt(w.sign(w.claims()), {"typ": "JWE"})), 400, "jwe-header", BAD_REQUEST),
    "a JWE that is compressed": (
        lambda w: w.push(w.encrypt(w.sign(w.claims()), {"zip": "DEF"})), 400, "jwe-header", BAD_REQUEST),
    "a JWE of alg RSA-OAEP": (
        lambda w: w.push(w.encrypt(w.sign(w.claims()), {"alg": "RSA-OAEP"})), 400, "jwe-alg", BAD_REQUEST),
    "a JWE of enc A256GCM": (
        lambda w: w.push(w.encrypt(w.sign(w.claims()), {"enc": "A256GCM"})), 400, "jwe-enc", BAD_REQUEST),
    "a JWE of enc A256CBC-HS512": (
        lambda w: w.push(w.encrypt(w.sign(w.claims()), {"enc": "A256CBC-HS512"})), 400, "jwe-enc", BAD_REQUEST),
    "a JWE of another content type": (
        lambda w: w.push(w.encrypt(w.sign(w.claims()), {"cty": "JSON"})), 400, "jwe-cty", BAD_REQUEST),
    "a JWE to the signing key, with its kid": (lambda w: _signing_key(w, kid=True), 400, "jwe-kid", BAD_REQUEST),
    "a JWE to the signing key, without its kid": (lambda w: _signing_key(w, kid=False), 400, "jwe-key", BAD_REQUEST),
    "a JWE to a key that was rotated out, with its kid": (
        lambda w: _rotated_out(w, kid=True), 400, "jwe-kid", BAD_REQUEST),
    "a JWE to a key that was rotated out, without its kid": (
        lambda w: _rotated_out(w, kid=False), 400, "jwe-key", BAD_REQUEST),
    "a JWE with the kid of another key": (_kid_of_the_other_key, 400, "jwe-key", BAD_REQUEST),
    "a JWE that was garbled": (_garbled, 400, "jwe-key", BAD_REQUEST),
    # the JWS
    "a JWE of claims that nobody signed": (
        lambda w: w.push(w.encrypt(json.dumps(w.claims()))), 400, "jws", BAD_REQUEST),
    "a JWS of alg none": (lambda w: w.push(w.encrypt(_none(w))), 400, "jws", BAD_REQUEST),
    "a JWS of alg none with a signature": (
        lambda w: w.push(w.encrypt(_none(w) + "c2ln")), 400, "jws-alg", BAD_REQUEST),
    "a JWS of alg PS256": (
        lambda w: w.push(w.encrypt(w.sign(w.claims(), {"alg": "PS256"}))), 400, "jws-alg", BAD_REQUEST),
    "a JWS of alg RS512": (
        lambda w: w.push(w.encrypt(w.sign(w.claims(), {"alg": "RS512"}))), 400, "jws-alg", BAD_REQUEST),
    "a JWS of another type": (
        lambda w: w.push(w.encrypt(w.sign(w.claims(), {"alg": "RS256", "typ": "JOSE"}))), 400, "jws-typ", BAD_REQUEST),
    "a JWS header with unknown members": (
        lambda w: w.push(w.encrypt(w.sign(w.claims(), {"alg": "RS256", "kid": "1"}))), 400, "jws-header", BAD_REQUEST),
    "a JWS by a key that is no app's": (
        lambda w: w.push(w.encrypt(w.sign(w.claims(), by=w.strangers))), 400, "jws-key", BAD_REQUEST),
    # the claims
    "claims that are a list": (lambda w: w.push(w.encrypt(w.sign("[]"))), 400, "claims", BAD_REQUEST),
    "claims that are not JSON": (lambda w: w.push(w.encrypt(w.sign("hello"))), 400, "claims", BAD_REQUEST),
    **{
        f"no claim {name}": (lambda w, name=name: w.push(**{name: ABSENT}), 400, "claims", BAD_REQUEST)
        for name in ("appId", "pointOfSale", "terminal_ids", "app_username_merchant", "app_deviceid",
                     "iss", "sub", "aud", "iat", "exp", "jti")
    },
    "a claim that is unknown": (lambda w: w.push(nbf=NOW), 400, "claims", BAD_REQUEST),
    "another appId": (lambda w: w.push(appId="app-2"), 400, "appId", BAD_REQUEST),
    "another iss": (lambda w: w.push(iss="app-2"), 400, "iss", BAD_REQUEST),
    "another sub": (lambda w: w.push(sub="app-2"), 400, "sub", BAD_REQUEST),
    "aud without scheme": (
        lambda w: w.push(aud=w.nexi.base_url.removeprefix("https://")), 400, "aud", BAD_REQUEST),
    "aud with a trailing slash": (lambda w: w.push(aud=w.nexi.base_url + "/"), 400, "aud", BAD_REQUEST),
    "aud of the endpoint": (lambda w: w.push(aud=w.nexi.base_url + PAR), 400, "aud", BAD_REQUEST),
    "aud of the other environment": (
        lambda w: w.push(aud="https://b2bsoftpos.nexigroup.com"), 400, "aud", BAD_REQUEST),
    "aud as a list": (lambda w: w.push(aud=[w.nexi.base_url]), 400, "aud", BAD_REQUEST),
    "iat ahead by one second": (lambda w: w.push(iat=NOW + 1), 400, "iat-ahead", BAD_REQUEST),
    "iat as a text": (lambda w: w.push(iat=str(NOW)), 400, "iat", BAD_REQUEST),
    "iat with a fraction": (lambda w: w.push(iat=NOW - 0.5), 400, "iat", BAD_REQUEST),
    "exp as a text": (lambda w: w.push(exp=str(NOW + 300)), 400, "exp", BAD_REQUEST),
    "exp in the past": (lambda w: w.push(iat=NOW - 300, exp=NOW - 1), 400, "exp-past", BAD_REQUEST),
    "exp of this very second": (lambda w: w.push(iat=NOW - 300, exp=NOW), 400, "exp-past", BAD_REQUEST),
    "a lifetime of 901 seconds": (lambda w: w.push(iat=NOW, exp=NOW + 901), 400, "exp-too-far", BAD_REQUEST),
    "a lifetime of 901 seconds that began before": (
        lambda w: w.push(iat=NOW - 600, exp=NOW + 301), 400, "exp-too-far", BAD_REQUEST),
    "the same assertion twice": (_assertion_twice, 400, "jti-seen", BAD_REQUEST),
    "the same jti in a new assertion": (_jti_twice, 400, "jti-seen", BAD_REQUEST),
    "a jti that is no UUID": (lambda w: w.push(jti="1"), 400, "jti", BAD_REQUEST),
    "a jti that is a number": (lambda w: w.push(jti=1), 400, "jti", BAD_REQUEST),
    "no device id": (lambda w: w.push(app_deviceid=""), 400, "app_deviceid", BAD_REQUEST),
    "another operator": (
        lambda w: w.push(app_username_merchant="b@example.com"), 400, "app_username_merchant", BAD_REQUEST),
    "the operator in capitals": (
        lambda w: w.push(app_username_merchant="Operator@example.com"), 400, "app_username_merchant", BAD_REQUEST),
    "the operator as a list": (
        lambda w: w.push(app_username_merchant=["operator@example.com"]), 400, "app_username_merchant", BAD_REQUEST),
    "a point of sale that does not exist": (
        lambda w: w.push(pointOfSale="POS0"),
        400, "point-of-sale", {"statusCode": None, "message": "ContractCode not found."}),
    "a point of sale of another app": (lambda w: w.push(pointOfSale="POS3"), 400, "point-of-sale", BAD_REQUEST),
    "a point of sale as a list": (lambda w: w.push(pointOfSale=["POS1"]), 400, "point-of-sale", BAD_REQUEST),
    "TIDs as a text": (lambda w: w.push(terminal_ids="S1"), 400, "terminal-ids", BAD_REQUEST),
    "TIDs as numbers": (lambda w: w.push(terminal_ids=[1]), 400, "terminal-ids", BAD_REQUEST),
    "no TID": (lambda w: w.push(terminal_ids=[]), 400, "terminal-ids-count", BAD_REQUEST),
    "three TIDs": (lambda w: w.push(terminal_ids=["S1", "M1", "S2"]), 400, "terminal-ids-count", BAD_REQUEST),
    "an MPOS before a SoftPOS": (lambda w: w.push(terminal_ids=["M1", "S1"]), 400, "terminal-ids-order", BAD_REQUEST),
    "two SoftPOS": (lambda w: w.push(terminal_ids=["S1", "S2"]), 400, "terminal-ids-order", BAD_REQUEST),
    "the same TID twice": (lambda w: w.push(terminal_ids=["S1", "S1"]), 400, "terminal-ids-order", BAD_REQUEST),
    "a TID that does not exist": (lambda w: w.push(terminal_ids=["S0"]), 400, "terminal-id", BAD_REQUEST),
    "a TID of another point of sale": (lambda w: w.push(terminal_ids=["S9"]), 400, "terminal-id", BAD_REQUEST),
    # the way there
    "an unknown path": (lambda w: w.call("GET", "/softpos"), 404, "endpoint", {"message": "Not found."}),
    "a path with a trailing slash": (lambda w: w.call("GET", KEYS + "/"), 404, "endpoint", {"message": "Not found."}),
    "GET where POST belongs": (lambda w: w.call("GET", TOKEN), 404, "endpoint", {"message": "Not found."}),
    "POST where GET belongs": (lambda w: w.call("POST", KEYS, "a=b"), 404, "endpoint", {"message": "Not found."}),
}  # a row per rule reads best in one place # fmt: skip


@pytest.mark.parametrize("rule", REJECTED)
def test_nexi_rejects_and_its_log_names_the_rule_for(rule: str, world: World, nexi_lines: Lines) -> None:
    send, status, name, body = REJECTED[rule]
    response = send(world)

    assert response.status_code == status, nexi_lines.text
    assert response.headers["content-type"].startswith("application/json")
    answer = response.json()
    for member, value in body.items():
        assert answer[member] == value
    if "statusCode" in body:
        assert set(answer) == {"statusCode", "message"}
    if "error" in body:
        assert set(answer) == {"error", "error_description"}
    assert f" {status} rule={name}: " in nexi_lines.wait_for("rule=")
    assert world.nexi.calls[-1].rule == name
    assert world.nexi.calls[-1].status == status


def test_what_was_rejected_does_not_keep_the_next_assertion_from_being_accepted(world: World) -> None:
    assert world.push(iat=NOW + 1).status_code == 400
    assert world.push().status_code == 201


def test_a_rejected_assertion_may_be_sent_again_once_its_fault_is_over(world: World) -> None:
    assertion = world.seal(world.claims(iat=NOW + 1))
    assert world.push(assertion).status_code == 400
    world.clock.now += 1
    assert world.push(assertion).status_code == 201


# ---------------------------------------------------------------- what requests cannot send


def _raw(world: World, *headers: tuple[str, str], body: bytes = b"") -> tuple[int, dict[str, Any]]:
    """A POST to the token endpoint with exactly these headers."""
    context = _client(world, world.developer)
    connection = http.client.HTTPSConnection("127.0.0.1", world.nexi.port, context=context, timeout=10)
    try:
        connection.putrequest("POST", TOKEN)
        for name, value in [("Content-Type", FORM), *headers]:
            connection.putheader(name, value)
        connection.endheaders(body or None)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Transfer-Encoding", "chunked")],
        [("Content-Length", "many")],
        [("Content-Length", "-1")],
        [("Content-Length", "65537")],
    ],
    ids=["missing", "missing, but chunked", "no number", "negative", "more than 64 KiB"],
)
def test_nexi_rejects_a_content_length_that_is(headers: list[tuple[str, str]], world: World, nexi_lines: Lines) -> None:
    status, answer = _raw(world, *headers)
    assert status == 400
    assert answer["statusCode"] is None
    nexi_lines.wait_for(" 400 rule=content-length: ")


# ---------------------------------------------------------------- who may connect


def _client(world: World, shown: Issued | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=world.authority.certificate_pem)
    if shown:
        context.load_cert_chain(world.file(f"{shown.thumbprint}.pem", shown.certificate_pem + shown.key_pem))
    return context


def _past(world: World) -> Issued:
    last_week = datetime.now(UTC) - timedelta(days=7)
    return world.authority.developer("PAST", not_before=last_week, lifetime=timedelta(days=1))


def _future(world: World) -> Issued:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    return world.authority.developer("FUTURE", not_before=tomorrow)


def _get_keys(connection: http.client.HTTPSConnection) -> http.client.HTTPResponse:
    # In TLS 1.3 the client may send before it hears that its certificate is refused.
    connection.request("GET", KEYS)
    return connection.getresponse()


REFUSED: dict[str, tuple[Callable[[World], Issued | None], str, str]] = {
    "no certificate": (lambda _: None, "client-certificate-missing", "ALERT"),
    "a certificate of another authority": (
        lambda _: Authority("somebody else").developer("APP"), "client-certificate-refused", "UNKNOWN_CA"),
    "a certificate of another authority with the same name": (
        lambda _: Authority().developer("APP"), "client-certificate-refused", "ALERT"),
    "a certificate that has expired": (_past, "client-certificate-refused", "EXPIRED"),
    "a certificate that is not valid yet": (_future, "client-certificate-refused", "ALERT"),
    "a certificate that is for servers": (
        lambda w: w.authority.server("127.0.0.1"), "client-certificate-refused", "ALERT"),
}  # a row per rule reads best in one place # fmt: skip


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
@pytest.mark.parametrize("rule", REFUSED)
def test_nexi_ends_the_handshake_with_an_alert_for(
    rule: str, version: ssl.TLSVersion, world: World, nexi_lines: Lines
) -> None:
    show, name, alert = REFUSED[rule]
    before = len(world.nexi.calls)
    context = _client(world, show(world))
    context.minimum_version = context.maximum_version = version
    connection = http.client.HTTPSConnection("127.0.0.1", world.nexi.port, context=context, timeout=10)
    try:
        with pytest.raises(ssl.SSLError) as refused:
            _get_keys(connection)
    finally:
        connection.close()

    assert "ALERT" in refused.value.reason
    assert alert in refused.value.reason
    nexi_lines.wait_for(f"rule={name}: ")
    assert len(world.nexi.calls) == before


def test_a_client_that_never_shakes_hands_holds_up_nobody(world: World) -> None:
    idle = [http.client.HTTPConnection("127.0.0.1", world.nexi.port, timeout=10) for _ in range(4)]
    try:
        for each in idle:
            each.connect()
        assert world.call("GET", KEYS).status_code == 200
    finally:
        for each in idle:
            each.close()
