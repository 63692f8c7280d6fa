"""Whom the layer's HTTPS session trusts, what it ignores, and when it stops: against small, real TLS servers."""

import gzip
import socket
import ssl
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from peers import GOOD, Peer
from servers import Request, Server, read_request, reply

from softpos.deadline import Deadline
from softpos.errors import (
    MisconfiguredError,
    NexiTimeoutError,
    NexiUnavailableError,
    OutOfTimeError,
    SoftposError,
)
from softpos.nexi import session as nexi_session
from softpos.nexi.session import MAX_BODY_BYTES, MutualTlsSession

LONG = 10.0


def authorities(session: MutualTlsSession) -> int:
    """How many authorities the context trusts that urllib3 connects with."""
    return len(session._adapter.poolmanager.connection_pool_kw["ssl_context"].get_ca_certs())


# ---------------------------------------------------------------- whom it trusts


def test_a_server_of_the_trusted_authority_is_asked_and_sees_the_client_certificate(peer: Peer) -> None:
    seen: list[Any] = []

    def behave(connection: ssl.SSLSocket) -> None:
        seen.append(connection.getpeercert(binary_form=True))
        read_request(connection)
        connection.sendall(GOOD)

    server = peer.rude(behave)
    answer = peer.session().send("GET", server.url, Deadline(LONG))

    assert (answer.status, answer.body) == (200, b'{"good": true}')
    assert seen == [ssl.PEM_cert_to_DER_cert(peer.certificate.chain_pem.decode())]


def test_a_server_of_another_authority_is_refused_before_a_byte_of_the_request_leaves(peer: Peer) -> None:
    server = peer.nexi(issued=peer.strangers_server)
    with pytest.raises(MisconfiguredError, match="is not trusted"):
        peer.session().send("POST", server.url, Deadline(LONG), form={"client_secret": "sentinel"})
    assert server.requests == []


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_no_other_authority_comes_in_by(variable: str, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    value = peer.strangers_bundle.parent if variable.endswith("DIR") else peer.strangers_bundle
    monkeypatch.setenv(variable, str(value))
    server = peer.nexi(issued=peer.strangers_server)
    with pytest.raises(MisconfiguredError, match="is not trusted"):
        peer.session().send("GET", server.url, Deadline(LONG))
    assert server.requests == []


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"])
def test_the_systems_own_authorities_are_not_redirected_by(
    variable: str, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = peer.strangers_bundle.parent if variable.endswith("DIR") else peer.strangers_bundle
    monkeypatch.setenv(variable, str(value))
    server = peer.nexi(issued=peer.strangers_server)
    with pytest.raises(MisconfiguredError):  # because it is not trusted, or because this machine has no bundle at all
        _with_system_authorities(peer).send("GET", server.url, Deadline(LONG))
    assert server.requests == []


def _with_system_authorities(peer: Peer) -> MutualTlsSession:
    return MutualTlsSession(peer.certificate, None)


def test_after_requests_good_and_bad_exactly_one_authority_is_trusted_still(peer: Peer) -> None:
    session = peer.session()
    assert authorities(session) == 1
    session.send("GET", peer.nexi().url, Deadline(LONG))
    with pytest.raises(MisconfiguredError):
        session.send("GET", peer.nexi(issued=peer.strangers_server).url, Deadline(LONG))
    assert authorities(session) == 1


def test_a_server_by_another_name_is_refused(peer: Peer) -> None:
    server = peer.nexi(issued=peer.authority.server("localhost", "127.0.0.2"))
    with pytest.raises(MisconfiguredError, match="is not trusted"):
        peer.session().send("GET", server.url, Deadline(LONG))
    assert server.requests == []


def test_a_client_certificate_is_no_servers_certificate(peer: Peer) -> None:
    server = peer.nexi(issued=peer.authority.developer("127.0.0.1"))
    with pytest.raises(MisconfiguredError, match="is not trusted"):
        peer.session().send("GET", server.url, Deadline(LONG))
    assert server.requests == []


def test_tls_1_1_is_refused(peer: Peer) -> None:
    def adjust(context: ssl.SSLContext) -> None:
        _allow_tls_1_1(context)
        context.verify_mode = ssl.CERT_NONE

    asked: list[Request | None] = []
    server = peer.rude(lambda connection: asked.append(read_request(connection)), adjust)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _allow_tls_1_1(old)
    old.load_verify_locations(peer.bundle)
    with ExitStack() as control:
        plain = control.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
        assert control.enter_context(old.wrap_socket(plain, server_hostname="127.0.0.1")).version() == "TLSv1.1"

    with pytest.raises(SoftposError):
        peer.session().send("GET", server.url, Deadline(LONG))
    assert not any(asked)


def _allow_tls_1_1(context: ssl.SSLContext) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")


# ---------------------------------------------------------------- what it ignores


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY"])
def test_no_proxy_is_contacted_when_the_environment_has_one_in(
    variable: str, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = peer.plain(lambda connection: connection.recv(65536))
    server = peer.nexi()
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")

    assert peer.session().send("GET", server.url, Deadline(LONG)).status == 200
    assert len(server.requests) == 1
    assert proxy.connections == 0


def test_no_password_is_taken_from_netrc(peer: Peer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login mario password sentinel\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server = peer.nexi()

    peer.session().send("GET", server.url, Deadline(LONG))

    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_an_answer_and_is_not_followed(status: str, peer: Peer) -> None:
    elsewhere = peer.nexi()
    server = peer.nexi(reply(status, b"", [("Location", f"{elsewhere.url}/stolen")]))

    answer = peer.session().send("POST", f"{server.url}/token", Deadline(LONG), form={"client_secret": "sentinel"})

    assert answer.status == int(status[:3])
    assert len(server.requests) == 1
    assert elsewhere.connections == 0


# ---------------------------------------------------------------- how much it reads


def test_of_ten_mebibytes_no_more_than_the_cap_is_kept(peer: Peer) -> None:
    server = peer.nexi(reply("200 OK", b"x" * 10 * 1024 * 1024))
    answer = peer.session().send("GET", server.url, Deadline(LONG))
    assert answer.body == b"x" * MAX_BODY_BYTES


def test_a_body_that_never_ends_is_cut_at_the_cap(peer: Peer) -> None:
    def behave(connection: Any) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")

    answer = peer.session().send("GET", peer.rude(behave).url, Deadline(LONG))
    assert answer.body == b"x" * MAX_BODY_BYTES


@pytest.mark.parametrize(
    ("coding", "compress"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("GZIP", gzip.compress), ("deflate", zlib.compress)],
)
def test_a_body_that_is_compressed_unasked_is_decompressed(
    coding: str, compress: Callable[[bytes], bytes], peer: Peer
) -> None:
    server = peer.nexi(reply("200 OK", compress(b'{"good": true}'), [("Content-Encoding", coding)]))
    answer = peer.session().send("GET", server.url, Deadline(LONG))
    assert (answer.body, answer.coding) == (b'{"good": true}', "")
    assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip"])
def test_a_body_in_another_coding_is_left_out_and_the_coding_named(coding: str, peer: Peer) -> None:
    server = peer.nexi(reply("400 Bad Request", b"compressed", [("Content-Encoding", coding)]))
    answer = peer.session().send("GET", server.url, Deadline(LONG))
    assert (answer.status, answer.body, answer.coding) == (400, b"", coding)


def test_a_body_that_is_not_what_its_coding_says_is_left_out(peer: Peer) -> None:
    server = peer.nexi(reply("400 Bad Request", b"\x1f\x8b not really gzip", [("Content-Encoding", "gzip")]))
    answer = peer.session().send("GET", server.url, Deadline(LONG))
    assert (answer.status, answer.body, answer.coding) == (400, b"", "gzip")


def test_a_body_that_ends_too_early_is_no_answer(peer: Peer) -> None:
    def behave(connection: Any) -> None:
        read_request(connection)
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"access_token":')

    with pytest.raises(NexiUnavailableError):
        peer.session().send("GET", peer.rude(behave).url, Deadline(LONG))


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000],
    ids=["nothing", "another protocol", "a status that is no number", "a thousand headers"],
)
def test_what_is_not_http_is_no_answer(answer: bytes, peer: Peer) -> None:
    def behave(connection: Any) -> None:
        read_request(connection)
        connection.sendall(answer)

    with pytest.raises(NexiUnavailableError):
        peer.session().send("GET", peer.rude(behave).url, Deadline(LONG))


# ---------------------------------------------------------------- when it stops


def _trickle(data: bytes, rest: bytes) -> Callable[[Any], None]:
    """Sends `data` at once, and then `rest` for ever, a byte at a time."""

    def behave(connection: Any) -> None:
        read_request(connection)
        connection.sendall(data)
        with suppress(OSError):
            while True:
                for byte in rest:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.05)  # what is tested: always a byte, never an answer

    return behave


TRICKLES = {
    "the status line": _trickle(b"HTTP/1.1 ", b"2"),
    "the headers": _trickle(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
    "the body": _trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", b"x"),
    "the chunks": _trickle(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
}


@pytest.mark.parametrize("what", TRICKLES)
def test_the_deadline_cuts_a_server_that_trickles(what: str, peer: Peer) -> None:
    server = peer.rude(TRICKLES[what])
    began = time.monotonic()
    with pytest.raises(NexiTimeoutError):
        peer.session().send("GET", server.url, Deadline(0.6))
    assert 0.5 < time.monotonic() - began < 1.6


def test_the_deadline_cuts_a_server_that_answers_nothing(peer: Peer) -> None:
    server = peer.rude(lambda connection: read_request(connection) and server.stopping.wait(10))
    began = time.monotonic()
    with pytest.raises(NexiTimeoutError):
        peer.session().send("GET", server.url, Deadline(0.6))
    assert time.monotonic() - began < 1.6


def test_the_deadline_cuts_a_server_that_never_shakes_hands(peer: Peer) -> None:
    server = peer.plain(lambda _connection: server.stopping.wait(10))
    began = time.monotonic()
    with pytest.raises(NexiTimeoutError):
        peer.session().send("GET", f"https://127.0.0.1:{server.port}", Deadline(0.6))
    assert time.monotonic() - began < 1.6


def test_a_deadline_that_has_passed_lets_nothing_leave(peer: Peer) -> None:
    server = peer.nexi()
    with pytest.raises(OutOfTimeError, match="no time left"):
        peer.session().send("GET", server.url, Deadline(0))
    assert server.connections == 0


def test_one_request_that_timed_out_does_not_spoil_the_next(peer: Peer) -> None:
    slow = peer.rude(TRICKLES["the body"])
    good = peer.nexi()
    session = peer.session()
    with pytest.raises(NexiTimeoutError):
        session.send("GET", slow.url, Deadline(0.3))
    assert session.send("GET", good.url, Deadline(LONG)).status == 200


def test_a_port_where_nobody_listens_is_unavailable(peer: Peer) -> None:
    with ExitStack() as short:
        server = Server(lambda _connection: None)
        short.enter_context(server)
    with pytest.raises(NexiUnavailableError):
        peer.session().send("GET", f"https://127.0.0.1:{server.port}", Deadline(LONG))


# ---------------------------------------------------------------- what it keeps from one request to the next


def test_no_cookie_is_kept(peer: Peer) -> None:
    server = peer.nexi(reply("200 OK", b"{}", [("Set-Cookie", "session=1; Path=/")]))
    session = peer.session()
    for _ in range(2):
        session.send("GET", server.url, Deadline(LONG))
    assert "cookie" not in server.requests[1].headers


def test_a_deadline_is_forgotten_with_its_request(peer: Peer) -> None:
    peer.session().send("GET", peer.nexi().url, Deadline(LONG))
    assert nexi_session._current.get(None) is None


@pytest.mark.parametrize("status", ["200 OK", "302 Found", "400 Bad Request"])
def test_a_compressed_bomb_swells_no_further_than_the_cap(status: str, peer: Peer) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    headers = [("Location", "https://127.0.0.1:1/"), ("Content-Encoding", "gzip")]
    server = peer.nexi(reply(status, bomb, headers))
    session = peer.session()
    tracemalloc.start()
    try:
        answer = session.send("GET", server.url, Deadline(LONG))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.body == b" " * MAX_BODY_BYTES
    assert peak < 2_000_000


def test_a_redirect_to_nowhere_is_an_answer_like_any_other(peer: Peer) -> None:
    server = peer.nexi(reply("302 Found", b"", [("Location", "https://[::1")]))
    assert peer.session().send("GET", server.url, Deadline(LONG)).status == 302
