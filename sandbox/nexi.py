"""The sandbox's Nexi: HTTPS with mandatory client certificates, three endpoints, and the rules in `rules`.

Its log says of each rejected call which rule was broken; `calls` keeps the last ones for tests and for `make run`.
"""

import contextlib
import http.client
import http.server
import json
import logging
import secrets
import socket
import ssl
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from joserfc.jwk import RSAKey

from sandbox import rules
from sandbox.authority import Authority
from sandbox.faults import AFTER, BEFORE, Faults, HungUpError
from sandbox.rules import App, BrokenRuleError

log = logging.getLogger("nexi")

ENDPOINTS = {
    ("POST", "/softpos/appenrollment/token"): "token",
    ("GET", "/softpos/par/jwks.json"): "keys",
    ("POST", "/softpos/as/par"): "par",
}
AUTHORIZATION_FIELDS = {"client_assertion", "client_id", "scope", "redirect_uri"}
TOKEN_SECONDS = 3600
REQUEST_URI_SECONDS = 90
MAX_BODY_BYTES = 64 * 1024
IDLE_SECONDS = 60


@dataclass(frozen=True)
class Call:
    """One answered request. `claims` only when the assertion could be opened."""

    endpoint: str
    status: int
    rule: str | None
    claims: dict[str, Any] | None
    began_at: float
    ended_at: float
    request_uri: str | None = None


@dataclass(frozen=True)
class _Token:
    client_id: str
    thumbprint: str
    expires_at: float


@dataclass
class _State:
    tokens: dict[str, _Token] = field(default_factory=dict)
    seen_jtis: dict[str, float] = field(default_factory=dict)
    observed_jtis: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Nexi:
    """A running server. Its clock is `now`, off by `clock_offset` seconds."""

    def __init__(
        self,
        authority: Authority,
        apps: list[App],
        port: int = 0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Binds 127.0.0.1; raises OSError when the port is in use."""
        self.apps = apps
        self._now = now
        self.clock_offset = 0.0
        self.date_offset = 0.0
        """How far the Date headers are off, as a gateway's may be that writes them."""
        self.calls: deque[Call] = deque(maxlen=10_000)
        self.counts: Counter[str] = Counter()
        """`call <endpoint>`, `connection`, `handshake`, `resumed`, `handshake refused`, `reject <rule>`,
        `fault <kind>`, and `jti twice`: assertions that came again, even if their first call failed."""
        self.faults = Faults()
        self.token_seconds: int | str = TOKEN_SECONDS
        self.token_answer: dict[str, Any] = {}
        """Replaces members of the token endpoint's answers; None takes one away."""
        self._state = _State()
        self._signing_key = RSAKey.generate_key(2048, {"kid": f"sig-{secrets.token_hex(4)}", "use": "sig"})
        self._encryption_keys = [_encryption_key(), _encryption_key()]
        issued = authority.server("127.0.0.1", "localhost")
        context = issued.context(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authority.certificate_pem)
        self._server = _Server(("127.0.0.1", port), self, context)
        self.port: int = self._server.server_address[1]
        self.base_url = f"https://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def now(self) -> float:
        """What time it is here, in Unix seconds."""
        return self._now() + self.clock_offset

    def start(self) -> None:
        """Serve, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port and every connection."""
        self._server.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.close_connections()
        self._server.server_close()

    def rotate_keys(self) -> None:
        """Publish new encryption keys, and forget the old ones."""
        self._encryption_keys = [_encryption_key(), _encryption_key()]

    def revoke_tokens(self) -> None:
        """Answer 401 for every token given out so far."""
        with self._state.lock:
            self._state.tokens.clear()

    def answer(
        self, endpoint: str, certificate: x509.Certificate, headers: Any, body: bytes
    ) -> tuple[int, dict[str, Any], dict[str, Any] | None]:
        """Status, body, and the assertion's claims where there was one. Raises BrokenRuleError."""
        thumbprint = certificate.fingerprint(hashes.SHA256()).hex()
        app = self._app(thumbprint, certificate)
        if endpoint == "keys":
            return 200, self._jwks(), None
        if endpoint == "token":
            return 200, self._issue_token(app, thumbprint, headers, body), None
        return self._authorize(app, thumbprint, headers, body)

    def _app(self, thumbprint: str, certificate: x509.Certificate) -> App:
        app = next((each for each in self.apps if thumbprint in each.certificates), None)
        if app is None:
            raise rules.forbidden("certificate", f"no app has registered {certificate.subject.rfc4514_string()}")
        return app

    def _jwks(self) -> dict[str, Any]:
        # A signing key first: who takes the first key whatever its use has taken the wrong one.
        keys = [self._signing_key, *self._encryption_keys]
        return {"keys": [key.as_dict(private=False) for key in keys]}

    def _issue_token(self, app: App, thumbprint: str, headers: Any, body: bytes) -> dict[str, Any]:
        fields = rules.form(headers["Content-Type"], body, {"grant_type", "client_id", "client_secret"})
        rules.token_request(fields, app)
        token = secrets.token_urlsafe(48)
        with self._state.lock:
            expires_at = self.now() + int(self.token_seconds)
            self._state.tokens[token] = _Token(app.client_id, thumbprint, expires_at)
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": self.token_seconds, **self.token_answer}
        return {name: value for name, value in answer.items() if value is not None}

    def _authorize(
        self, app: App, thumbprint: str, headers: Any, body: bytes
    ) -> tuple[int, dict[str, Any], dict[str, Any]]:
        self._check_token(app, thumbprint, headers["Authorization"] or "")
        fields = rules.form(headers["Content-Type"], body, AUTHORIZATION_FIELDS)
        rules.authorization_request(fields, app)
        claims = rules.open_assertion(fields["client_assertion"], self._keys_by_kid(), app)
        try:
            rules.check_claims(claims, app, self.base_url, self.now())
            self._check_jti(claims)
        except BrokenRuleError as broken:
            broken.claims = claims
            raise
        request_uri = f"urn:softpos_{uuid.uuid4()}"
        return 201, {"request_uri": request_uri, "expires_in": REQUEST_URI_SECONDS}, claims

    def _check_token(self, app: App, thumbprint: str, authorization: str) -> None:
        scheme, _, value = authorization.partition(" ")
        if scheme != "Bearer" or not value:
            raise rules.unauthorized("token-missing", "no bearer token")
        with self._state.lock:
            token = self._state.tokens.get(value)
        if token is None:
            raise rules.unauthorized("token-unknown", "not given out here, or revoked")
        if token.client_id != app.client_id or token.thumbprint != thumbprint:
            raise rules.unauthorized("token-foreign", "given to another app or certificate")
        if self.now() >= token.expires_at:
            raise rules.unauthorized("token-expired", f"{self.now() - token.expires_at:.1f} s ago")

    def observe(self, certificate: x509.Certificate, headers: Any, body: bytes) -> None:
        """Take note of the `jti` of an assertion before anything goes wrong with its call."""
        try:
            app = self._app(certificate.fingerprint(hashes.SHA256()).hex(), certificate)
            fields = rules.form(headers["Content-Type"], body, AUTHORIZATION_FIELDS)
            jti = rules.open_assertion(fields["client_assertion"], self._keys_by_kid(), app).get("jti")
        except BrokenRuleError:
            return
        with self._state.lock:
            if jti in self._state.observed_jtis:
                self.counts["jti twice"] += 1
            self._state.observed_jtis.add(str(jti))

    def _keys_by_kid(self) -> dict[str, RSAKey]:
        return {str(key.kid): key for key in self._encryption_keys}

    def _check_jti(self, claims: dict[str, Any]) -> None:
        with self._state.lock:
            if claims["jti"] in self._state.seen_jtis:
                raise rules.refuse("jti-seen", "this assertion has been used before")
            now = self.now()
            # A second use can only matter for as long as the assertion has not expired.
            if len(self._state.seen_jtis) % 1000 == 999:
                for jti in [jti for jti, expires in self._state.seen_jtis.items() if expires < now]:
                    del self._state.seen_jtis[jti]
            self._state.seen_jtis[claims["jti"]] = claims["exp"]


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], nexi: Nexi, context: ssl.SSLContext) -> None:
        self.nexi = nexi
        self.context = context
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(address, Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        # In the connection's own thread, so that a client that is slow to shake hands holds up nobody else.
        self.nexi.counts["connection"] += 1
        request.settimeout(IDLE_SECONDS)
        secured = self.context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        with self._open_lock:
            self._open.add(secured)
        try:
            try:
                secured.do_handshake()
                self.nexi.counts["handshake"] += 1
                self.nexi.counts["resumed"] += bool(secured.session_reused)
            except OSError as error:
                self.nexi.counts["handshake refused"] += 1
                log.warning("TLS      rule=%s: %s", *_handshake_rule(error))
                _hang_up(secured)
                return
            super().finish_request(secured, client_address)
        except (OSError, HungUpError):
            log.debug("a connection ended before its time")
        finally:
            with self._open_lock:
                self._open.discard(secured)
            secured.close()

    def close_connections(self) -> None:
        with self._open_lock:
            for each in self._open:
                each.close()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class calls it so
        log.exception("the sandbox's Nexi itself failed")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        nexi = self.server.nexi
        began_at = nexi.now()
        endpoint = ENDPOINTS.get((self.command, self.path), "none")
        rule, claims, answer = None, None, {}
        nexi.counts[f"call {endpoint}"] += 1
        fault = nexi.faults.take(endpoint) if endpoint != "none" else None
        try:
            body = self._body()
            if endpoint == "par":
                nexi.observe(self._certificate(), self.headers, body)
            if fault is not None:
                nexi.counts[f"fault {fault.kind}"] += 1
                log.info("%-8s fault=%s", endpoint, fault.kind)
            instead = BEFORE[fault.kind](nexi, self, fault.number) if fault and fault.kind in BEFORE else None
            if instead is not None:
                self.send(*instead)
                return
            if endpoint == "none":
                raise BrokenRuleError("endpoint", f"{self.command} {self.path}", 404, {"message": "Not found."})
            status, answer, claims = nexi.answer(endpoint, self._certificate(), self.headers, body)
        except BrokenRuleError as broken:
            status, answer, rule, claims = broken.status, broken.body, broken.rule, broken.claims
            nexi.counts[f"reject {rule}"] += 1
            log.warning("%-8s %s rule=%s", endpoint, status, broken)
        else:
            log.info("%-8s %s", endpoint, status)
        nexi.calls.append(
            Call(endpoint, status, rule, claims, began_at, nexi.now(), request_uri=answer.get("request_uri"))
        )
        payload = json.dumps(answer).encode()
        if fault is not None and fault.kind in AFTER:
            AFTER[fault.kind](self, status, payload, fault.number)
        else:
            self.send(status, payload)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "0" if self.command == "GET" else "")
        if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            # What is left unread when the connection closes would reset it, and the reset overtake the answer.
            self.connection.settimeout(0.2)
            with contextlib.suppress(OSError):
                self.rfile.read(16 * MAX_BODY_BYTES)
            raise rules.refuse("content-length", f"{length!r} is no length from 0 to {MAX_BODY_BYTES}")
        return self.rfile.read(int(length))

    def _certificate(self) -> x509.Certificate:
        der = self.connection.getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der)

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """A whole answer, in one segment: two would meet Nagle and a delayed acknowledgement, at 40 ms a call."""
        self.wfile.write(self.message(status, body, headers))
        self.wfile.flush()

    def message(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> bytes:
        """The bytes of an answer."""
        lines = {
            "Content-Type": "application/json;charset=UTF-8",
            "Cache-Control": "no-store",
            "Content-Length": str(len(body)),
            "Date": formatdate(self.server.nexi.now() + self.server.nexi.date_offset, usegmt=True),
            **(headers or {}),
        }
        reason = http.client.responses.get(status, "Unknown")
        head = f"HTTP/1.1 {status} {reason}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return head.encode("latin-1") + b"\r\n" + body

    def log_message(self, *args: Any) -> None:
        """Nothing: `_answer` says more."""


def _encryption_key() -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": f"enc-{secrets.token_hex(4)}", "use": "enc"})


def _handshake_rule(error: OSError) -> tuple[str, str]:
    reason = getattr(error, "reason", None) or ""
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "client-certificate-missing", "the client shows no certificate"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "client-certificate-refused", error.verify_message
    return "handshake", reason or str(error)


def _hang_up(secured: ssl.SSLSocket) -> None:
    """Close so that the alert arrives: a socket closed with unread data resets, and the reset overtakes the alert."""
    try:
        with socket.socket(fileno=secured.detach()) as raw:
            raw.settimeout(1)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65536):
                pass
    except OSError:
        pass
