"""Log lines as they come, from any thread, to be waited for."""

import logging
import threading
from collections.abc import Callable


class Lines:
    """What has been logged so far."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._arrived = threading.Condition()

    def add(self, line: str) -> None:
        with self._arrived:
            self._lines.append(line)
            self._arrived.notify_all()

    @property
    def all(self) -> list[str]:
        with self._arrived:
            return list(self._lines)

    @property
    def text(self) -> str:
        return "\n".join(self.all)

    def clear(self) -> None:
        with self._arrived:
            self._lines.clear()

    def wait_for(self, wanted: Callable[[str], bool] | str, seconds: float = 5) -> str:
        """The first line that is, or holds, what is wanted. Fails with all there is when none comes."""
        fits = (lambda line: wanted in line) if isinstance(wanted, str) else wanted
        with self._arrived:
            came = self._arrived.wait_for(lambda: any(fits(line) for line in self._lines), seconds)
            assert came, f"no line with {wanted} within {seconds} s, only:\n" + "\n".join(self._lines)
            return next(line for line in self._lines if fits(line))


class LinesHandler(logging.Handler):
    """Puts log records into lines."""

    def __init__(self, lines: Lines) -> None:
        super().__init__(logging.DEBUG)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.add(self.format(record))
