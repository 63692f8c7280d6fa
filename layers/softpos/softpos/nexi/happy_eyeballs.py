"""TCP connections to a host with several addresses (RFC 8305, "Happy Eyeballs"), within a deadline."""

import os
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any

from softpos.deadline import Deadline, bounded

CONNECT_SECONDS = 2.0
"""Maximum time for name resolution, and for all connection attempts together."""

ATTEMPT_DELAY_SECONDS = 0.25
"""Pause before the next address is tried beside the ones that have not answered (RFC 8305 section 5)."""

RESOLVED_SECONDS = 60.0
"""Maximum age of resolved addresses. The resolver does not tell their time to live."""

Address = tuple[Any, ...]
"""One row of `socket.getaddrinfo`."""


class Connector:
    """Connects to one host and port, and tries the address that answered last time first."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._addresses: list[Address] = []
        self._resolved_at = 0.0

    def connect(self, host: str, port: int, deadline: Deadline) -> socket.socket:
        """Return a connected socket.

        Raises OSError: the failure of the last address, or TimeoutError after CONNECT_SECONDS or at the deadline.
        """
        self._resolve(host, port, deadline)
        try:
            connection, good = _race(self._addresses, min(CONNECT_SECONDS, deadline.remaining()))
        except OSError:
            # The addresses may be outdated.
            self._resolved_at = 0.0
            raise
        self._addresses.remove(good)
        self._addresses.insert(0, good)
        return connection

    def _resolve(self, host: str, port: int, deadline: Deadline) -> None:
        # By the wall clock, which goes on while Lambda has the environment frozen.
        if 0 <= self._now() - self._resolved_at < RESOLVED_SECONDS:
            return
        try:
            found: list[Address] = bounded(
                lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
                min(CONNECT_SECONDS, deadline.remaining()),
            )
        except OSError:
            # Addresses that answered before are better than none. The server's certificate proves who it is.
            if not self._addresses:
                raise
        else:
            last_good = self._addresses[:1]
            self._addresses = sorted(found, key=lambda address: address not in last_good)
            self._resolved_at = self._now()


def _race(addresses: list[Address], seconds: float) -> tuple[socket.socket, Address]:
    """Return the first connection that an address accepts, and that address. Raises OSError when none does."""
    ends_at = time.monotonic() + seconds
    waiting = list(addresses)
    failure: OSError = TimeoutError("no address accepted a connection in time")
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or selector.get_map():
                if waiting:
                    address = waiting.pop(0)
                    try:
                        selector.register(_begin(address), selectors.EVENT_WRITE, address)
                    except OSError as error:
                        failure = error
                        continue
                left = ends_at - time.monotonic()
                if left <= 0:
                    break
                for key, _ in selector.select(min(left, ATTEMPT_DELAY_SECONDS) if waiting else left):
                    connection: Any = key.fileobj
                    selector.unregister(connection)
                    code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not code:
                        return connection, key.data
                    connection.close()
                    failure = OSError(code, os.strerror(code))
        finally:
            for loser in list(selector.get_map().values()):
                loser.fileobj.close()  # type: ignore[union-attr]  # only sockets are registered
    raise failure


def _begin(address: Address) -> socket.socket:
    """Start to connect, without waiting. Raises OSError when that fails at once."""
    family, kind, protocol, _, where = address
    connection = socket.socket(family, kind, protocol)
    connection.setblocking(False)
    try:
        connection.connect(where)
    except BlockingIOError:
        pass
    except OSError:
        connection.close()
        raise
    return connection
