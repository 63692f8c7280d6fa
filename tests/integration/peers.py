"""The layer's session on one side, small real TLS servers on the other."""

import json
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from servers import FakeNexi, Request, Server, TlsServer, reply

from sandbox.authority import Authority, Issued
from softpos.credentials import Certificate, parse_certificate
from softpos.nexi.session import MutualTlsSession

GOOD = reply("200 OK", b'{"good": true}')


class Peer:
    """A session of the layer's, and the servers that it meets."""

    def __init__(self, folder: Path, running: ExitStack) -> None:
        self.authority = Authority("trusted")
        self.stranger = Authority("stranger")
        self.server = self.authority.server("127.0.0.1")
        self.strangers_server = self.stranger.server("127.0.0.1")
        developer = self.authority.developer("APP")
        self.key_pem = developer.key_pem
        self.certificate: Certificate = parse_certificate(
            json.dumps({"certificate": developer.certificate_pem, "private_key": developer.key_pem})
        )
        self.bundle = folder / "trusted.pem"
        self.bundle.write_text(self.authority.certificate_pem)
        self.strangers_bundle = folder / "both.pem"
        self.strangers_bundle.write_text(self.authority.certificate_pem + self.stranger.certificate_pem)
        self.running = running

    def session(self) -> MutualTlsSession:
        return MutualTlsSession(self.certificate, str(self.bundle))

    def nexi(self, answer: bytes | Callable[[Request], bytes] = GOOD, issued: Issued | None = None) -> FakeNexi:
        """Start an HTTP server; by default a trusted one that answers well."""
        give = answer if callable(answer) else lambda _request: answer
        server = FakeNexi(issued or self.server, self.authority, give)
        self.running.enter_context(server)
        return server

    def rude(
        self, behave: Callable[[Any], None], adjust: Callable[[ssl.SSLContext], None] = lambda _: None
    ) -> TlsServer:
        """A trusted server that does with the connection what it likes."""
        server = TlsServer(self.server, self.authority, behave, adjust)
        self.running.enter_context(server)
        return server

    def plain(self, behave: Callable[[Any], None]) -> Server:
        """A server without TLS."""
        server = Server(behave)
        self.running.enter_context(server)
        return server
