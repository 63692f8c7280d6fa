"""How the layer's HTTPS session connects, and what it makes of connections that break: against real TLS servers."""

import contextlib
import json
import os
import random
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from peers import GOOD, Peer
from servers import read_request, reply

from sandbox.authority import Authority
from sandbox.faults import reset
from softpos import telemetry
from softpos.credentials import parse_certificate
from softpos.deadline import Deadline
from softpos.errors import MisconfiguredError, NexiTimeoutError, NexiUnavailableError, SoftposError, UnansweredError
from softpos.nexi.happy_eyeballs import ATTEMPT_DELAY_SECONDS
from softpos.nexi.session import MAX_INTERIM_ANSWERS, MutualTlsSession

LONG = 10.0
TLS_1_2 = ssl.TLSVersion.TLSv1_2


def only_tls_1_2(context: ssl.SSLContext) -> None:
    context.maximum_version = TLS_1_2


def any_version(_context: ssl.SSLContext) -> None:
    """Leave the server's versions as they are."""


# ---------------------------------------------------------------- one request, one connection


def test_each_request_has_a_connection_of_its_own(peer: Peer) -> None:
    server, session = peer.nexi(), peer.session()
    for _ in range(3):
        assert session.send("POST", server.url, Deadline(LONG), form={"a": "b"}).status == 200
    assert server.connections == 3
    assert server.requests[0].headers["connection"] == "close"


class Resuming:
    """A server that answers with a status, and remembers which connections resumed a TLS session."""

    def __init__(self, *statuses: str) -> None:
        self.resumed: list[bool] = []
        self._statuses = list(statuses)

    def __call__(self, connection: ssl.SSLSocket) -> None:
        self.resumed.append(bool(connection.session_reused))
        read_request(connection)
        connection.sendall(reply(self._statuses.pop(0), b"{}"))


@pytest.mark.parametrize("adjust", [any_version, only_tls_1_2], ids=["TLS 1.3", "TLS 1.2"])
def test_after_a_good_answer_the_tls_session_is_resumed(adjust: Callable[[ssl.SSLContext], None], peer: Peer) -> None:
    behave = Resuming("200 OK", "201 Created", "200 OK")
    server, session = peer.rude(behave, adjust), peer.session()
    for _ in range(3):
        session.send("GET", server.url, Deadline(LONG))
    assert behave.resumed == [False, True, True]


def test_after_a_refusal_the_next_handshake_is_a_full_one(peer: Peer) -> None:
    """A gateway may keep its verdict on the certificate in the TLS session."""
    behave = Resuming("200 OK", "403 Forbidden", "200 OK")
    server, session = peer.rude(behave), peer.session()
    for _ in range(3):
        session.send("GET", server.url, Deadline(LONG))
    assert behave.resumed == [False, True, False]


def test_a_server_that_ends_resumed_handshakes_is_given_full_ones(peer: Peer) -> None:
    resumed = []

    def behave(connection: ssl.SSLSocket) -> None:
        resumed.append(bool(connection.session_reused))
        if not connection.session_reused:
            read_request(connection)
            connection.sendall(GOOD)

    server, session = peer.rude(behave), peer.session()
    statuses = []
    for _ in range(7):
        with contextlib.suppress(UnansweredError):
            statuses.append(session.send("GET", server.url, Deadline(LONG)).status)
    assert resumed == [False, True, False, True, False, False, False]
    assert statuses == [200] * 5


# ---------------------------------------------------------------- interim answers


def interim(count: int, status: int = 103) -> bytes:
    return f"HTTP/1.1 {status} Interim\r\nLink: </x>\r\n\r\n".encode() * count


def answering(answer: bytes) -> Callable[[Any], None]:
    def behave(connection: Any) -> None:
        read_request(connection)
        connection.sendall(answer)

    return behave


@pytest.mark.parametrize("status", [100, 102, 103, 199])
@pytest.mark.parametrize("count", [1, MAX_INTERIM_ANSWERS])
def test_interim_answers_are_read_past(status: int, count: int, peer: Peer) -> None:
    server = peer.rude(answering(interim(count, status) + GOOD))
    assert peer.session().send("GET", server.url, Deadline(LONG)).body == b'{"good": true}'


@pytest.mark.parametrize("answer", [interim(MAX_INTERIM_ANSWERS + 1), interim(1, 101)], ids=["eleven", "101"])
def test_too_many_interim_answers_and_switching_protocols_are_errors(answer: bytes, peer: Peer) -> None:
    with pytest.raises(NexiUnavailableError):
        peer.session().send("GET", peer.rude(answering(answer + GOOD)).url, Deadline(LONG))


def test_interim_answers_do_not_stretch_the_deadline(peer: Peer) -> None:
    def behave(connection: Any) -> None:
        read_request(connection)
        for _ in range(MAX_INTERIM_ANSWERS):
            connection.sendall(interim(1))
            server.stopping.wait(0.2)

    server = peer.rude(behave)
    began = time.monotonic()
    with pytest.raises(NexiTimeoutError):
        peer.session().send("GET", server.url, Deadline(0.6))
    assert time.monotonic() - began < 1.6


# ---------------------------------------------------------------- any bytes at all

PIECES = [
    b"HTTP/1.1 201 Created\r\n",
    b"HTTP/1.1 103 Early Hints\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 -1 X\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Set-Cookie: a=b; Expires=never; Max-Age=x\r\n",
    b"Bad Header: x\r\n",
    b"X: \xff\x00\r",
    b"\r\n",
    b"-5\r\n",
    b"5\r\nhello\r\n",
    b"fffffffffffffffff\r\n",
    b"0\r\n\r\n",
    b'{"request_uri": "urn:x"}',
    b"\x1f\x8b\x08\x00",
    b"\x00\xff" * 8,
]


@pytest.mark.parametrize("seed", range(8))
def test_random_bytes_raise_documented_errors_alone(seed: int, peer: Peer) -> None:
    chance = random.Random(seed)

    def behave(connection: Any) -> None:
        read_request(connection)
        connection.sendall(b"".join(chance.choices(PIECES, k=chance.randint(1, 8))))

    server, session = peer.rude(behave), peer.session()
    for _ in range(100):
        with contextlib.suppress(SoftposError):
            session.send("GET", server.url, Deadline(LONG))


def test_a_header_that_cannot_be_parsed_is_a_field_of_our_line(peer: Peer) -> None:
    telemetry.begin("test")
    server = peer.rude(answering(b"HTTP/1.1 200 OK\r\nBad Header: x\r\nContent-Length: 2\r\n\r\n{}"))
    peer.session().send("GET", server.url, Deadline(LONG))
    assert telemetry._line()["header_defect"] is True


# ---------------------------------------------------------------- a certificate that is refused without an alert


def hang_up(_connection: Any) -> None:
    """Close, without a word."""


def hang_up_after_the_request(connection: Any) -> None:
    read_request(connection)


def reset_after_the_request(connection: Any) -> None:
    read_request(connection)
    reset(connection)


@pytest.mark.parametrize("adjust", [any_version, only_tls_1_2], ids=["TLS 1.3", "TLS 1.2"])
@pytest.mark.parametrize("behave", [hang_up, hang_up_after_the_request, reset, reset_after_the_request])
def test_a_new_connection_that_ends_without_an_answer_asks_about_the_certificate(
    behave: Callable[[Any], None], adjust: Callable[[ssl.SSLContext], None], peer: Peer
) -> None:
    with pytest.raises(UnansweredError) as caught:
        peer.session().send("GET", peer.rude(behave, adjust).url, Deadline(LONG))
    assert peer.certificate.subject in str(caught.value)
    assert peer.certificate.thumbprint in str(caught.value)
    assert "registered" in caught.value.remedy


def test_a_connection_that_ends_in_the_handshake_asks_about_the_certificate(peer: Peer) -> None:
    def behave(connection: Any) -> None:
        connection.recv(16_384)

    server = peer.plain(behave)
    with pytest.raises(UnansweredError):
        peer.session().send("GET", f"https://127.0.0.1:{server.port}", Deadline(LONG))


@pytest.mark.parametrize(
    "behave",
    [answering(b"H"), answering(reply("200 OK", b"{}")[:-1])],
    ids=["one byte", "half a body"],
)
def test_a_connection_that_ends_after_the_first_byte_does_not(behave: Callable[[Any], None], peer: Peer) -> None:
    with pytest.raises(NexiUnavailableError) as caught:
        peer.session().send("GET", peer.rude(behave).url, Deadline(LONG))
    assert not isinstance(caught.value, UnansweredError)


def test_a_port_where_nobody_listens_does_not(peer: Peer, refusing: Any) -> None:
    with pytest.raises(NexiUnavailableError) as caught:
        peer.session().send("GET", f"https://127.0.0.1:{refusing[1]}", Deadline(LONG))
    assert not isinstance(caught.value, UnansweredError)


# ---------------------------------------------------------------- TLS


def test_a_server_may_ask_for_the_certificate_after_the_request(peer: Peer) -> None:
    """TLS 1.3 post-handshake authentication, RFC 8446 section 4.6.2."""

    def behave(connection: ssl.SSLSocket) -> None:
        read_request(connection)
        assert connection.getpeercert(binary_form=True) is None
        connection.verify_client_post_handshake()
        connection.sendall(interim(1))
        connection.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            connection.recv(1)  # the certificate comes in handshake messages: no byte for us
        shown = connection.getpeercert(binary_form=True)
        connection.sendall(GOOD if shown else reply("403 Forbidden", b""))

    def adjust(context: ssl.SSLContext) -> None:
        context.post_handshake_auth = True

    answer = peer.session().send("GET", peer.rude(behave, adjust).url, Deadline(LONG))
    assert answer.status == 200


def test_a_bundle_with_the_issuing_authority_alone_is_enough(peer: Peer, tmp_path: Path) -> None:
    """Its own issuer, the root, is not in the bundle."""
    issuing = Authority("issuing", Authority("root"))
    bundle = tmp_path / "issuing.pem"
    bundle.write_text(issuing.certificate_pem)
    server = peer.nexi(issued=issuing.server("127.0.0.1"))
    session = MutualTlsSession(peer.certificate, str(bundle))
    assert session.send("GET", server.url, Deadline(LONG)).status == 200


def test_a_chain_that_openssl_does_not_load_is_a_misconfiguration(peer: Peer) -> None:
    """Its intermediate has a key of 1024 bits, too few for OpenSSL's security level 2."""
    weak = Authority("weak", Authority("root"), rsa.generate_private_key(65537, 1024))
    developer = weak.developer("APP")
    chain = developer.certificate_pem + weak.certificate_pem
    certificate = parse_certificate(json.dumps({"certificate": chain, "private_key": developer.key_pem}))
    with pytest.raises(MisconfiguredError, match="OpenSSL does not load"):
        MutualTlsSession(certificate, str(peer.bundle))


def test_no_key_log_is_written(peer: Peer, tmp_path: Path) -> None:
    """In a process of its own that has SSLKEYLOGFILE: neither for Nexi nor for AWS."""
    server = peer.nexi()
    log = tmp_path / "keys.log"
    secret = tmp_path / "certificate.json"
    secret.write_text(json.dumps({"certificate": peer.certificate.chain_pem.decode(), "private_key": peer.key_pem}))
    program = f"""
        import sys
        from softpos import aws
        from softpos.credentials import parse_certificate
        from softpos.deadline import Deadline
        from softpos.nexi.session import MutualTlsSession
        session = MutualTlsSession(parse_certificate(open({str(secret)!r}).read()), {str(peer.bundle)!r})
        assert session.send("GET", {server.url!r}, Deadline(10)).status == 200
        aws.client("dynamodb")
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        check=True,
        env={
            "PYTHONPATH": os.pathsep.join(sys.path),
            "SSLKEYLOGFILE": str(log),
            "AWS_DEFAULT_REGION": "eu-south-1",
        },
    )
    assert not log.exists()


# ---------------------------------------------------------------- addresses


@pytest.fixture
def dead() -> Iterator[Any]:
    """An address that neither accepts nor refuses: the queue of its port is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as queue:
        for _ in range(4):
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(full.getsockname())
        yield full.getsockname()


@pytest.fixture
def refusing() -> Any:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return closed.getsockname()


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Has name resolution give these addresses; the list it returns has an item for each time that it was asked."""

    def to(*addresses: Any) -> list[int]:
        asked: list[int] = []

        def getaddrinfo(*_arguments: Any, **_options: Any) -> Any:
            asked.append(1)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return to


def seconds_of(call: Callable[[], Any]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_a_dead_first_address_delays_the_first_connection_alone(
    peer: Peer, dead: Any, resolve: Callable[..., list[int]]
) -> None:
    server, session = peer.nexi(), peer.session()
    asked = resolve(dead, ("127.0.0.1", server.port))
    first = seconds_of(lambda: session.send("GET", server.url, Deadline(LONG)))
    second = seconds_of(lambda: session.send("GET", server.url, Deadline(LONG)))
    assert ATTEMPT_DELAY_SECONDS <= first < ATTEMPT_DELAY_SECONDS + 1
    assert second < ATTEMPT_DELAY_SECONDS
    assert len(asked) == 1


def test_a_good_address_behind_many_that_refuse_is_found(
    peer: Peer, refusing: Any, resolve: Callable[..., list[int]]
) -> None:
    server = peer.nexi()
    resolve(*[refusing] * 9, ("127.0.0.1", server.port))
    assert seconds_of(lambda: peer.session().send("GET", server.url, Deadline(LONG))) < 1


def test_a_good_address_behind_several_dead_ones_is_found(
    peer: Peer, dead: Any, resolve: Callable[..., list[int]]
) -> None:
    server = peer.nexi()
    resolve(*[dead] * 4, ("127.0.0.1", server.port))
    assert seconds_of(lambda: peer.session().send("GET", server.url, Deadline(LONG))) < 4 * ATTEMPT_DELAY_SECONDS + 1


def test_when_the_remembered_address_dies_the_others_are_tried_and_resolved_again(
    peer: Peer, refusing: Any, resolve: Callable[..., list[int]]
) -> None:
    first, second, session = peer.nexi(), peer.nexi(), peer.session()
    resolve(("127.0.0.1", first.port))
    assert session.send("GET", first.url, Deadline(LONG)).status == 200
    first.__exit__(None, None, None)
    asked = resolve(refusing, ("127.0.0.1", second.port))
    with pytest.raises(NexiUnavailableError):
        session.send("GET", first.url, Deadline(LONG))
    assert session.send("GET", first.url, Deadline(LONG)).status == 200
    assert len(asked) == 1


def test_a_resolver_that_fails_leaves_the_known_address_in_use(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    server, session = peer.nexi(), peer.session()
    session.send("GET", server.url, Deadline(LONG))
    pools = session._adapter.poolmanager.pools
    (known,) = (pools[key] for key in pools.keys())  # noqa: SIM118 - urllib3's container
    known.connector._resolved_at = 0.0

    def fail(*_arguments: Any, **_options: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert session.send("GET", server.url, Deadline(LONG)).status == 200


# ---------------------------------------------------------------- the deadline


def test_a_slow_resolver_does_not_outlast_the_deadline(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    server = peer.nexi()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: server.stopping.wait(5))
    began = time.monotonic()
    with pytest.raises(NexiTimeoutError):
        peer.session().send("GET", server.url, Deadline(0.5))
    assert time.monotonic() - began < 0.8


def test_dead_addresses_do_not_outlast_the_deadline(peer: Peer, dead: Any, resolve: Callable[..., list[int]]) -> None:
    resolve(*[dead] * 3)
    began = time.monotonic()
    with pytest.raises(NexiTimeoutError):
        peer.session().send("GET", "https://127.0.0.1:1", Deadline(0.5))
    assert time.monotonic() - began < 0.8


def test_a_slow_connection_leaves_less_time_for_the_handshake(
    peer: Peer, dead: Any, resolve: Callable[..., list[int]]
) -> None:
    silent = peer.plain(lambda _connection: silent.stopping.wait(10))
    resolve(*[dead] * 3, ("127.0.0.1", silent.port))
    began = time.monotonic()
    with pytest.raises(NexiTimeoutError):
        peer.session().send("GET", f"https://127.0.0.1:{silent.port}", Deadline(1.0))
    assert time.monotonic() - began < 1.3


def test_a_server_that_does_not_read_does_not_outlast_the_deadline(peer: Peer) -> None:
    server = peer.rude(lambda _connection: server.stopping.wait(10))
    began = time.monotonic()
    with pytest.raises(NexiTimeoutError):
        peer.session().send("POST", server.url, Deadline(0.6), form={"a": "b" * 20_000_000})
    assert time.monotonic() - began < 1.6


def test_a_server_without_tls_is_unavailable(peer: Peer) -> None:
    server = peer.plain(lambda connection: connection.sendall(GOOD))
    with pytest.raises(NexiUnavailableError):
        peer.session().send("GET", f"https://127.0.0.1:{server.port}", Deadline(LONG))
