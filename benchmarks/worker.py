"""The inside of an execution environment that is measured: the handler, called over and over, in a process of its own.

`python -m benchmarks.worker MODE NUMBER` prints one JSON object. It gets a function's environment, and nothing else.
"""

import contextlib
import functools
import gc
import importlib
import json
import os
import socket
import ssl
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
Steps = dict[str, float]


class Context:
    """As much of Lambda's context as the handler looks at."""

    aws_request_id = "0c1d2e3f-invocation"

    def get_remaining_time_in_millis(self) -> int:
        return 14_900


class Clock:
    """Where one enrollment's time went: milliseconds of the processor by step, and of waiting by the wall clock."""

    def __init__(self) -> None:
        self.spent: Steps = defaultdict(float)

    def waits(self, kind: type, step: str) -> None:
        """Let every read of this kind of socket count as waiting."""
        inherited = kind.recv_into

        @functools.wraps(inherited)
        def recv_into(sock: Any, *arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return inherited(sock, *arguments)
            finally:
                self.spent[step] += (time.perf_counter() - began) * 1000

        kind.recv_into = recv_into

    def times(self, owner: Any, name: str, step: str) -> None:
        """Let every call of this function count for a step."""
        inherited = getattr(owner, name)

        @functools.wraps(inherited)
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return inherited(*arguments, **named)
            finally:
                self.spent[step] += (time.process_time() - began) * 1000

        setattr(owner, name, timed)

    def take(self, call: Callable[[], Any]) -> Steps:
        """The steps of one call; `total` is by the wall clock, `cpu` is this process's own."""
        gc.collect(0)
        self.spent.clear()
        cpu, began = time.process_time(), time.perf_counter()
        answer = call()
        self.spent["total"] = (time.perf_counter() - began) * 1000
        self.spent["cpu"] = (time.process_time() - cpu) * 1000
        assert answer["statusCode"] == 201, answer
        return dict(self.spent)


def main() -> None:
    mode, number = sys.argv[1], float(sys.argv[2])
    event = json.loads((ROOT / "events" / "enrollment-created.json").read_text())
    # Where both log to.
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - to the end
    sys.path.insert(0, str(ROOT / "functions" / "enrollment"))
    handler = importlib.import_module("app").lambda_handler
    enroll = functools.partial(handler, event, Context())
    {"warm": warm, "first": first, "restored": restored, "loop": loop, "soak": soak}[mode](enroll, event, number)


def _say(what: object) -> None:
    print(json.dumps(what), file=sys.__stdout__, flush=True)


def warm(enroll: Callable[[], Any], event: dict[str, Any], rounds: float) -> None:
    """The handler and the bare script in turn."""
    from benchmarks.bare import BareEnrollment
    from softpos import telemetry
    from softpos.nexi import assertion
    from softpos.nexi import session as nexi_session

    clock = Clock()
    # Nexi's sockets first: their class has a recv_into of its own, that ends in the other.
    clock.waits(ssl.SSLSocket, "waited for Nexi")
    clock.waits(socket.socket, "waited for AWS")
    import botocore.client

    clock.times(botocore.client.BaseClient, "_make_api_call", "DynamoDB, 2 calls")
    clock.times(BareEnrollment, "ask_aws", "DynamoDB, 2 calls")
    clock.times(nexi_session.MutualTlsSession, "send", "PAR, 1 call")
    clock.times(BareEnrollment, "push", "PAR, 1 call")
    clock.times(assertion, "seal", "assertion")
    clock.times(BareEnrollment, "assertion", "assertion")
    clock.times(telemetry, "succeeded", "log and metrics")
    bare = BareEnrollment(nexi_session._Socket)
    contestants = {"softpos": enroll, "bare script": functools.partial(bare.enroll, event)}
    samples: dict[str, list[Steps]] = {name: [] for name in contestants}
    for number in range(int(rounds) + 20):
        order = list(contestants) if number % 2 else list(contestants)[::-1]
        for name in order:
            taken = clock.take(contestants[name])
            if number >= 20:
                samples[name].append(taken)
    _say(samples)


def first(enroll: Callable[[], Any], _event: dict[str, Any], _number: float) -> None:
    """Where the first enrollment of a process goes, once the handler is imported: milliseconds of the processor."""
    from cryptography.hazmat.primitives import serialization

    from softpos.nexi import session as nexi_session

    clock = Clock()
    began = time.process_time()
    import boto3.session
    import botocore.client
    import botocore.session

    imported = (time.process_time() - began) * 1000
    clock.times(botocore.session.Session, "create_client", "making its clients")
    clock.times(botocore.client.BaseClient, "_make_api_call", "calls of AWS")
    clock.times(serialization, "load_pem_private_key", "reading the private key")
    clock.times(nexi_session.MutualTlsSession, "send", "calls of Nexi")
    steps = clock.take(enroll)
    named = sum(value for step, value in steps.items() if step not in ("total", "cpu"))
    del boto3
    _say({"importing boto3": imported, **steps, "all else": steps["cpu"] - named, "cpu": steps["cpu"] + imported})


def restored(enroll: Callable[[], Any], _event: dict[str, Any], _number: float) -> None:
    """The first enrollment of a copy of a snapshot: what `prepare` has built is there, and no connection."""
    from softpos import snapshot
    from softpos.enrollment import service

    snapshot._freeze(service.enrollment)
    snapshot._thaw()
    _say(Clock().take(enroll))


def loop(enroll: Callable[[], Any], _event: dict[str, Any], seconds: float) -> None:
    """One enrollment after the other for so long, each time that a line says to."""
    for _ in range(3):
        assert enroll()["statusCode"] == 201
    _say("ready")
    for _ in sys.stdin:
        count, cpu, began = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() - began < seconds:
            assert enroll()["statusCode"] == 201
            count += 1
        _say({"count": count, "seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu})


def soak(enroll: Callable[[], Any], _event: dict[str, Any], count: float) -> None:
    """Resident memory in MB, and open descriptors, a hundred times on the way."""
    numbers, memory, descriptors = [], [], []
    for number in range(int(count) + 1):
        assert enroll()["statusCode"] == 201
        if number % max(1, int(count) // 100) == 0:
            numbers.append(float(number))
            memory.append(resident())
            descriptors.append(float(len(os.listdir("/proc/self/fd"))))  # noqa: PTH208 - one call, and no objects
    _say({"numbers": numbers, "memory": memory, "descriptors": descriptors})


def resident() -> float:
    """This process's resident memory, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
