"""A simulated day: a million enrollments by environments that come and go, on a simulated clock, with one-hour tokens.

The layer's own Nexi and Cache; a shared table that is a dictionary, and a Nexi that counts. An enrollment is what of it
may need a call: the token and the keys.
"""

import json
import math
import random
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from benchmarks.measure import Row, Verdict, exactly, number
from sandbox.authority import Authority
from softpos import telemetry
from softpos.cache import CacheTable, Entry, _Item
from softpos.credentials import Application, Credentials, parse_certificate
from softpos.deadline import Deadline
from softpos.enrollment.service import REFRESH_BEFORE_SECONDS
from softpos.nexi.client import KEYS_PATH, Nexi
from softpos.nexi.jwks import EncryptionKey
from softpos.nexi.session import Answer
from softpos.settings import Settings

ENROLLMENTS = {"smallest": 5_000, "usual": 1_000_000}
DAY = 86_400
REFRESH_EVERY = 120
"""As template.yaml schedules token_refresh."""
LIFE = (300, 7200)
"""Seconds that an environment lives: anything between these two."""


class _Clock:
    now = 1_780_000_000.0

    def __call__(self) -> float:
        return self.now


class _Table(CacheTable):
    """The shared tier, as a dictionary."""

    def __init__(self) -> None:
        self._items: dict[str, _Item] = {}
        self._holders: dict[str, str] = {}

    def read(self, name: str) -> _Item:
        return self._items.get(name, _Item(b"", None, 0.0))

    def lease(self, name: str, holder: str, seen: str | None, now: float) -> bool:
        item = self.read(name)
        if item.leased(now) or item.version != seen:
            return False
        self._items[name], self._holders[name] = replace(item, lease_until=now + 6), holder
        return True

    def write(self, name: str, holder: str, sealed: bytes, entry: Entry) -> None:
        if self._holders.pop(name, None) == holder:
            self._items[name] = _Item(sealed, entry.version, 0.0)

    def release(self, name: str, holder: str) -> None:
        if self._holders.pop(name, None) == holder:
            self._items[name] = replace(self.read(name), lease_until=0.0)


class _Nexi:
    """Answers, and counts who asked for what."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.asker = ""
        key = EncryptionKey("enc-1", rsa.generate_private_key(65537, 2048).public_key()).jwk()
        self._keys = json.dumps({"keys": [key]}).encode()
        self._token = json.dumps({"access_token": "t" * 64, "token_type": "Bearer", "expires_in": 3600}).encode()

    def send(self, _method: str, url: str, _deadline: Deadline, **_: Any) -> Answer:
        keys = url.endswith(KEYS_PATH)
        self.calls[self.asker, "keys" if keys else "token"] += 1
        return Answer(200, {}, self._keys if keys else self._token)


@dataclass
class _Environment:
    nexi: Nexi
    ends_at: float
    own_token_until: float = 0.0
    """Until when its token would last if it had one of its own."""


class _Credentials:
    def __init__(self) -> None:
        authority = Authority()
        developer = authority.developer("BENCHMARKS")
        secret = {"certificate": developer.certificate_pem, "private_key": developer.key_pem}
        application = Application("benchmark-app", "secret", "https://merchant.example/softpos", "oidc")
        self._credentials = Credentials(application, parse_certificate(json.dumps(secret)))

    def get(self, *, reload: bool = False) -> Credentials:
        return self._credentials


def run(size: str) -> Row:
    """The row of the simulated day."""
    clock, table, nexi, credentials, draw = _Clock(), _Table(), _Nexi(), _Credentials(), random.Random(20261124)
    configured = Settings("staging", "https://nexi.example", None, "a", "c", None, "t", "cache", False)
    start, total = clock.now, ENROLLMENTS[size]

    def new() -> _Environment:
        made: Any = Nexi(configured, credentials, table, clock, connect=lambda *_: nexi)
        return _Environment(made, clock.now + draw.uniform(*LIFE))

    alive: list[_Environment] = []
    refresher = new()
    environments = enrolled = per_environment = 0
    weights = [_rate(second) for second in range(0, DAY, 10)]
    scale, most, due = total / sum(weights), 0, 0.0
    for step, weight in enumerate(weights):
        clock.now = start + 10 * step
        # Else the metrics of a whole day would be one line.
        telemetry.begin("benchmark")
        if (10 * step) % REFRESH_EVERY == 0:
            nexi.asker = "refresh"
            refresher.nexi.refresh(REFRESH_BEFORE_SECONDS, Deadline(10, clock))
        if clock.now >= refresher.ends_at:
            refresher = new()
        alive = [each for each in alive if each.ends_at > clock.now]
        # As many as answer at once, and a rush now and then.
        wanted = 1 + math.ceil(2 * weight) + (40 if draw.random() < 0.002 else 0)
        while len(alive) < wanted:
            alive.append(new())
            environments += 1
        most = max(most, len(alive))
        due += weight * scale
        nexi.asker = "enrollment"
        while enrolled < round(due):
            clock.now += 10 / (weight * scale + 1)
            environment = draw.choice(alive)
            if clock.now >= environment.own_token_until:
                per_environment += 1
                environment.own_token_until = clock.now + 3570
            environment.nexi.token(_DEADLINE)
            environment.nexi.keys(_DEADLINE)
            enrolled += 1
    waited = sum(count for (asker, _), count in nexi.calls.items() if asker == "enrollment")
    tokens, keys = (sum(n for (_, what), n in nexi.calls.items() if what == name) for name in ("token", "keys"))
    return Row(
        "day",
        "A simulated day",
        f"{enrolled:,} enrollments, {environments:,} execution environments that live for 5 to 120 minutes each and at "
        f"most {most} at once, a quiet night and two rush hours, one-hour tokens; `token_refresh` every two minutes. "
        "The layer's own code, on a simulated clock.",
        ["", "calls in a day"],
        [
            ["token calls", number(tokens)],
            ["JWKS calls", number(keys)],
            ["token calls, were there one token for each environment", number(per_environment)],
            ["enrollments that waited for a token or for keys", number(waited)],
        ],
        [
            Verdict("token calls", tokens, unit="calls", target="≤ 26 calls", met=tokens <= 26),
            exactly("enrollments that waited for one", waited, 0, "enrollments"),
            Verdict("token calls, against one for each environment", tokens / per_environment),
        ],
        raw={"calls": {" ".join(name): count for name, count in nexi.calls.items()}, "environments": environments},
    )


_DEADLINE = Deadline(1e9)


def _rate(second: int) -> float:
    """Enrollments a second, in no unit: next to none at night, most at noon and at seven."""
    hour = second / 3600
    return 0.3 + 6 * math.exp(-(((hour - 12.5) / 1.5) ** 2)) + 9 * math.exp(-(((hour - 19) / 1.8) ** 2))
