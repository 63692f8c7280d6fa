"""Nexi's bad days, on demand: a fault is played on the next calls of an endpoint, as often as it was asked for.

Written `ENDPOINT:KIND[=NUMBER][*TIMES]`, several separated by commas, such as `par:status=503*2,token:stall`. ENDPOINT
is token, keys, par or any; TIMES is 1 if not said. `docs/sandbox.md` shows each.
"""

import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.nexi import Handler, Nexi

ENDPOINTS = ("token", "keys", "par", "any")
HOLD_SECONDS = 30.0
"""The longest that a stalled call is held, unless its client goes away before."""


@dataclass(frozen=True)
class Fault:
    """What to play, where, how often, and with which number."""

    endpoint: str
    kind: str
    number: int | None = None
    times: int = 1

    def __str__(self) -> str:
        number = "" if self.number is None else f"={self.number}"
        return f"{self.endpoint}:{self.kind}{number}*{self.times}"


class Faults:
    """The faults that are waiting for their calls, first come, first played."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, specification: str) -> None:
        """Line up faults. Raises ValueError with a sentence."""
        faults = [_parse(each) for each in specification.split(",") if each.strip()]
        with self._lock:
            self._waiting += faults

    def clear(self) -> None:
        """Back to a good day."""
        with self._lock:
            self._waiting.clear()

    def take(self, endpoint: str) -> Fault | None:
        """The fault for this call."""
        with self._lock:
            for position, fault in enumerate(self._waiting):
                if fault.endpoint in (endpoint, "any"):
                    if fault.times > 1:
                        self._waiting[position] = replace(fault, times=fault.times - 1)
                    else:
                        del self._waiting[position]
                    return fault
        return None

    def __iter__(self) -> Any:
        with self._lock:
            return iter(list(self._waiting))


def _parse(text: str) -> Fault:
    found = re.fullmatch(r"\s*(\w+):([\w-]+)(?:=(\d{1,6}))?(?:\*(\d{1,6}))?\s*", text)
    if not found:
        raise ValueError(f"{text.strip()!r} is not ENDPOINT:KIND[=NUMBER][*TIMES]")
    endpoint, kind, number, times = found.groups()
    if endpoint not in ENDPOINTS:
        raise ValueError(f"{endpoint!r} is none of the endpoints {', '.join(ENDPOINTS)}")
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is none of the faults {', '.join(KINDS)}")
    if times == "0":
        raise ValueError(f"{text.strip()!r} is to be played no times")
    return Fault(endpoint, kind, None if number is None else int(number), int(times or 1))


# ---- before the call is looked at: each returns the answer to give instead, or None for the true one


def _any_status(_nexi: "Nexi", _handler: "Handler", number: int | None) -> tuple[int, bytes, dict[str, str]] | None:
    status = number or 503
    return status, b"<html><body>Service problem</body></html>", {"Content-Type": "text/html"}


def _retry_after(status: int) -> "Before":
    def play(_nexi: "Nexi", _handler: "Handler", number: int | None) -> tuple[int, bytes, dict[str, str]] | None:
        return status, b'{"message":"Try later."}', {"Retry-After": str(1 if number is None else number)}

    return play


def _revoke(nexi: "Nexi", _handler: "Handler", _number: int | None) -> None:
    nexi.revoke_tokens()


def _rotate(nexi: "Nexi", _handler: "Handler", _number: int | None) -> None:
    nexi.rotate_keys()


def _stall(_nexi: "Nexi", handler: "Handler", number: int | None) -> None:
    """Read the call, and never answer."""
    _hold(handler, HOLD_SECONDS if number is None else float(number))
    raise HungUpError


def _close(_nexi: "Nexi", _handler: "Handler", _number: int | None) -> None:
    """FIN in place of an answer."""
    raise HungUpError


def _reset(_nexi: "Nexi", handler: "Handler", _number: int | None) -> None:
    """RST in place of an answer."""
    reset(handler.connection)
    raise HungUpError


# ---- in the answer: each sends the true one, spoiled


def _html(handler: "Handler", _status: int, _body: bytes, _number: int | None) -> None:
    handler.send(200, b"<html><body>Welcome</body></html>", {"Content-Type": "text/html"})


def _empty(handler: "Handler", status: int, _body: bytes, _number: int | None) -> None:
    handler.send(status, b"")


def _not_utf8(handler: "Handler", status: int, _body: bytes, _number: int | None) -> None:
    handler.send(status, b'{"request_uri": "\xff\xfe", "access_token": "\xff"}')


def _wrong_types(handler: "Handler", status: int, _body: bytes, _number: int | None) -> None:
    handler.send(status, b'{"request_uri": 7, "access_token": ["a"], "keys": {}, "expires_in": {"a": 1}}')


def _truncated(handler: "Handler", status: int, body: bytes, _number: int | None) -> None:
    handler.send(status, body[: len(body) // 2], {"Content-Length": str(len(body))})
    raise HungUpError


def _huge(handler: "Handler", status: int, _body: bytes, number: int | None) -> None:
    size = (number or 10) * 1024 * 1024
    handler.send(status, b"", {"Content-Length": str(size)})
    for _ in range(0, size, 65536):
        handler.wfile.write(b" " * 65536)


def _trickle(handler: "Handler", status: int, body: bytes, number: int | None) -> None:
    """A byte now and then, `number` milliseconds apart: the head first, so that it is never complete in time."""
    for byte in handler.message(status, body):
        handler.connection.sendall(bytes([byte]))
        if handler.server.stopping.wait((100 if number is None else number) / 1000):
            break
    raise HungUpError


def _status_200(handler: "Handler", _status: int, body: bytes, _number: int | None) -> None:
    handler.send(200, body)


def _unknown_members(handler: "Handler", status: int, body: bytes, _number: int | None) -> None:
    handler.send(status, body.replace(b"{", b'{"unknown": [{"deep": null}], ', 1))


def _then_close(handler: "Handler", status: int, body: bytes, _number: int | None) -> None:
    """A good answer that promises to keep the connection, and FIN."""
    handler.send(status, body)
    raise HungUpError


def _then_reset(handler: "Handler", status: int, body: bytes, _number: int | None) -> None:
    """A good answer that promises to keep the connection, and RST."""
    handler.send(status, body)
    # The reset must not overtake the answer.
    time.sleep(0.05)
    reset(handler.connection)
    raise HungUpError


def _then_half_open(handler: "Handler", status: int, body: bytes, _number: int | None) -> None:
    """A good answer, and then nobody there, though nothing says so."""
    handler.send(status, body)
    _hold(handler, HOLD_SECONDS)
    raise HungUpError


def _interim(handler: "Handler", status: int, body: bytes, number: int | None) -> None:
    """103 Early Hints, and the answer `number` milliseconds later."""
    handler.connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n")
    handler.server.stopping.wait((50 if number is None else number) / 1000)
    handler.send(status, body)


def _twice(handler: "Handler", status: int, body: bytes, _number: int | None) -> None:
    """The answer, and the same one again, unasked."""
    handler.send(status, body)
    handler.send(status, body)


def _late(handler: "Handler", status: int, body: bytes, number: int | None) -> None:
    """An answer that claims to have no body, and the true one `number` milliseconds later."""
    handler.send(status, b"")
    handler.server.stopping.wait((100 if number is None else number) / 1000)
    handler.send(status, body)


class HungUpError(Exception):
    """When a fault has ended the connection, or is to."""


Before = Callable[["Nexi", "Handler", int | None], tuple[int, bytes, dict[str, str]] | None]
After = Callable[["Handler", int, bytes, int | None], None]

BEFORE: dict[str, Before] = {
    "status": _any_status,
    "busy": _retry_after(503),
    "throttle": _retry_after(429),
    "revoke": _revoke,
    "rotate": _rotate,
    "stall": _stall,
    "close": _close,
    "reset": _reset,
}
AFTER: dict[str, After] = {
    "html": _html,
    "empty": _empty,
    "not-utf8": _not_utf8,
    "wrong-types": _wrong_types,
    "truncated": _truncated,
    "huge": _huge,
    "trickle": _trickle,
    "status-200": _status_200,
    "unknown-members": _unknown_members,
    "then-close": _then_close,
    "then-reset": _then_reset,
    "then-half-open": _then_half_open,
    "interim": _interim,
    "twice": _twice,
    "late": _late,
}
KINDS = (*BEFORE, *AFTER)


def reset(connection: Any) -> None:
    """Close with RST: what the peer sends or reads next fails."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.socket(fileno=connection.detach()).close()


def _hold(handler: "Handler", seconds: float) -> None:
    """Wait, deaf, but not for longer than the server lives."""
    handler.server.stopping.wait(seconds)
