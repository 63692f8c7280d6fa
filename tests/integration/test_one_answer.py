"""An answer of Nexi reaches the operator whose request it answers, or nobody.

Operators A, B and C enroll one after another on one session. The server names the requester in its answer, and after
A's request it does to the connection what a broken gateway may do. The states run side by side, as many wait for a
timeout.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import pytest
from peers import Peer
from servers import Request, read_request

from softpos.deadline import Deadline
from softpos.errors import SoftposError
from softpos.nexi.session import MutualTlsSession

A_SECONDS = 1.0
"""Deadline of the request that meets a broken connection."""

LONG = 10.0


def body_for(operator: str, size: int = 0) -> bytes:
    """The body that answers an operator's request, padded to a size in bytes."""
    return json.dumps({"request_uri": f"urn:{operator}"}).encode().ljust(size)


def answer_for(operator: str, *headers: str, status: str = "201 Created", size: int = 0, length: int = -1) -> bytes:
    """A whole answer: `size` pads the body, `length` is a Content-Length other than the body's."""
    body = body_for(operator, size)
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length < 0 else length}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def sized(head: bytes, size: int) -> bytes:
    """A head without its empty line, padded by a header so that it ends after `size` bytes."""
    return head + b"X-Padding: " + b"x" * (size - len(head) - len(b"X-Padding: \r\n\r\n")) + b"\r\n\r\n"


@dataclass(frozen=True)
class State:
    """What the server sends after A's request, and what it sends late on the same connection."""

    name: str
    at_once: bytes
    late: bytes = b""
    before_next: bool = False
    """Send the late bytes without waiting for another request."""


A = answer_for("A")
CHUNKS = f"{len(body_for('A')):x}\r\n".encode() + body_for("A") + b"\r\n0\r\n\r\n"


def interim(status: int, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} Interim", *headers, "", ""]).encode()


def head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


STATES = [
    *(State(f"{status}, final answer with the next request", interim(status), A) for status in (100, 102, 103, 199)),
    State("101, final answer with the next request", interim(101, "Upgrade: x", "Connection: upgrade"), A),
    *(State(f"{status}, final answer before the next request", interim(status), A, True) for status in (101, 102, 103)),
    *(State(f"{status} and final answer in one write", interim(status) + A) for status in (100, 102, 103, 199)),
    State("103 with Content-Length, final answer with the next request", interim(103, "Content-Length: 0"), A),
    State("103 of 8192 bytes and final answer in one record", sized(b"HTTP/1.1 103 Early Hints\r\n", 8192) + A),
    State("eleven interim answers, final answer with the next request", interim(103) * 11, A),
    State("a second answer in the same write", A + A),
    State("a second answer with the next request", A, A),
    State("a second answer before the next request", A, A, True),
    State("answer of 8192 bytes and a second one in one record", answer_for("A", size=8192 - 40) + A),
    State("answer of 16384 bytes and a second one in one record", answer_for("A", size=16384 - 41) + A),
    *(
        State(f"{status} with Content-Length, body with the next request", head(f"HTTP/1.1 {status} X", length), A)
        for status in (204, 304)
        for length in ("Content-Length: 30",)
    ),
    *(
        State(
            f"{status} with Content-Length 0, answer with the next request", answer_for("", status=status, length=0), A
        )
        for status in (
            "200 OK",
            "201 Created",
            "202 Accepted",
            "400 Bad Request",
            "401 Unauthorized",
            "503 Unavailable",
        )
    ),
    State("Content-Length too small, rest in the same write", answer_for("A", length=5) + A),
    State("Content-Length too small, rest with the next request", answer_for("A", length=5), A),
    State("Content-Length too large", answer_for("A", length=500), A),
    State("no Content-Length", head("HTTP/1.1 201 Created") + body_for("A"), A),
    State("two Content-Lengths", answer_for("A", "Content-Length: 0"), A),
    State("two equal Content-Lengths", answer_for("A", f"Content-Length: {len(body_for('A'))}"), A),
    State("Content-Length with a sign", head("HTTP/1.1 201 Created", "Content-Length: +0"), A),
    State("Content-Length of letters", head("HTTP/1.1 201 Created", "Content-Length: none"), A),
    State("negative Content-Length", head("HTTP/1.1 201 Created", "Content-Length: -1"), A),
    *(
        State(
            f"Transfer-Encoding {coding.strip()}, {len(coding)} characters",
            head("HTTP/1.1 201 Created", f"Transfer-Encoding: {coding}") + CHUNKS,
            A,
        )
        for coding in ("chunked", "xchunked", "identity, chunked", "chunked, chunked", "gzip", "\x0bchunked")
    ),
    State(
        "Content-Length 0 and Transfer-Encoding identity, chunked",
        head("HTTP/1.1 201 Created", "Transfer-Encoding: identity, chunked", "Content-Length: 0"),
        CHUNKS + A,
    ),
    State(
        "Content-Length and Transfer-Encoding chunked",
        head("HTTP/1.1 201 Created", "Transfer-Encoding: chunked", "Content-Length: 5") + CHUNKS,
        A,
    ),
    *(
        State(
            f"chunk size {size[:8]}",
            head("HTTP/1.1 201 Created", "Transfer-Encoding: chunked") + size.encode() + b"\r\n",
            A,
        )
        for size in ("-5", "-32", "0x10", "+5", "ffffffffffffffffff", "5;x=" + "y" * 9000, "", "zz", "1_0")
    ),
    State(
        "chunked without its end",
        head("HTTP/1.1 201 Created", "Transfer-Encoding: chunked") + CHUNKS.removesuffix(b"0\r\n\r\n"),
        A,
    ),
    State(
        "malformed header after Content-Length 0", head("HTTP/1.1 201 Created", "Content-Length: 0", "Bad Header: x"), A
    ),
    State(
        "malformed header hides Content-Length", head("HTTP/1.1 201 Created", "Bad Header: x", "Content-Length: 0"), A
    ),
    State(
        "malformed header hides Transfer-Encoding",
        head("HTTP/1.1 201 Created", "Content-Length: 0", "Bad Header: x", "Transfer-Encoding: chunked"),
        CHUNKS + A,
    ),
    State("bare CR in a header value", head("HTTP/1.1 201 Created", "X: a\rContent-Length: 0"), A),
    State("bare LF line ends", A.replace(b"\r\n", b"\n"), A),
    State("obsolete line folding", head("HTTP/1.1 201 Created", "X: a", " Content-Length: 0"), A),
    State("NUL in a header", head("HTTP/1.1 201 Created", "X: \0", "Content-Length: 0"), A),
    State(
        "HTTP/1.0 with keep-alive",
        A.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"\r\n", b"\r\nConnection: keep-alive\r\n", 1),
        A,
    ),
    State("Connection close", answer_for("A", "Connection: close"), A),
    State("body over the limit", answer_for("A", size=70_000), A),
    State("408 without a request", answer_for("", status="408 Request Timeout", length=0), A),
    State("421", answer_for("", status="421 Misdirected Request"), A),
    State("unreadable body", head("HTTP/1.1 201 Created", "Content-Length: 4") + b"oops", A),
    State("no answer, then the answer with the next request", b"", A),
    State("half a status line", b"HTTP/1.1 20", b"1 Created\r\nContent-Length: 0\r\n\r\n" + A),
    State("half a header", A[:30], A[30:]),
    State("half a body", A[:-5], A[-5:] + A),
]


class Gateway:
    """Serves every connection well, but for the one that A's request comes on."""

    def __init__(self, state: State) -> None:
        self._state = state

    def __call__(self, connection: Any) -> None:
        while (request := read_request(connection)) is not None:
            if self._requester(request) == "A":
                connection.sendall(self._state.at_once)
                if self._state.before_next:
                    connection.sendall(self._state.late)
                self._answer_one_late(connection)
                return
            connection.sendall(answer_for(self._requester(request)))

    def _answer_one_late(self, connection: Any) -> None:
        """Give each next request on A's connection the answer of the one before."""
        late = b"" if self._state.before_next else self._state.late
        while (request := read_request(connection)) is not None:
            connection.sendall(late or answer_for(self._requester(request)))
            late = answer_for(self._requester(request))

    @staticmethod
    def _requester(request: Request) -> str:
        return parse_qs(request.body.decode())["operator"][0]


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with ExitStack() as running:
        yield Peer(tmp_path_factory.mktemp("one_answer"), running)


def received(session: MutualTlsSession, url: str, operator: str) -> str:
    """The operator whose `request_uri` came back, or the error's code. Other exceptions fail the test."""
    deadline = Deadline(A_SECONDS if operator == "A" else LONG)
    try:
        answer = session.send("POST", url, deadline, form={"operator": operator})
    except SoftposError as error:
        return error.code
    with suppress(ValueError):
        return str(json.loads(answer.body)["request_uri"]).removeprefix("urn:")
    return f"unreadable {answer.status}"


def enroll_three(peer: Peer, state: State) -> list[str]:
    """What A, B and C received."""
    server, session = peer.rude(Gateway(state)), peer.session()
    return [received(session, server.url, operator) for operator in "ABC"]


@pytest.fixture(scope="module")
def outcomes(peer: Peer, request: pytest.FixtureRequest) -> Iterator[Callable[[State], Future[list[str]]]]:
    chosen = "\n".join(item.nodeid for item in request.session.items)
    with ThreadPoolExecutor(32) as pool:
        wanted = [state for state in STATES if f"[{state.name}]" in chosen]
        running = {state.name: pool.submit(enroll_three, peer, state) for state in wanted}
        yield lambda state: running[state.name]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_no_operator_gets_anothers_answer_after(state: State, outcomes: Callable[[State], Future[list[str]]]) -> None:
    a, b, c = outcomes(state).result(60)
    assert a not in ("B", "C")
    assert (b, c) == ("B", "C")
