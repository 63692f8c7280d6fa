"""Servers that Nexi is not: small, on 127.0.0.1, with real TLS, and as rude as a test wants them."""

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from sandbox.authority import Authority, Issued


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    method: str
    path: str
    head: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Server:
    """A context manager: inside it a thread per connection calls `behave`, outside nothing listens."""

    def __init__(self, behave: Callable[[Any], None]) -> None:
        self.connections = 0
        self.requests: list[Request] = []
        self.mishaps: list[BaseException] = []
        self.stopping = threading.Event()
        self._behave = behave
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        server = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                server._connected(self.request)

        class Listener(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = False
            request_queue_size = 64

        self._listener = Listener(("127.0.0.1", 0), Handler)
        self.port: int = self._listener.server_address[1]
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stopping.set()
        self._listener.shutdown()
        with self._lock:
            for each in self._open:
                _hang_up(each)
        self._thread.join(10)
        self._listener.server_close()
        assert self.mishaps == [], self.mishaps

    def secured(self, connection: socket.socket) -> socket.socket:
        """What the client is talked to through."""
        return connection

    def _connected(self, plain: socket.socket) -> None:
        plain.settimeout(20)
        with self._lock:
            self.connections += 1
            self._open.add(plain)
        try:
            with self.secured(plain) as connection:
                with self._lock:
                    self._open.discard(plain)
                    self._open.add(connection)
                self._behave(connection)
        except OSError:
            pass  # the client went away, or would not shake hands: that is what most of these tests are about
        except Exception as error:  # noqa: BLE001 - in a thread: told to the test when the server stops
            self.mishaps.append(error)
        finally:
            with self._lock:
                self._open = {each for each in self._open if each.fileno() != -1}


class TlsServer(Server):
    """One with a certificate of its own, that demands a client certificate of `clients`."""

    def __init__(
        self,
        issued: Issued,
        clients: Authority,
        behave: Callable[[Any], None],
        adjust: Callable[[ssl.SSLContext], None] = lambda _context: None,
    ) -> None:
        self._context = issued.context(ssl.PROTOCOL_TLS_SERVER)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_verify_locations(cadata=clients.certificate_pem)
        adjust(self._context)
        super().__init__(behave)
        self.url = f"https://127.0.0.1:{self.port}"

    def secured(self, connection: socket.socket) -> socket.socket:
        return self._context.wrap_socket(connection, server_side=True)


class FakeNexi(TlsServer):
    """An HTTP server with Nexi's name on its certificate. `answer` gives the bytes of each whole response."""

    def __init__(self, issued: Issued, clients: Authority, answer: Callable[[Request], bytes]) -> None:
        self.answer = answer
        super().__init__(issued, clients, self._serve)

    def _serve(self, connection: Any) -> None:
        while (request := read_request(connection)) is not None:
            self.requests.append(request)
            connection.sendall(self.answer(request))


def read_request(connection: Any) -> Request | None:
    """The next request of a kept-alive connection; None when the client has hung up."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            return None
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        chunk = connection.recv(65536)
        if not chunk:
            return None
        body += chunk
    method, path, _ = first.split(" ", 2)
    return Request(method, path, head.decode("latin-1"), headers, body)


def reply(
    status: str, body: bytes, headers: Iterable[tuple[str, str]] = (), content_type: str = "application/json"
) -> bytes:
    """The bytes of a response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be closed already
        connection.shutdown(socket.SHUT_RDWR)
