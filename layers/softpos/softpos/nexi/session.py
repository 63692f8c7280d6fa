"""HTTPS to Nexi: a client certificate, an explicit list of authorities, a deadline, one connection for each request.

No connection is used twice. So a late, split or unexpected answer cannot reach another request, and a connection that
died while Lambda had the environment frozen is never tried. TLS session resumption makes the next handshake cheap.

A requests `Session` would take proxies, netrc and CA bundles from the environment, follow redirects and keep cookies.
Only its adapter is used, without certifi's bundle, retries, or requests' `Response`.
"""

import functools
import http.client
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.exceptions import DecodeError, HeaderParsingError, HTTPError
from urllib3.util.response import assert_header_parsing

from softpos import telemetry
from softpos.credentials import Certificate
from softpos.deadline import Deadline
from softpos.errors import (
    CredentialsRefusedError,
    MisconfiguredError,
    NexiTimeoutError,
    NexiUnavailableError,
    SoftposError,
    UnansweredError,
)
from softpos.nexi.happy_eyeballs import CONNECT_SECONDS, Connector

MAX_BODY_BYTES = 64 * 1024
"""Maximum size of an answer's body, decompressed. Nexi's have a few hundred bytes; the rest of a longer one is cut."""

HANDSHAKE_SECONDS = 2.0
"""Maximum time for the TLS handshake."""

READ_SECONDS = 3.0
"""Maximum time for one read. An enrollment's deadline has room for two that get nothing and a third that succeeds."""

MAX_INTERIM_ANSWERS = 10
"""Interim answers (1xx, RFC 9110 section 15.2) that are read past before the final one."""

_MAX_FAILED_RESUMPTIONS = 2

_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": "softpos",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, headers (names in any case), and at most MAX_BODY_BYTES of body.

    `coding` is the content coding of a body that could not be decoded and is left out.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    coding: str = field(default="", repr=False)


class MutualTlsSession:
    """Sends requests with `certificate`, and trusts only `ca_bundle` (None: the system's authorities)."""

    def __init__(self, certificate: Certificate, ca_bundle: str | None) -> None:
        """Raises MisconfiguredError when the certificate does not load, or when there is no authority to trust."""
        self._certificate = certificate
        self._adapter = _Adapter(_context(certificate, ca_bundle))

    def send(
        self,
        method: str,
        url: str,
        deadline: Deadline,
        *,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request over a new connection and return its answer, whatever the status.

        Raises OutOfTimeError when no time is left to begin, NexiTimeoutError at the deadline or after READ_SECONDS,
        UnansweredError when Nexi ends the connection before the first byte of an answer, NexiUnavailableError when
        there is no connection or it breaks, and MisconfiguredError when either side refuses the other's certificate.
        """
        remaining = deadline.required(f"{method} {url}")
        exchange = _Exchange(deadline)
        token = _current.set(exchange)
        answer = None
        try:
            request = requests.Request(method, url, {**_HEADERS, **(headers or {})}, data=form).prepare()
            timeout = CONNECT_SECONDS, min(READ_SECONDS, remaining)
            with self._adapter.send(request, stream=True, timeout=timeout) as response:
                answer = _read(response)
        except SoftposError:
            raise
        # What malformed bytes make http.client, urllib3 and zlib raise.
        except (OSError, HTTPError, http.client.HTTPException, ValueError, OverflowError) as error:
            translated = self._translated(error, exchange, method, url)
            if isinstance(translated, NexiUnavailableError | NexiTimeoutError):
                translated.reached = exchange.sent
            raise translated from error
        finally:
            _current.reset(token)
            if exchange.response is not None:
                # urllib3 leaves it open when it does not like the headers.
                exchange.response.close()
            exchange.remember(good=answer is not None and answer.status in (200, 201))
        return answer

    def _translated(self, error: Exception, exchange: "_Exchange", method: str, url: str) -> Exception:
        causes = list(_causes(error))
        shown = (
            f"{self._certificate.subject}, SHA-256 {self._certificate.thumbprint}, "
            f"valid until {self._certificate.not_after:%Y-%m-%d}"
        )
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return MisconfiguredError(
                    f"{url}: the server's certificate is not trusted ({cause.verify_message})",
                    "Check NEXI_BASE_URL, and NEXI_CA_BUNDLE if it is set: it must hold the server's authority.",
                )
            if isinstance(cause, ssl.SSLError) and _refuses_us(cause.reason or ""):
                return CredentialsRefusedError(
                    f"{url}: Nexi ended the handshake ({cause.reason}); it saw {shown}",
                    "Store a certificate that Nexi signed for this stage, in time, with its chain.",
                )
        if any(isinstance(cause, requests.Timeout | TimeoutError) for cause in causes):
            return NexiTimeoutError(f"{method} {url} got no answer in time ({type(causes[-1]).__name__})")
        reason = next((cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
        reason = reason or type(causes[-1]).__name__
        if exchange.pool is not None and not exchange.received:
            return UnansweredError(
                f"{method} {url}: Nexi ended a new connection before answering ({reason}); it saw {shown}",
                "Ask Nexi whether this certificate is registered: load balancers refuse one without an alert.",
            )
        return NexiUnavailableError(f"{method} {url} failed ({reason})")


def _read(response: BaseHTTPResponse) -> Answer:
    """Read a body to its end or to the limit. urllib3 decompresses no more than is asked for."""
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    compressed = coding in ("gzip", "x-gzip", "deflate")
    body = b""
    try:
        if compressed or coding in ("", "identity"):
            coding = ""
            while len(body) <= MAX_BODY_BYTES and (chunk := response.read(16_384, decode_content=compressed)):
                body += chunk
    except DecodeError:
        # The status counts even so.
        return Answer(response.status, response.headers, b"", response.headers["Content-Encoding"])
    return Answer(response.status, response.headers, body[:MAX_BODY_BYTES], coding)


def _refuses_us(reason: str) -> bool:
    """Return whether an alert is about what we have shown (RFC 8446 section 6.2), not about Nexi's own state."""
    return "ALERT" in reason and any(each in reason for each in _ABOUT_US)


_ABOUT_US = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "DECRYPT_ERROR", "HANDSHAKE_FAILURE")


@dataclass(slots=True)
class _Exchange:
    """What is known of the request under way: the parts below have no other way to their caller."""

    deadline: Deadline
    pool: "_Pool | None" = None
    """Set once TCP has connected."""
    sent: bool = False
    """Whether a byte of the request has left."""
    received: int = 0
    """Bytes of an answer."""
    resumed: ssl.SSLSession | None = None
    """The TLS session that was offered to the server."""
    session: ssl.SSLSession | None = None
    """The TLS session that the next connection may resume."""
    response: "_Response | None" = None

    def remember(self, *, good: bool) -> None:
        """Keep the TLS session of a good answer only: a gateway may keep its verdict on our certificate in it."""
        if self.pool is None:
            return
        if self.resumed is not None:
            # Some servers end every handshake that offers a session. A full one each time is slower, and works.
            self.pool.failed_resumptions = 0 if self.received else self.pool.failed_resumptions + 1
        self.pool.session = self.session if good and self.pool.failed_resumptions < _MAX_FAILED_RESUMPTIONS else None


_current: ContextVar[_Exchange] = ContextVar("exchange")


class _Socket(ssl.SSLSocket):
    """Sends and reads until the deadline and no further: a byte now and then does not start the clock again."""

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        self._keep_to_deadline()
        received = super().recv_into(buffer, nbytes, flags)
        exchange = _current.get(None)
        if exchange is not None:
            exchange.received += received
        return received

    def send(self, data: Any, flags: int = 0) -> int:
        self._keep_to_deadline()
        sent = super().send(data, flags)
        exchange = _current.get(None)
        if exchange is not None:
            exchange.sent = True
        return sent

    def _keep_to_deadline(self) -> None:
        exchange = _current.get(None)
        if exchange is not None:
            remaining = exchange.deadline.remaining()
            if not remaining:
                raise TimeoutError("the deadline passed")
            timeout = self.gettimeout()
            self.settimeout(remaining if timeout is None else min(timeout, remaining))


class _Context(ssl.SSLContext):
    """Offers the TLS session of the last good answer to the server."""

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        exchange = _current.get()
        if exchange.pool is not None:
            exchange.resumed = exchange.pool.session
        return super().wrap_socket(*arguments, **{**options, "session": exchange.resumed})


class _Response(http.client.HTTPResponse):
    """Reads past interim answers, all of them; http.client knows only 100."""

    def __init__(self, sock: ssl.SSLSocket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self._socket = sock
        _current.get().response = self

    def begin(self) -> None:
        super().begin()
        _current.get().session = self._socket.session
        try:
            assert_header_parsing(self.msg)
        except (HeaderParsingError, TypeError):
            telemetry.note(header_defect=True)

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_INTERIM_ANSWERS + 1):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # not in typeshed
            if status == 101:
                raise NexiUnavailableError("Nexi switched protocols unasked", "Ask Nexi what answers at NEXI_BASE_URL.")
            if not 100 <= status < 200:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise NexiUnavailableError("Nexi gave interim answers only", "Ask Nexi what answers at NEXI_BASE_URL.")


class _Connection(HTTPSConnection):
    response_class = _Response

    def __init__(self, pool: "_Pool", *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pool = pool

    def _new_conn(self) -> socket.socket:
        exchange = _current.get()
        connection = self._pool.connector.connect(self.host, self.port, exchange.deadline)
        exchange.pool = self._pool
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # For the handshake. The read timeout comes after it.
        connection.settimeout(max(0.001, min(HANDSHAKE_SECONDS, exchange.deadline.remaining())))
        return connection


class _Pool(HTTPSConnectionPool):
    """What is known of one server; no pool."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ConnectionCls = functools.partial(_Connection, self)  # type: ignore[assignment]  # makes connections
        self.connector = Connector()
        self.session: ssl.SSLSession | None = None
        self.failed_resumptions = 0
        """In a row."""

    def _put_conn(self, conn: Any) -> None:
        """Close the connection instead of keeping it."""
        if conn is not None:
            conn.close()


class _Adapter(HTTPAdapter):
    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"https": _Pool}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Do nothing. The inherited method would add certifi's bundle to the context."""

    def send(self, *args: Any, **kwargs: Any) -> BaseHTTPResponse:  # type: ignore[override]  # see build_response
        return super().send(*args, **kwargs)  # type: ignore[return-value]

    def build_response(self, req: Any, resp: BaseHTTPResponse) -> Any:  # noqa: ARG002 - requests calls it so
        """Return urllib3's response. The inherited method would parse cookies."""
        return resp


def _context(certificate: Certificate, ca_bundle: str | None) -> ssl.SSLContext:
    """Return a context with what urllib3 sets, and without what it takes from the environment."""
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A TLS 1.3 server may ask for the certificate after it has read the request.
    context.post_handshake_auth = True
    context.hostname_checks_common_name = False
    # NEXI_CA_BUNDLE may hold the issuing authority without its root.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.sslsocket_class = _Socket
    _trust(context, ca_bundle)
    try:
        with _pipe(certificate.chain_pem) as chain, _pipe(certificate.key_pem) as key:
            context.load_cert_chain(chain, key)
    except (OSError, ValueError) as error:
        raise MisconfiguredError(
            f"certificate secret: OpenSSL does not load the certificate and its key ({error})",
            "Store the certificate that Nexi sent, with its chain, and the key of its CSR.",
        ) from error
    return context


def _trust(context: ssl.SSLContext, ca_bundle: str | None) -> None:
    # Not set_default_verify_paths(), and not the first two members: SSL_CERT_FILE and SSL_CERT_DIR redirect them.
    system = ssl.get_default_verify_paths()
    files = [ca_bundle] if ca_bundle else [system.openssl_cafile, *_SYSTEM_BUNDLES]
    file = next((each for each in files if each and Path(each).is_file()), None)
    if file is None:
        raise MisconfiguredError(
            "NEXI_CA_BUNDLE names no file" if ca_bundle else "the system has no bundle of authorities",
            "Set NEXI_CA_BUNDLE to the path, in a layer of yours, of a PEM file with the authorities to trust.",
        )
    try:
        context.load_verify_locations(file)
    except (OSError, ssl.SSLError) as error:
        raise MisconfiguredError(
            f"{'NEXI_CA_BUNDLE' if ca_bundle else file} holds no certificates in PEM",
            "Set NEXI_CA_BUNDLE to the path of a PEM file with the authorities to trust for Nexi.",
        ) from error


# Where Amazon Linux, Debian and macOS keep it, for a Python whose own default is somewhere else.
_SYSTEM_BUNDLES = ("/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem")


@contextmanager
def _pipe(pem: bytes) -> Iterator[str]:
    """Yield a path from which `pem` can be read once. OpenSSL loads only files, and a pipe is a file on no disk."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        with os.fdopen(writing, "wb", buffering=0) as end:
            if end.write(pem) != len(pem):
                raise ValueError("longer than a pipe holds")
        yield f"/proc/self/fd/{reading}" if Path("/proc/self/fd").is_dir() else f"/dev/fd/{reading}"
    finally:
        os.close(reading)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and what requests and urllib3 wrap in it: causes, contexts, reasons and arguments."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        each = pending.pop(0)
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            pending += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
