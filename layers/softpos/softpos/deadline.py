"""The deadline of an enrollment, which every outbound call keeps to."""

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from softpos.errors import OutOfTimeError

_T = TypeVar("_T")

_current: contextvars.ContextVar["Deadline | None"] = contextvars.ContextVar("deadline", default=None)


class Deadline:
    """A point in time by which work must be done.

    On the monotonic clock, unlike every expiry: it never outlives the invocation that it bounds, and a step of the
    wall clock must not stretch it.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._at = now() + seconds

    def remaining(self) -> float:
        """Return the seconds left, never negative."""
        return max(0.0, self._at - self._now())

    def required(self, what: str) -> float:
        """Return the seconds left for `what`. Raises OutOfTimeError when there are none."""
        remaining = self.remaining()
        if not remaining:
            raise _out_of_time(f"no time left for {what}")
        return remaining

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Make this the deadline of `within_deadline` inside the block."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


def within_deadline(what: str, call: Callable[[], _T]) -> _T:
    """Return what `call` returns, within the applied deadline if there is one.

    Raises OutOfTimeError, naming `what`, when it takes longer. The call then ends by itself, and its result is dropped.
    """
    deadline = _current.get()
    if deadline is None:
        return call()
    try:
        return bounded(call, deadline.required(what))
    except TimeoutError as error:
        raise _out_of_time(f"{what} took all the time that was left") from error


def bounded(call: Callable[[], _T], seconds: float) -> _T:
    """Return what `call` returns, from a thread of its own. Raises what it raises, or TimeoutError after `seconds`."""
    return _start(call)(seconds)


def side_by_side(one: Callable[[], _T], other: Callable[[], object]) -> _T:
    """Make two calls at the same time and return what `one` returns. Raises what either raises; `one` goes first."""
    join = _start(other)
    result = one()
    join(None)
    return result


def _start(call: Callable[[], _T]) -> Callable[[float | None], _T]:
    """Start a call in a thread; return how to wait for it, for so many seconds or until it ends."""
    outcome: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:  # noqa: BLE001 - raised again, in the thread that waits
            outcome.append((None, error))

    def join(seconds: float | None) -> _T:
        thread.join(seconds)
        if not outcome:
            raise TimeoutError
        result, error = outcome[0]
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    return join


def _out_of_time(message: str) -> OutOfTimeError:
    return OutOfTimeError(message, "Find the slow step in the line's fields ending in _ms; check AWS's service health.")
