"""Ports for what must be told its number before it listens."""

import random
import socket
from contextlib import ExitStack

# The system hands out ports of its own choice from 32768 up (49152 on some systems): one of those that is free now may
# be any process's by the time that it is used. Of those below, nobody gets one without asking for it by its number.
_FIRST, _END = 10_000, 32_768


def free_ports(count: int) -> list[int]:
    """So many ports of 127.0.0.1, all different, that nobody listens on."""
    numbers = random.SystemRandom().sample(range(_FIRST, _END), 50)
    with ExitStack() as held:
        free = [number for number in numbers if _held(number, held)]
    return free[:count]


def _held(number: int, held: ExitStack) -> bool:
    try:
        held.enter_context(socket.create_server(("127.0.0.1", number)))
    except OSError:
        return False
    return True
