"""Execution environments, the cache table and Nexi in memory, on clocks that a test moves; with the sandbox's rules."""

import heapq
import itertools
import json
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

from joserfc.jwk import RSAKey
from unit_support import Clock

from sandbox import rules
from sandbox.rules import App, BrokenRuleError
from softpos.cache import CacheTable, Entry, _Item
from softpos.credentials import Application, Certificate, Credentials
from softpos.deadline import Deadline
from softpos.enrollment.budget import RenewalBudget
from softpos.enrollment.circuit import Circuit
from softpos.enrollment.service import Enrollment
from softpos.errors import NexiUnavailableError, SoftposError
from softpos.nexi.client import KEYS_PATH, PAR_PATH, TOKEN_PATH, Nexi
from softpos.nexi.session import Answer
from softpos.settings import Settings
from softpos.terminals import Assignment

BASE_URL = "https://nexi.example"
POINT_OF_SALE, TID = "00012345", "30000001"
CALL_SECONDS = 0.05
"""What a call of Nexi takes."""

MARIO, ANNA, LUCA = "mario@example.com", "anna@example.com", "luca@example.com"

Refusal = dict[str, Any]
"""`status`, `body` (an object, a text, or None) and perhaps `headers` of an answer that refuses."""


class MemoryTable(CacheTable):
    """The shared tier, as a dictionary."""

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {}

    def read(self, name: str) -> _Item:
        item = self.items.get(name, {})
        return _Item(item.get("sealed", b""), item.get("version"), item.get("lease_until", 0.0))

    def lease(self, name: str, holder: str, seen: str | None, now: float) -> bool:
        item = self.items.setdefault(name, {})
        if item.get("lease_until", 0.0) > now or item.get("version") != seen:
            return False
        item |= {"holder": holder, "lease_until": now + 6.0}
        return True

    def write(self, name: str, holder: str, sealed: bytes, entry: Entry) -> None:
        if self.items.get(name, {}).get("holder") == holder:
            self.items[name] = {"sealed": sealed, "version": entry.version}

    def release(self, name: str, holder: str) -> None:
        item = self.items.get(name, {})
        if item.get("holder") == holder:
            item |= {"holder": None, "lease_until": 0.0}

    def admit(self, name: str, limit: int, expires_at: float) -> bool:
        item = self.items.setdefault(name, {"admitted": 0})
        if item["admitted"] >= limit:
            return False
        item["admitted"] += 1
        return True

    def refund(self, name: str) -> None:
        if self.items.get(name, {}).get("admitted", 0) > 0:
            self.items[name]["admitted"] -= 1


class FailingTable(MemoryTable):
    """One that fails at each call, as CacheTable tells it."""

    def read(self, name: str) -> None:  # type: ignore[override]
        return None

    def admit(self, name: str, limit: int, expires_at: float) -> None:  # type: ignore[override]
        return None


class MemoryNexi:
    """Nexi's three endpoints. `refusal` is what it, or a gateway before it, says to whatever breaks a rule."""

    def __init__(self, app: App, keys: list[RSAKey], refusal: Refusal) -> None:
        self.app, self.keys, self.refusal = app, keys, refusal
        self.stray_keys: list[dict[str, Any]] = []
        """Published before the others, and good for nothing."""
        self.tokens: set[str] = set()
        self.offset = self.date_offset = 0.0
        self.down_until = 0.0
        self.calls: Counter[str] = Counter()
        self._serial = itertools.count()

    def session(self, clock: Clock, certificate: Certificate) -> Any:
        """Return a session as MutualTlsSession is one."""

        def send(_method: str, url: str, _deadline: Deadline, **request: Any) -> Answer:
            clock.now += CALL_SECONDS
            if clock.now < self.down_until:
                error = NexiUnavailableError("connection refused")
                error.reached = False
                raise error
            return self._answer(url.removeprefix(BASE_URL), clock.now + self.offset, certificate, **request)

        return SimpleNamespace(send=send)

    def _answer(
        self,
        path: str,
        now: float,
        certificate: Certificate,
        form: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        self.calls[path] += 1
        said = {"Date": formatdate(now + self.date_offset, usegmt=True)}
        try:
            if certificate.thumbprint not in self.app.certificates:
                raise rules.forbidden("certificate", "not registered")
            body = {KEYS_PATH: self._jwks, TOKEN_PATH: self._token, PAR_PATH: self._par}[path](form, headers, now)
        except BrokenRuleError:
            text = self.refusal["body"]
            text = "" if text is None else text if isinstance(text, str) else json.dumps(text)
            return Answer(self.refusal["status"], {**said, **self.refusal.get("headers", {})}, text.encode())
        return Answer(201 if path == PAR_PATH else 200, said, json.dumps(body).encode())

    def _jwks(self, *_: Any) -> Any:
        return {"keys": [*self.stray_keys, *(key.as_dict(private=False) for key in self.keys)]}

    def _token(self, form: dict[str, str], *_: Any) -> Any:
        rules.token_request(form, self.app)
        token = f"token-{next(self._serial)}"
        self.tokens.add(token)
        return {"access_token": token, "token_type": "Bearer", "expires_in": 3600}

    def _par(self, form: dict[str, str], headers: dict[str, str], now: float) -> Any:
        if headers["Authorization"].removeprefix("Bearer ") not in self.tokens:
            raise rules.unauthorized("token-unknown", "not given out here, or revoked")
        rules.authorization_request(form, self.app)
        claims = rules.open_assertion(form["client_assertion"], {str(key.kid): key for key in self.keys}, self.app)
        rules.check_claims(claims, self.app, BASE_URL, now)
        return {"request_uri": f"urn:{claims['app_username_merchant']}", "expires_in": 90}


class Store:
    """The secrets: `held` is their newest version. As CredentialStore, it is read again after 300 s, or on request."""

    def __init__(self, clock: Clock, source: list[Credentials]) -> None:
        self._clock, self._source = clock, source
        self._held, self._read_at = source[-1], clock.now

    def get(self, *, reload: bool = False) -> Credentials:
        if self._clock.now - self._read_at >= (5 if reload else 300):
            self._held, self._read_at = self._source[-1], self._clock.now
        return self._held


class Environment:
    """An execution environment with a clock of its own."""

    def __init__(self, world: "World") -> None:
        self.clock = Clock(world.now)
        self._world = world
        store: Any = Store(self.clock, world.secrets)
        settings = Settings("dev", BASE_URL, None, "a", "c", None, "terminals", "cache", True)

        def connect(certificate: Certificate, _bundle: str | None) -> Any:
            return world.nexi.session(self.clock, certificate)

        nexi = Nexi(settings, store, world.table, self.clock, connect=connect)
        registry: Any = SimpleNamespace(held_by=lambda email: Assignment(POINT_OF_SALE, TID, None, email))
        limit: Any = SimpleNamespace(admit=lambda _: None)
        self.circuit, self.connections = Circuit(self.clock), Circuit(self.clock)
        self.enrollment = Enrollment(
            registry,
            nexi,
            None,  # type: ignore[arg-type]  # no Idempotency-Key here
            limit,
            RenewalBudget(world.table, store, self.clock),
            self.circuit,
            self.connections,
            self._sleep,
        )

    def _sleep(self, seconds: float) -> None:
        self.clock.now += seconds

    def enroll(self, operator: str = MARIO) -> str:
        """Return `201`, or the code of the problem, having given the error's remedy all its time."""
        self.clock.now = max(self.clock.now, self._world.now)
        self.retry_after = 0
        try:
            pushed = self.enrollment.enroll(operator, "device", Deadline(10, self.clock))
        except SoftposError as error:
            self.retry_after = error.retry_after or 5
            outcome = error.code
        else:
            assert pushed.request_uri == f"urn:{operator}"
            outcome = "201"
        self._world.now = max(self._world.now, self.clock.now)
        return outcome


class World:
    """Nexi, a table, secrets, and as many environments as a test starts."""

    def __init__(self, certificates: list[Certificate], x509s: list[Any], keys: list[RSAKey], refusal: Refusal) -> None:
        self.now = 1_800_000_000.0
        self.certificates, self._x509s, self.all_keys = certificates, x509s, keys
        app = App("app-id", "first secret", "https://merchant.example", operators={MARIO, ANNA})
        app.points_of_sale = {POINT_OF_SALE: {TID: "softpos"}}
        app.register(x509s[0], certificates[0].thumbprint)
        self.nexi = MemoryNexi(app, keys[:2], refusal)
        self.table: MemoryTable = MemoryTable()
        self.secrets = [self._credentials("first secret", certificates[0])]

    @staticmethod
    def _credentials(secret: str, certificate: Certificate) -> Credentials:
        return Credentials(Application("app-id", secret, "https://merchant.example", "oidc"), certificate)

    def revoke_tokens(self) -> None:
        self.nexi.tokens.clear()

    def rotate_keys(self) -> None:
        self.nexi.keys = self.all_keys[2:4]

    def rotate_secret(self) -> None:
        self.nexi.app.client_secret = "second secret"
        self.nexi.tokens.clear()
        self.secrets.append(self._credentials("second secret", self.secrets[-1].certificate))

    def replace_certificate(self) -> None:
        self.nexi.app.certificates = {self.certificates[1].thumbprint: self._x509s[1]}
        self.nexi.tokens.clear()
        self.secrets.append(self._credentials("first secret", self.certificates[1]))


def simulate(environments: list[Environment], seconds: float, next_at: Callable[[Environment, str], float]) -> None:
    """Let each environment's phone enroll, and again when `next_at` says, in the order of time."""
    began = min(each.clock.now for each in environments)
    events = [(each.clock.now, number) for number, each in enumerate(environments)]
    while events and events[0][0] < began + seconds:
        at, number = heapq.heappop(events)
        environment = environments[number]
        environment._world.now = environment.clock.now = at
        heapq.heappush(events, (next_at(environment, environment.enroll()), number))
