"""Nexi's channel, one answer at a time: what is believed of it, and for how long. The session is a script.

What needs Nexi's own rules or a wire is in the integration tests.
"""

import base64
import json
from collections.abc import Callable
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import pytest
from unit_support import Clock, Lines, RsaPair

from softpos import telemetry
from softpos.cache import CacheTable
from softpos.credentials import Application, Certificate, Credentials, parse_certificate
from softpos.deadline import Deadline
from softpos.errors import MisconfiguredError, NexiRejectedError, NexiUnavailableError
from softpos.nexi import assertion
from softpos.nexi.client import (
    KEYS_COOLDOWN_SECONDS,
    KEYS_PATH,
    KEYS_SECONDS,
    MAX_REQUEST_URI_SECONDS,
    PAR_PATH,
    TOKEN_PATH,
    Nexi,
)
from softpos.nexi.responses import MAX_RETRY_AFTER_SECONDS
from softpos.nexi.session import Answer
from softpos.settings import Settings
from softpos.terminals import Assignment

BASE_URL = "https://nexi.example"
HELD = Assignment("00012345", "30000001", None, "mario.rossi@example.com")
NOW = 1_800_000_000.0


class Session:
    """Nexi's end: an answer for each path, until a test gives another, and what was asked."""

    def __init__(self, jwks: bytes) -> None:
        self.good: dict[str, tuple[int, Any, dict[str, str]]] = {
            TOKEN_PATH: (200, {"access_token": "t", "token_type": "Bearer", "expires_in": 3600}, {}),
            KEYS_PATH: (200, jwks, {}),
            PAR_PATH: (201, {"request_uri": "urn:x", "expires_in": 90}, {}),
        }
        self.next: list[tuple[str, int, Any, dict[str, str]]] = []
        self.asked: list[str] = []
        self.before: Callable[[str], None] = lambda path: None

    def send(self, method: str, url: str, deadline: Deadline, **_: Any) -> Answer:
        path = url.removeprefix(BASE_URL)
        self.asked.append(path)
        self.before(path)
        status, body, headers = self.good[path]
        if self.next and self.next[0][0] == path:
            _, status, body, headers = self.next.pop(0)
        return Answer(status, headers, body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def session(nexi_key: RsaPair) -> Session:
    numbers = nexi_key.public.public_numbers()

    def base64url(number: int) -> str:
        return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8)).rstrip(b"=").decode()

    key = {"kty": "RSA", "n": base64url(numbers.n), "e": base64url(numbers.e)}
    return Session(json.dumps({"keys": [key]}).encode())


@pytest.fixture
def store(certificate: Certificate) -> SimpleNamespace:
    held = Credentials(Application("app-id", "client-secret", "https://merchant.example", "oidc"), certificate)
    store = SimpleNamespace(held=held)
    store.get = lambda reload=False: store.held
    return store


@pytest.fixture
def start(session: Session, store: SimpleNamespace, clock: Clock) -> Callable[..., Nexi]:
    def start(table: CacheTable | None = None, base_url: str = BASE_URL) -> Nexi:
        settings = Settings("dev", base_url, None, "a", "c", None, "terminals", "cache", False)
        return Nexi(settings, store, table, clock, connect=lambda *_: session)  # type: ignore[arg-type,return-value]  # fakes

    return start


def refuse_certificate(*_: Any) -> Any:
    raise MisconfiguredError("certificate secret: OpenSSL does not load the certificate")


@pytest.fixture
def nexi(start: Callable[..., Nexi]) -> Nexi:
    return start()


@pytest.fixture
def issued(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time the assertions were made at."""
    times: list[float] = []
    claims = assertion.claims

    def seen(**members: Any) -> dict[str, Any]:
        times.append(members["now"])
        return claims(**members)

    monkeypatch.setattr(assertion, "claims", seen)
    return times


class TestTheToken:
    @pytest.mark.parametrize(("expires_in", "margin"), [(3600, 30), (100, 10), (10, 1)])
    def test_it_is_not_used_in_its_last_seconds(
        self, nexi: Nexi, session: Session, clock: Clock, expires_in: int, margin: int
    ) -> None:
        session.good[TOKEN_PATH] = (200, {"access_token": "t", "expires_in": expires_in}, {})
        nexi.push(HELD, "device", Deadline(10))
        clock.now = NOW + expires_in - margin - 0.1
        nexi.push(HELD, "device", Deadline(10))
        assert session.asked.count(TOKEN_PATH) == 1
        clock.now = NOW + expires_in - margin
        nexi.push(HELD, "device", Deadline(10))
        assert session.asked.count(TOKEN_PATH) == 2

    @pytest.mark.parametrize(
        "members",
        [
            {"access_token": "t", "token_type": "mac"},
            {"access_token": "t\r\nX-Injected: 1"},
            {"access_token": "with blank"},
            {"access_token": "é"},
            {"access_token": "t" * 8193},
        ],
        ids=["not-bearer", "line-break", "blank", "not-ascii", "endless"],
    )
    def test_what_could_not_go_into_a_header_is_no_token(
        self, nexi: Nexi, session: Session, members: dict[str, str]
    ) -> None:
        session.good[TOKEN_PATH] = (200, {"expires_in": 3600, **members}, {})
        with pytest.raises(NexiUnavailableError, match="token"):
            nexi.push(HELD, "device", Deadline(10))
        assert PAR_PATH not in session.asked

    def test_one_that_was_refused_leaves_the_memory_and_is_not_taken_from_a_table_that_could_not_be_told(
        self, start: Callable[..., Nexi], session: Session, clock: Clock
    ) -> None:
        """Both halves of the remedy: dropped where that works, and known to be bad where it does not."""
        dropped: list[str] = []

        class Deaf:
            """A table that answers every read with what it was first given, and forgets nothing."""

            sealed, version = b"", None

            def leased(self, _now: float) -> bool:
                return False

            def read(self, name: str) -> Any:
                return self if name.startswith("token") else None

            def lease(self, *_: Any) -> bool:
                return True

            def write(self, _name: str, _holder: str, sealed: bytes, entry: Any) -> bool:
                if not self.sealed:
                    self.sealed, self.version = sealed, entry.version
                return True

            def drop(self, name: str, _version: str) -> bool:
                dropped.append(name)
                return False

        nexi = start(Deaf())
        session.next = [(PAR_PATH, 401, {"error": "invalid_token"}, {})]
        with pytest.raises(NexiRejectedError) as refused:
            nexi.push(HELD, "device", Deadline(10))
        assert nexi.mend(refused.value, Deadline(10))
        assert len(dropped) == 1
        clock.now += 1
        nexi.push(HELD, "device", Deadline(10))
        assert session.asked.count(TOKEN_PATH) == 2


class TestTheKeys:
    def test_they_are_used_for_an_hour(self, nexi: Nexi, session: Session, clock: Clock) -> None:
        nexi.push(HELD, "device", Deadline(10))
        clock.now += KEYS_SECONDS - 1
        nexi.push(HELD, "device", Deadline(10))
        assert session.asked.count(KEYS_PATH) == 1
        clock.now += 1
        nexi.push(HELD, "device", Deadline(10))
        assert session.asked.count(KEYS_PATH) == 2


class TestARefusedRequest:
    def test_is_worth_another_attempt_when_the_credentials_have_a_newer_version(
        self, nexi: Nexi, session: Session, store: SimpleNamespace
    ) -> None:
        session.next = [(PAR_PATH, 400, {"message": "invalid signature"}, {})]
        with pytest.raises(NexiRejectedError) as refused:
            nexi.push(HELD, "device", Deadline(10))
        newer = Credentials(store.held.application, store.held.certificate)
        reloads = []

        def get(reload: bool = False) -> Credentials:
            reloads.append(reload)
            store.held = newer if reload else store.held
            return store.held

        store.get = get
        assert nexi.mend(refused.value, Deadline(10))
        assert reloads == [True]
        assert session.asked.count(KEYS_PATH) == 1, "what was refused was not for the keys' sake"

    def test_is_not_when_credentials_keys_and_clock_are_the_same(self, nexi: Nexi, session: Session) -> None:
        session.next = [(PAR_PATH, 400, {"message": "ContractCode not found."}, {})]
        with pytest.raises(NexiRejectedError) as refused:
            nexi.push(HELD, "device", Deadline(10))
        assert not nexi.mend(refused.value, Deadline(10))

    @pytest.mark.parametrize("status", [401, 403, 404, 503])
    def test_is_what_the_phone_hears_of_whatever_the_keys_endpoint_says(
        self, nexi: Nexi, session: Session, clock: Clock, status: int
    ) -> None:
        session.next = [(PAR_PATH, 400, {"message": "ContractCode not found."}, {}), (KEYS_PATH, status, {}, {})]
        with pytest.raises(NexiRejectedError) as refused:
            nexi.push(HELD, "device", Deadline(10))
        clock.now += KEYS_COOLDOWN_SECONDS
        assert not nexi.mend(refused.value, Deadline(10))
        assert session.asked.count(KEYS_PATH) == 2

    def test_is_not_looked_into_when_there_is_no_time_for_another_attempt(
        self, nexi: Nexi, session: Session, store: SimpleNamespace
    ) -> None:
        session.next = [(PAR_PATH, 400, {"message": "ContractCode not found."}, {})]
        with pytest.raises(NexiRejectedError) as refused:
            nexi.push(HELD, "device", Deadline(10))
        store.get = lambda reload=False: pytest.fail("nobody waits for it") if reload else store.held
        assert not nexi.mend(refused.value, Deadline(0))

    def test_is_looked_into_no_further_when_the_secrets_took_all_the_time(
        self, nexi: Nexi, session: Session, store: SimpleNamespace, clock: Clock
    ) -> None:
        session.next = [(PAR_PATH, 400, {"message": "ContractCode not found."}, {})]
        with pytest.raises(NexiRejectedError) as refused:
            nexi.push(HELD, "device", Deadline(10, clock))
        clock.now += KEYS_COOLDOWN_SECONDS

        def slowly(reload: bool = False) -> Credentials:
            clock.now += 8
            return store.held

        store.get = slowly
        assert not nexi.mend(refused.value, Deadline(5, clock))
        assert session.asked.count(KEYS_PATH) == 1


class TestTheClock:
    @pytest.mark.parametrize("path", [TOKEN_PATH, KEYS_PATH])
    def test_the_first_assertion_follows_the_first_answer(
        self, nexi: Nexi, session: Session, issued: list[float], path: str
    ) -> None:
        status, body, _ = session.good[path]
        session.good[path] = (status, body, {"Date": formatdate(NOW - 300, usegmt=True)})
        nexi.push(HELD, "device", Deadline(10))
        assert issued == [pytest.approx(NOW - 300, abs=1)]


class TestWhoseTheCacheIs:
    def test_another_certificate_or_stage_shares_nothing(
        self, start: Callable[..., Nexi], store: SimpleNamespace, authority: Any, other_key: RsaPair
    ) -> None:
        first = start()._linked(store.held)
        moved = start(base_url="https://stage.example")._linked(store.held)
        renewed = authority.developer("RENEWED", key=other_key.private)
        pem = {"certificate": renewed.certificate_pem, "private_key": renewed.key_pem}
        other = Credentials(store.held.application, parse_certificate(json.dumps(pem)))
        changed = start()._linked(other)
        assert len({first.token_name, moved.token_name, changed.token_name}) == 3
        assert len({first.keys_name, moved.keys_name, changed.keys_name}) == 3

    def test_a_certificate_that_does_not_load_leaves_the_old_session_serving(
        self, start: Callable[..., Nexi], store: SimpleNamespace, lines: Lines
    ) -> None:
        nexi = start()
        telemetry.begin("enrollment")
        before = nexi.push(HELD, "device", Deadline(10))
        store.held = Credentials(store.held.application, store.held.certificate)
        nexi._connect = refuse_certificate
        assert nexi.push(HELD, "device", Deadline(10)) == before
        telemetry.succeeded("enrollment pushed")
        (line,) = (each for each in lines.all() if each.get("message") == "enrollment pushed")
        assert line["level"] == "WARNING"
        assert line["secrets"] == "certificate secret: OpenSSL does not load the certificate"

    def test_a_first_certificate_that_does_not_load_is_a_misconfiguration(self, start: Callable[..., Nexi]) -> None:
        nexi = start()
        nexi._connect = refuse_certificate
        with pytest.raises(MisconfiguredError, match="does not load"):
            nexi.push(HELD, "device", Deadline(10))


class TestTheRequestUri:
    @pytest.mark.parametrize(
        ("expires_in", "believed"), [(90, 90), ("90", 90), (10**6, MAX_REQUEST_URI_SECONDS)], ids=str
    )
    def test_it_lives_from_when_it_was_asked_for(
        self, nexi: Nexi, session: Session, clock: Clock, expires_in: Any, believed: int
    ) -> None:
        def slowly(path: str) -> None:
            clock.now += 2 if path == PAR_PATH else 0

        session.before = slowly
        session.good[PAR_PATH] = (201, {"request_uri": "urn:x", "expires_in": expires_in}, {})
        pushed = nexi.push(HELD, "device", Deadline(10))
        assert (pushed.expires_in, pushed.expires_at) == (believed, NOW + believed)

    @pytest.mark.parametrize("expires_in", [True, 0, -1, "soon", [90], 1e300], ids=str)
    def test_a_life_that_is_none_is_no_answer(self, nexi: Nexi, session: Session, expires_in: Any) -> None:
        session.good[PAR_PATH] = (201, {"request_uri": "urn:x", "expires_in": expires_in}, {})
        with pytest.raises(NexiUnavailableError, match="expires_in"):
            nexi.push(HELD, "device", Deadline(10))

    def test_an_infinite_life_or_one_that_is_nested_without_end_is_no_answer(
        self, nexi: Nexi, session: Session
    ) -> None:
        for body in (b'{"request_uri": "urn:x", "expires_in": Infinity}', b"[" * 30_000):
            session.good[PAR_PATH] = (201, body, {})
            with pytest.raises(NexiUnavailableError):
                nexi.push(HELD, "device", Deadline(10))


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            ("17", 17),
            ("0", 1),
            ("999999", MAX_RETRY_AFTER_SECONDS),
            (formatdate(NOW - 300 + 40, usegmt=True), 40),
            (formatdate(NOW - 900, usegmt=True), 1),
            ("soon", None),
        ],
        ids=["seconds", "zero", "absurd", "date-by-their-clock", "date-gone-by", "a-word"],
    )
    def test_it_is_seconds_or_a_date_by_nexis_clock(
        self, nexi: Nexi, session: Session, value: str, seconds: int | None
    ) -> None:
        """Nexi's clock is five minutes behind ours here."""
        date = formatdate(NOW - 300, usegmt=True)
        session.next = [(PAR_PATH, 503, b"", {"Date": date, "Retry-After": value})]
        with pytest.raises(NexiUnavailableError) as busy:
            nexi.push(HELD, "device", Deadline(10))
        assert busy.value.retry_after == (seconds if seconds is None else pytest.approx(seconds, abs=1))
        assert busy.value.retry_after is None or 1 <= busy.value.retry_after <= MAX_RETRY_AFTER_SECONDS
