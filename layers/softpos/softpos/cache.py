"""What is fetched once and used by many enrollments: Nexi's access token and its JWKS.

Held in the memory of the execution environment until it lapses.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Entry:
    """A value and the Unix time until which it may be used."""

    value: bytes = field(repr=False)
    usable_until: float


class Cache:
    """Entries by name. A failed fetch leaves nothing behind."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._entries: dict[str, Entry] = {}

    def get(self, name: str, fetch: Callable[[], Entry]) -> Entry:
        """The entry called `name`, fetched if there is none that may still be used."""
        entry = self._entries.get(name)
        # The wall clock: the monotonic one stands still while Lambda has us frozen.
        if entry is None or self._now() >= entry.usable_until:
            entry = self._entries[name] = fetch()
        return entry

    def drop(self, name: str, entry: Entry) -> None:
        """Forget exactly `entry`; a newer one of that name stays."""
        if self._entries.get(name) is entry:
            del self._entries[name]
