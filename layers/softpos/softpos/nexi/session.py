"""HTTPS to one server, with a client certificate, a closed list of authorities, and an end in sight.

What a `Session` of requests would do by itself and must not: take proxies, netrc and CA bundles from the environment,
follow redirects, keep cookies. So there is none, but the adapter under it alone, which would add certifi's bundle to an
SSL context of ours, retry, and wait for as long as the server keeps a byte coming, and is told not to.
"""

import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from softpos.credentials import Certificate
from softpos.deadline import Deadline
from softpos.errors import (
    CredentialsRefusedError,
    MisconfiguredError,
    NexiTimeoutError,
    NexiUnavailableError,
)

MAX_BODY_BYTES = 64 * 1024
"""Nexi's answers have a few hundred bytes. More than this is cut, and then is no answer."""

CONNECT_SECONDS = 2.0
"""For one address of at most three."""

READ_SECONDS = 3.0
"""For one read: an enrollment's deadline has room for two that get nothing and a third that does."""

IDLE_SECONDS = 50.0
"""A connection that was unused for longer is not used again: whoever closes idle ones has likely done so."""

_MAX_ADDRESSES = 3

_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "softpos"}

_deadline: ContextVar[Deadline] = ContextVar("deadline")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a status, headers (names in any case), and at most MAX_BODY_BYTES of body."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class MutualTlsSession:
    """A kept-alive session that shows `certificate` and trusts `ca_bundle` (None: the system's authorities) alone."""

    def __init__(self, certificate: Certificate, ca_bundle: str | None, now: Callable[[], float] = time.time) -> None:
        """Raises MisconfiguredError when the certificate does not load or there is no one to trust."""
        self._certificate = certificate
        self._adapter = _Adapter(_context(certificate, ca_bundle))
        self._now = now
        self._used_at = 0.0

    def send(
        self,
        method: str,
        url: str,
        deadline: Deadline,
        *,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request, one answer, whatever its status.

        Raises OutOfTimeError when no time is left to begin, NexiTimeoutError at the deadline or when a read takes too
        long, NexiUnavailableError when there is no connection or it breaks, MisconfiguredError when either side refuses
        the other's certificate.
        """
        remaining = deadline.required(f"{method} {url}")
        # By the wall clock, which goes on while Lambda has us frozen.
        if not 0 <= self._now() - self._used_at < IDLE_SECONDS:
            self.close()
        timeout = min(CONNECT_SECONDS, remaining), min(READ_SECONDS, remaining)
        token = _deadline.set(deadline)
        try:
            request = requests.Request(method, url, {**_HEADERS, **(headers or {})}, data=form).prepare()
            with self._adapter.send(request, stream=True, timeout=timeout) as response:
                body = b""
                # To the end, where urllib3 notices a body that was cut short; or to the limit.
                while len(body) <= MAX_BODY_BYTES and (chunk := response.raw.read(16_384, decode_content=False)):
                    body += chunk
                return Answer(response.status_code, response.headers, body[:MAX_BODY_BYTES])
        except (OSError, HTTPError) as error:
            # The connection may be half open: not one more request on it, or on another of its age.
            self.close()
            raise self._translated(error, method, url) from error
        finally:
            self._used_at = self._now()
            _deadline.reset(token)

    def close(self) -> None:
        """Drop every connection. The next request makes a new one."""
        self._adapter.close()

    def _translated(self, error: Exception, method: str, url: str) -> Exception:
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return MisconfiguredError(
                    f"{url}: the server's certificate is not to be trusted ({cause.verify_message})",
                    "check NEXI_BASE_URL, and NEXI_CA_BUNDLE if it is set: it must hold the server's authority",
                )
            if isinstance(cause, ssl.SSLError) and _refuses_us(cause.reason or ""):
                return CredentialsRefusedError(
                    f"{url}: Nexi ended the handshake ({cause.reason}); it saw {self._certificate.subject}, "
                    f"SHA-256 {self._certificate.thumbprint}, valid until {self._certificate.not_after:%Y-%m-%d}",
                    "store a certificate that Nexi signed for this stage, in time, with its chain",
                )
        if any(isinstance(cause, requests.Timeout | TimeoutError) for cause in causes):
            return NexiTimeoutError(f"{method} {url} got no answer in time ({type(causes[-1]).__name__})")
        reason = next((cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
        return NexiUnavailableError(f"{method} {url} failed ({reason or type(causes[-1]).__name__})")


def _refuses_us(reason: str) -> bool:
    """Whether it is an alert about what we have shown (RFC 8446 section 6.2), and not about Nexi's own state."""
    return "ALERT" in reason and any(each in reason for each in _ABOUT_US)


_ABOUT_US = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "DECRYPT_ERROR", "HANDSHAKE_FAILURE")


class _Socket(ssl.SSLSocket):
    """Reads until the deadline and no further, so that a byte now and then does not start the clock anew."""

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        deadline = _deadline.get(None)
        if deadline is not None:
            remaining = deadline.remaining()
            if not remaining:
                raise TimeoutError("the deadline passed while reading")
            timeout = self.gettimeout()
            self.settimeout(remaining if timeout is None else min(timeout, remaining))
        return super().recv_into(buffer, nbytes, flags)


class _Connection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        """A connection within the deadline: the inherited method gives each address the whole timeout again."""
        deadline = _deadline.get()
        failure: OSError = TimeoutError("the deadline passed while connecting")
        addresses = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in addresses[:_MAX_ADDRESSES]:
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(max(0.001, min(CONNECT_SECONDS, deadline.remaining())))
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.connect(address)
            except OSError as error:
                connection.close()
                failure = error
            else:
                return connection
        raise failure


class _Pool(HTTPSConnectionPool):
    ConnectionCls = _Connection


class _Adapter(HTTPAdapter):
    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"https": _Pool}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing: trust is the context's. The inherited method would load certifi's bundle into it."""


def _context(certificate: Certificate, ca_bundle: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _Socket
    _trust(context, ca_bundle)
    try:
        with _pipe(certificate.chain_pem) as chain, _pipe(certificate.key_pem) as key:
            context.load_cert_chain(chain, key)
    except (OSError, ValueError) as error:
        raise MisconfiguredError(
            f"certificate secret: OpenSSL does not take the certificate and its key ({error})",
            "store the certificate that Nexi sent, with its chain, and the key of its CSR",
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
            "let NEXI_CA_BUNDLE be the path of a PEM file with the authorities to trust for Nexi, in a layer of yours",
        )
    try:
        context.load_verify_locations(file)
    except (OSError, ssl.SSLError) as error:
        raise MisconfiguredError(
            f"{'NEXI_CA_BUNDLE' if ca_bundle else file} holds no certificates in PEM",
            "let NEXI_CA_BUNDLE be the path of a PEM file with the authorities to trust for Nexi",
        ) from error


# Where Amazon Linux, Debian and macOS keep it, for a Python whose own default is somewhere else.
_SYSTEM_BUNDLES = ("/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem")


@contextmanager
def _pipe(pem: bytes) -> Iterator[str]:
    """A path that `pem` can be read from once. OpenSSL loads files alone; a pipe is one that is on no disk."""
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
    """The error and what is under it, as requests and urllib3 wrap it: in causes, contexts, reasons and arguments."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        each = pending.pop(0)
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            pending += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
