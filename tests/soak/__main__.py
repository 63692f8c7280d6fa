"""`make soak`: minutes of enrollments through the local API while every fault of the sandbox fires at random.

MINUTES (3), SEED (random, printed) and PHONES (4) come from the environment. Stops by itself. Exits with 0
only if every answer was a 201 or a typed problem and no jti was used twice.
"""

import json
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter

import requests

from sandbox.faults import KINDS
from sandbox.local import LocalStack
from sandbox.nexi import Nexi

MINUTES = float(os.environ.get("MINUTES") or 3)
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(1_000_000))
PHONES = int(os.environ.get("PHONES") or 4)


def main() -> int:
    logging.getLogger("nexi").setLevel(logging.CRITICAL)
    print(f"soak: {MINUTES:g} minutes, {PHONES} phones, SEED={SEED}", flush=True)
    outcomes: Counter[str] = Counter()
    stopping = threading.Event()
    with LocalStack(parameters={"EnrollmentsPerMinute": "1000000"}) as stack:
        bearer = stack.token()

        def use_phone(number: int) -> None:
            session = requests.Session()
            session.trust_env = False
            chance = random.Random(f"{SEED} phone {number}")
            while not stopping.is_set():
                outcome = enroll(session, stack, bearer, chance, number)
                outcomes[outcome] += 1
                # Impatient, but not deaf to a Retry-After.
                stopping.wait(chance.uniform(0, 3.0 if outcome == "nexi_unavailable" else 0.2))

        enroll(requests.Session(), stack, bearer, random.Random(SEED), PHONES)
        at_start = memory()
        threads = [threading.Thread(target=use_phone, args=(number,)) for number in range(PHONES)]
        threads.append(threading.Thread(target=have_bad_days, args=(stack.nexi, stopping)))
        for thread in threads:
            thread.start()
        time.sleep(MINUTES * 60)
        stopping.set()
        for thread in threads:
            thread.join(60)
        at_end = memory()
        counts = stack.nexi.counts
        return report(outcomes, counts, at_start, at_end)


def have_bad_days(nexi: Nexi, stopping: threading.Event) -> None:
    """Play every kind of fault in a random order, again and again, on a clock that is set anew each time."""
    chance = random.Random(f"{SEED} faults")
    kinds: list[str] = []
    while not stopping.wait(chance.uniform(0, 3.0)):
        if not kinds:
            kinds = chance.sample(KINDS, len(KINDS))
            nexi.clock_offset = chance.choice([0.0, -8.0, -90.0, 30.0])
            nexi.date_offset = chance.choice([0.0, 0.0, 3600.0, -3600.0])
        kind = kinds.pop()
        endpoint = chance.choice(["token", "keys", "par", "par", "any"])
        nexi.faults.add(f"{endpoint}:{kind}*{1 if kind == 'rotate' else chance.randint(1, 3)}")
        if endpoint == "token":
            # Lest the fault waits for an hour.
            nexi.revoke_tokens()


def enroll(session: requests.Session, stack: LocalStack, bearer: str, chance: random.Random, number: int) -> str:
    """Return `201`, the problem's code, or what came instead of either. `number` is the phone's."""
    headers = {"Authorization": f"Bearer {bearer}"}
    if chance.random() < 0.2:
        headers["Idempotency-Key"] = f"key {number} {chance.randrange(300)}"
    device_id = f"device {number} {chance.randrange(3)}"
    try:
        url = f"{stack.gateway.url}/v1/enrollments"
        answer = session.post(url, json={"device_id": device_id}, headers=headers, timeout=30)
        members = answer.json()
        if answer.status_code == 201:
            return "201" if device_id == device_of(stack.nexi, members["request_uri"]) else "untyped: another's answer"
        code = members.get("code")
    except (requests.RequestException, ValueError, LookupError, AttributeError) as error:
        return f"untyped: {type(error).__name__}"
    # No fault touches the configuration: that one would be a lie.
    if not code or code in ("internal_error", "misconfigured"):
        return f"untyped: {answer.status_code} {json.dumps(members)[:80]}"
    return str(code)


def device_of(nexi: Nexi, request_uri: str) -> str | None:
    """Return the device that Nexi issued a request_uri to."""
    calls = (call for call in reversed(list(nexi.calls)) if call.request_uri == request_uri)
    return next((call.claims["app_deviceid"] for call in calls if call.claims), None)


def memory() -> list[int]:
    """Resident MiB of each execution environment."""
    listed = subprocess.run(["ps", "-eo", "ppid=,rss="], capture_output=True, text=True, check=True).stdout
    mine = (line.split() for line in listed.splitlines())
    return sorted(int(rss) // 1024 for parent, rss in mine if int(parent) == os.getpid() and int(rss) > 20_000)


def report(outcomes: Counter[str], counts: Counter[str], at_start: list[int], at_end: list[int]) -> int:
    """Print the table; the exit code."""
    untyped = {outcome: count for outcome, count in outcomes.items() if outcome.startswith("untyped")}
    rows: list[tuple[str, object]] = [
        ("requests", outcomes.total()),
        ("201", outcomes["201"]),
        *sorted(
            (f"problem {code}", count) for code, count in outcomes.items() if code != "201" and code not in untyped
        ),
        ("untyped failures", sum(untyped.values())),
        ("token calls", counts["call token"]),
        ("JWKS calls", counts["call keys"]),
        ("PAR calls", counts["call par"]),
        ("connections, resumed", f"{counts['connection']}, {counts['resumed']}"),
        ("faults played", sum(count for name, count in counts.items() if name.startswith("fault "))),
        ("kinds of faults played", f"{sum(1 for name in counts if name.startswith('fault '))} of {len(KINDS)}"),
        ("jtis used twice", counts["jti twice"]),
        ("memory at start, MiB each", ", ".join(map(str, at_start))),
        ("memory at end, MiB each", ", ".join(map(str, at_end))),
    ]
    print()
    for name, value in rows:
        print(f"{name:<32} {value}")
    for outcome, count in untyped.items():
        print(f"  {count} x {outcome}")
    return int(bool(untyped) or counts["jti twice"] > 0 or not outcomes["201"])


sys.exit(main())
