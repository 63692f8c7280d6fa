"""Every failure of an enrollment that can be provoked from outside, each arranged for real and described once."""

import json
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from backends import backend, bearer, operator, secret
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from leaks import of_key
from lines import Lines, LinesHandler
from servers import FakeNexi, Request, Server, reply

from sandbox.authority import Authority
from sandbox.local import OPERATOR, POINT_OF_SALE, SOFTPOS_TID, LocalStack


@dataclass
class Scene:
    """Where a failure is set up. Everything in `hidden` is secret; `running` ends with the scene."""

    stack: LocalStack
    running: ExitStack
    hidden: list[str] = field(default_factory=list)
    operator: str = OPERATOR
    changes: dict[str, Any] = field(default_factory=dict)
    requests: Callable[[], int] = lambda: 0

    def application(self, **changes: Any) -> dict[str, str]:
        """An application secret that differs from the right one; a member that is None is left away."""
        app = self.stack.app
        right = {"client_id": app.client_id, "client_secret": app.client_secret, "redirect_uri": app.redirect_uri}
        members = {name: value for name, value in {**right, **changes}.items() if value is not None}
        self.hidden += [members["client_secret"]] if members.get("client_secret") else []
        return {"APPLICATION_SECRET_ID": secret(self.stack, members)}

    def certificate(self, certificate: str | None = None, key: str | None = None) -> dict[str, str]:
        """A certificate secret that differs from the right one."""
        developer = self.stack.developer
        key = developer.key_pem if key is None else key
        members = {"certificate": certificate or developer.certificate_pem, "private_key": key}
        return {"CERTIFICATE_SECRET_ID": secret(self.stack, members)}

    def issued_by(self, authority: Authority, **changes: Any) -> dict[str, str]:
        """A developer certificate that this authority signs here and now."""
        issued = authority.developer("OTHER", **changes)
        self.hidden += of_key(issued.key_pem)
        return self.certificate(issued.certificate_pem, issued.key_pem)

    def fake(self, answer: Callable[[Request], bytes]) -> dict[str, str]:
        """A server with a certificate of Nexi's, that answers something else."""
        issued = self.stack.authority.server("127.0.0.1")
        server = self.running.enter_context(FakeNexi(issued, self.stack.authority, answer))
        self.requests = lambda: len(server.requests)
        return {"NEXI_BASE_URL": f"https://127.0.0.1:{server.port}"}


@dataclass(frozen=True)
class Outcome:
    """How an enrollment ended: the answer, the function's line, and everything that anyone printed."""

    status: int
    headers: dict[str, str]
    text: str
    line: dict[str, Any]
    printed: str
    hidden: list[str] = field(repr=False)


@dataclass(frozen=True)
class Failure:
    """What is wrong, how the phone hears of it, and which words the log has for it."""

    name: str
    arrange: Callable[[Scene], dict[str, str]]
    status: int
    code: str
    message: tuple[str, ...] = ()
    remedy: str = ""
    unsaid: tuple[str, ...] = ()
    """Words that the log has and the answer must not have."""

    def provoke(self, stack: LocalStack, wire: list[str]) -> Outcome:
        """One enrollment on cold functions in a scene that was arranged for it. `wire` is what Nexi was sent so far."""
        with ExitStack() as running:
            nexi = running.enter_context(nexi_log())
            scene = Scene(stack, running)
            environment = self.arrange(scene)
            broken = running.enter_context(backend(stack, environment, **scene.changes))
            token = bearer(stack, scene.operator)
            response = broken.post({"device_id": "device-1"}, token)
            line = broken.line(response)
            answer = f"{response.status_code} {response.reason}\n{response.headers}\n{response.text}"
            printed = "\n".join([answer, broken.lines.text, nexi.text])
            hidden = [*scene.hidden, *wire, token, stack.app.client_secret, *of_key(stack.developer.key_pem)]
            return Outcome(
                response.status_code,
                {name.lower(): value for name, value in response.headers.items()},
                response.text,
                line,
                printed,
                hidden,
            )


@contextmanager
def nexi_log() -> Iterator[Lines]:
    """What the sandbox's Nexi logs while the block runs."""
    lines = Lines()
    handler = LinesHandler(lines)
    logging.getLogger("nexi").addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger("nexi").removeHandler(handler)


def _missing(variable: str) -> Callable[[Scene], dict[str, str]]:
    return lambda _scene: {variable: "no-such-secret"}


def _assigned(*, known: bool = True, **changes: str) -> Callable[[Scene], dict[str, str]]:
    """An operator whose item in the terminals table is not quite right, or whom Nexi does not know."""

    def arrange(scene: Scene) -> dict[str, str]:
        item = {"point_of_sale": POINT_OF_SALE, "softpos_tid": SOFTPOS_TID, **changes}
        scene.operator = operator(scene.stack, **item)
        if known:
            operators = scene.stack.app.operators
            operators.add(scene.operator)
            scene.running.callback(operators.discard, scene.operator)
        return {}

    return arrange


def _no_terminal(scene: Scene) -> dict[str, str]:
    scene.operator = operator(scene.stack)
    return {}


def _backslashes(scene: Scene) -> dict[str, str]:
    return scene.certificate(key=scene.stack.developer.key_pem.replace("\n", "\\n"))


def _cut_short(scene: Scene) -> dict[str, str]:
    return scene.certificate(key=scene.stack.developer.key_pem[:800])


def _encrypted(scene: Scene) -> dict[str, str]:
    encryption = serialization.BestAvailableEncryption(b"passphrase")
    pem = scene.stack.developer.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    return scene.certificate(key=pem.decode())


def _elliptic(scene: Scene) -> dict[str, str]:
    return scene.certificate(key=_pem(ec.generate_private_key(ec.SECP256R1())))


def _other_key(scene: Scene) -> dict[str, str]:
    pem = _pem(rsa.generate_private_key(65537, 2048))
    scene.hidden += of_key(pem)
    return scene.certificate(key=pem)


def _p7b(scene: Scene) -> dict[str, str]:
    return scene.certificate("-----BEGIN PKCS7-----\nMIIB\n-----END PKCS7-----\n")


def _expired(scene: Scene) -> dict[str, str]:
    last_week = datetime.now(UTC) - timedelta(days=7)
    return scene.issued_by(scene.stack.authority, not_before=last_week, lifetime=timedelta(days=1))


def _foreign_server(scene: Scene) -> dict[str, str]:
    issued = Authority("somebody else").server("127.0.0.1")
    server = scene.running.enter_context(FakeNexi(issued, scene.stack.authority, lambda _: reply("200 OK", b"{}")))
    return {"NEXI_BASE_URL": f"https://127.0.0.1:{server.port}"}


def _refusing(_scene: Scene) -> dict[str, str]:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        return {"NEXI_BASE_URL": f"https://127.0.0.1:{nobody.getsockname()[1]}"}


def _hanging_up(scene: Scene) -> dict[str, str]:
    server = scene.running.enter_context(Server(lambda _connection: None))
    return {"NEXI_BASE_URL": f"https://127.0.0.1:{server.port}"}


def _silent(scene: Scene) -> dict[str, str]:
    # Lambda's own timeout, and with it the enrollment's deadline, is what ends this early.
    scene.changes["timeout"] = 6
    server = scene.running.enter_context(Server(lambda connection: connection.recv(1) and server.stopping.wait(20)))
    return {"NEXI_BASE_URL": f"https://127.0.0.1:{server.port}"}


def _silent_after_the_handshake(scene: Scene) -> dict[str, str]:
    scene.changes["timeout"] = 6
    server: list[FakeNexi] = []

    def answer(_request: Request) -> bytes:
        server[0].stopping.wait(20)
        return b""

    issued = scene.stack.authority.server("127.0.0.1")
    server.append(FakeNexi(issued, scene.stack.authority, answer))
    scene.running.enter_context(server[0])
    return {"NEXI_BASE_URL": server[0].url}


def _answers(token: bytes, keys: bytes = b"", par: bytes = b"") -> Callable[[Scene], dict[str, str]]:
    """A Nexi that answers the three calls so, where what is empty is as it should be."""

    def arrange(scene: Scene) -> dict[str, str]:
        return scene.fake(nexi_like(scene.stack, token=token, keys=keys, par=par))

    return arrange


def nexi_like(
    stack: LocalStack, *, token: bytes = b"", keys: bytes = b"", par: bytes = b""
) -> Callable[[Request], bytes]:
    """Answers the three calls with these bytes, and where there are none, as Nexi would."""

    def answer(request: Request) -> bytes:
        if request.path.endswith("/token"):
            return token or reply("200 OK", json.dumps(GOOD_TOKEN).encode())
        if request.path.endswith("jwks.json"):
            return keys or reply("200 OK", json.dumps(stack.nexi._jwks()).encode())
        return par or reply("201 Created", json.dumps({"request_uri": "urn:x", "expires_in": "90"}).encode())

    return answer


GOOD_TOKEN = {"access_token": "an-access-token-of-fifty-characters-for-the-tests-0", "expires_in": 3600}
_GATEWAY_PAGE = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
_SHORT_KEYS_ALONE = b'{"keys":[{"kty":"RSA","use":"sig","n":"AQAB","e":"AQAB"}]}'


def _pem(key: Any) -> str:
    pem: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem.decode()


_PORTAL = "client_id and client_secret"
_REGISTER = "send its .pem"
_COMPARE = "Compare e-mail, point of sale, TIDs"

FAILURES = [
    Failure(
        "an operator without a terminal", _no_terminal, 409, "terminal_not_assigned", ("holds no terminal",), "assign"
    ),
    Failure(
        "a TID that the app lacks",
        _assigned(softpos_tid="39999999"),
        502,
        "nexi_rejected",
        ("PAR answered 400", "Terminal not found."),
        _COMPARE,
        ("Terminal not found", "39999999"),
    ),
    Failure(
        "a point of sale that the app lacks",
        _assigned(point_of_sale="99999999"),
        502,
        "nexi_rejected",
        ("PAR answered 400", "ContractCode not found."),
        _COMPARE,
        ("ContractCode",),
    ),
    Failure(
        "an operator whom Nexi does not know",
        _assigned(known=False),
        502,
        "nexi_rejected",
        ("PAR answered 400",),
        _COMPARE,
        ("@example.com",),
    ),
    Failure(
        "a redirect URI that is not the app's",
        lambda scene: scene.application(redirect_uri="https://elsewhere.example"),
        502,
        "nexi_rejected",
        ("PAR answered 400", "Invalid redirect_uri."),
        _COMPARE,
        ("redirect_uri", "elsewhere.example"),
    ),
    Failure(
        "an item without any TID",
        _assigned(softpos_tid=""),
        500,
        "misconfigured",
        ("TERMINALS_TABLE", "every TID"),
        "softpos terminals assign",
    ),
    Failure(
        "a terminals table that does not exist",
        lambda _scene: {"TERMINALS_TABLE": "no-such-table"},
        500,
        "misconfigured",
        ("TERMINALS_TABLE", "ResourceNotFoundException"),
        "terminals table",
        ("ResourceNotFoundException",),
    ),
    Failure(
        "a client secret that is not the app's",
        lambda scene: scene.application(client_secret="q7Zk2vX9-uW4mB8yT1nR6cJ3hL5dG0sPf_eYaQo"),
        500,
        "misconfigured",
        ("token answered 401", "invalid_client"),
        _PORTAL,
        ("invalid_client",),
    ),
    Failure(
        "a client id that is not the app's",
        lambda scene: scene.application(client_id="another-app"),
        500,
        "misconfigured",
        ("token answered 401", "invalid_client"),
        _PORTAL,
        ("another-app",),
    ),
    Failure(
        "an application secret that does not exist",
        _missing("APPLICATION_SECRET_ID"),
        500,
        "misconfigured",
        ("APPLICATION_SECRET_ID", "does not exist"),
        "store it in Secrets Manager",
    ),
    Failure(
        "a certificate secret that does not exist",
        _missing("CERTIFICATE_SECRET_ID"),
        500,
        "misconfigured",
        ("CERTIFICATE_SECRET_ID", "does not exist"),
        "store it in Secrets Manager",
    ),
    Failure(
        "an application secret that was never given a value",
        lambda scene: {"APPLICATION_SECRET_ID": secret(scene.stack, None)},
        500,
        "misconfigured",
        ("APPLICATION_SECRET_ID", "no current value"),
        "store it in Secrets Manager",
    ),
    Failure(
        "an application secret that is binary",
        lambda scene: {"APPLICATION_SECRET_ID": secret(scene.stack, b"\x00\x01")},
        500,
        "misconfigured",
        ("APPLICATION_SECRET_ID", "binary"),
        "JSON string",
    ),
    Failure(
        "an application secret that is not JSON",
        lambda scene: {"APPLICATION_SECRET_ID": secret(scene.stack, "client_secret=q7Zk2vX9-uW4mB8yT1nR")},
        500,
        "misconfigured",
        ("application secret", "not JSON"),
        "JSON object",
    ),
    Failure(
        "an application secret that is a list",
        lambda scene: {"APPLICATION_SECRET_ID": secret(scene.stack, "[]")},
        500,
        "misconfigured",
        ("application secret", "not an object"),
        "JSON object",
    ),
    Failure(
        "an application secret without the client secret",
        lambda scene: scene.application(client_secret=None),
        500,
        "misconfigured",
        ("application secret", "client_secret is missing"),
        "client_secret",
    ),
    Failure(
        "a scope that Nexi does not offer",
        lambda scene: scene.application(scope="oidc everything"),
        500,
        "misconfigured",
        ("application secret", "scope"),
        "oidc",
    ),
    Failure(
        "a certificate that no app has registered",
        lambda scene: scene.issued_by(scene.stack.authority),
        500,
        "misconfigured",
        ("answered 403",),
        _REGISTER,
        ("Forbidden",),
    ),
    Failure(
        "a certificate of another authority",
        lambda scene: scene.issued_by(Authority("somebody else")),
        500,
        "misconfigured",
        ("Nexi ended the handshake", "UNKNOWN_CA", "CN=OTHER", "SHA-256"),
        "certificate that Nexi signed",
    ),
    Failure(
        "a certificate that has expired",
        _expired,
        500,
        "misconfigured",
        ("Nexi ended the handshake", "EXPIRED", "CN=OTHER", "valid until"),
        "in time",
    ),
    Failure(
        "a private key with backslash-n in it",
        _backslashes,
        500,
        "misconfigured",
        ("certificate secret", "private_key", "backslash-n"),
        "line breaks included",
    ),
    Failure(
        "a private key that was cut short",
        _cut_short,
        500,
        "misconfigured",
        ("certificate secret", "private_key", "cut short"),
        "line breaks included",
    ),
    Failure(
        "a private key under a passphrase",
        _encrypted,
        500,
        "misconfigured",
        ("certificate secret", "private_key", "passphrase"),
        "unencrypted",
    ),
    Failure(
        "a private key that is not RSA",
        _elliptic,
        500,
        "misconfigured",
        ("certificate secret", "private_key", "not an RSA key"),
        "the RSA key that the CSR was made with",
    ),
    Failure(
        "a private key that is not the certificate's",
        _other_key,
        500,
        "misconfigured",
        ("certificate secret", "private_key belongs to none"),
        "CSR",
    ),
    Failure(
        "a certificate that is still a p7b",
        _p7b,
        500,
        "misconfigured",
        ("certificate secret", "certificate is not PEM", ".p7b"),
        "openssl pkcs7 -print_certs",
    ),
    Failure(
        "a Nexi whose certificate is of another authority",
        _foreign_server,
        500,
        "misconfigured",
        ("is not trusted",),
        "NEXI_CA_BUNDLE",
    ),
    Failure(
        "a bundle of authorities that is no file",
        lambda _scene: {"NEXI_CA_BUNDLE": "no-such-file.pem"},
        500,
        "misconfigured",
        ("NEXI_CA_BUNDLE",),
        "PEM file",
    ),
    Failure(
        "a base URL with a path",
        lambda scene: {"NEXI_BASE_URL": f"{scene.stack.nexi.base_url}/softpos"},
        500,
        "misconfigured",
        ("NEXI_BASE_URL",),
        "template.yaml",
    ),
    Failure(
        "a base URL without TLS",
        lambda scene: {"NEXI_BASE_URL": scene.stack.nexi.base_url.replace("https", "http")},
        500,
        "misconfigured",
        ("NEXI_BASE_URL",),
        "template.yaml",
    ),
    Failure("a port where nobody listens", _refusing, 503, "nexi_unavailable", ("failed", "refused")),
    Failure(
        "a Nexi that hangs up", _hanging_up, 503, "nexi_unavailable", ("before answering", "SHA-256"), "registered"
    ),
    Failure("a Nexi that never shakes hands", _silent, 504, "nexi_timeout"),
    Failure("a Nexi that never answers", _silent_after_the_handshake, 504, "nexi_timeout"),
    Failure(
        "a gateway's page before Nexi",
        _answers(reply("502 Bad Gateway", _GATEWAY_PAGE, content_type="text/html")),
        503,
        "nexi_unavailable",
        ("token answered 502", "Bad Gateway"),
        "ask Nexi",
        ("Bad Gateway", "<html>"),
    ),
    Failure(
        "a Nexi that asks to slow down",
        _answers(b"", par=reply("429 Too Many Requests", b"")),
        503,
        "nexi_unavailable",
        ("PAR answered 429",),
        "ask Nexi",
    ),
    Failure(
        "a page where the token should be",
        _answers(reply("200 OK", b"<html>captive portal</html>", content_type="text/html")),
        503,
        "nexi_unavailable",
        ("token answered 200", "no JSON object"),
        "NEXI_BASE_URL",
        ("captive",),
    ),
    Failure(
        "a redirect where the token should be",
        _answers(reply("302 Found", b"", [("Location", "https://127.0.0.1:1/")])),
        503,
        "nexi_unavailable",
        ("token answered 302",),
        "NEXI_BASE_URL",
    ),
    Failure(
        "a token that is empty",
        _answers(reply("200 OK", b'{"access_token": "", "expires_in": 3600}')),
        503,
        "nexi_unavailable",
        ("no access_token",),
        "NEXI_BASE_URL",
    ),
    Failure(
        "a JWKS without a usable key",
        _answers(b"", keys=reply("200 OK", _SHORT_KEYS_ALONE)),
        503,
        "nexi_unavailable",
        ("no usable key",),
        "/softpos/par/jwks.json",
    ),
    Failure(
        "an authorization without a request_uri",
        _answers(b"", par=reply("201 Created", b'{"expires_in": 90}')),
        502,
        "nexi_rejected",
        ("PAR answered 201", "expires_in"),
        "Ask Nexi",
    ),
]
