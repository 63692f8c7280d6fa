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
from softpos.errors import CredentialsRefusedError, MisconfiguredError, NexiRejectedError, NexiUnavailableError
from softpos.nexi import assertion
from softpos.nexi.client import (
    KEYS_PATH,
    KEYS_SECONDS,
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
            {"access_token": "t\r\nX-Injected: 1"},
            {"access_token": "with blank"},
            {"access_token": "é"},
            {"access_token": "t" * 8193},
        ],
        ids=["line-break", "blank", "not-ascii", "endless"],
    )
    def test_what_could_not_go_into_a_header_is_no_token(
        self, nexi: Nexi, session: Session, members: dict[str, str]
    ) -> None:
        session.good[TOKEN_PATH] = (200, {"expires_in": 3600, **members}, {})
        with pytest.raises(NexiUnavailableError, match="token"):
            nexi.push(HELD, "device", Deadline(10))
        assert PAR_PATH not in session.asked


class TestTheKeys:
    def test_they_are_used_for_an_hour(self, nexi: Nexi, session: Session, clock: Clock) -> None:
        nexi.push(HELD, "device", Deadline(10))
        clock.now += KEYS_SECONDS - 1
        nexi.push(HELD, "device", Deadline(10))
        assert session.asked.count(KEYS_PATH) == 1
        clock.now += 1
        nexi.push(HELD, "device", Deadline(10))
        assert session.asked.count(KEYS_PATH) == 2


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
        ("expires_in", "believed"), [(60, 60), ("60", 60), ("60.0", 60), (90, 90), (10**6, 90)], ids=str
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

    @pytest.mark.parametrize("expires_in", [None, True, 0, -5, "soon", "", [90], {}, 1e300, "PT1M", "NaN"], ids=str)
    def test_a_life_that_is_unreadable_counts_as_missing(self, nexi: Nexi, session: Session, expires_in: Any) -> None:
        session.good[PAR_PATH] = (201, {"request_uri": "urn:x", "expires_in": expires_in}, {})
        assert nexi.push(HELD, "device", Deadline(10)).expires_in == 90
        assert session.asked.count(PAR_PATH) == 1

    @pytest.mark.parametrize(
        "body",
        [b'{"request_uri": null}', b'{"request_uri": 7}', b'{"request_uri": "with blank"}', b"[]", b"[" * 30_000],
        ids=["null", "number", "blank", "array", "nested without end"],
    )
    def test_an_answer_without_one_is_a_refusal(self, nexi: Nexi, session: Session, body: bytes) -> None:
        session.good[PAR_PATH] = (201, body, {})
        with pytest.raises(NexiRejectedError, match="PAR answered 201"):
            nexi.push(HELD, "device", Deadline(10))


TOKEN = {"access_token": "t", "token_type": "Bearer", "expires_in": 3600}


class TestMembersAsNexiMaySendThem:
    """The first enrollment succeeds, and two enrollments make one token call."""

    @pytest.mark.parametrize("value", [None, "", "BEARER", "bearer ", "BearerToken", 7, True, []], ids=str)
    def test_any_token_type(self, nexi: Nexi, session: Session, value: Any) -> None:
        session.good[TOKEN_PATH] = (200, {**TOKEN, "token_type": value}, {})
        self._enroll_twice(nexi, session)

    @pytest.mark.parametrize(
        "value", [None, "3600", "3600.0", "3.6e3", True, 1e12, 10**13, "PT1H", "", [], 0, -1], ids=str
    )
    def test_any_life_of_a_token(self, nexi: Nexi, session: Session, value: Any) -> None:
        session.good[TOKEN_PATH] = (200, {**TOKEN, "expires_in": value}, {})
        self._enroll_twice(nexi, session)

    @pytest.mark.parametrize("value", ["Bearer t", "bearer  t", " t "])
    def test_a_token_with_its_scheme_or_blanks_around_it(self, nexi: Nexi, session: Session, value: str) -> None:
        session.good[TOKEN_PATH] = (200, {**TOKEN, "access_token": value}, {})
        self._enroll_twice(nexi, session)

    @pytest.mark.parametrize("member", ["token_type", "expires_in"])
    def test_a_missing_member(self, nexi: Nexi, session: Session, member: str) -> None:
        session.good[TOKEN_PATH] = (200, {name: value for name, value in TOKEN.items() if name != member}, {})
        self._enroll_twice(nexi, session)

    @pytest.mark.parametrize("member", ["use", "alg", "key_ops", "kid"])
    @pytest.mark.parametrize("value", [None, "", "ENC", "sig", "rsa-oaep-256", "RS256", 7, ["verify"]], ids=str)
    def test_any_label_of_a_key(self, nexi: Nexi, session: Session, member: str, value: Any) -> None:
        (key,) = json.loads(session.good[KEYS_PATH][1])["keys"]
        session.good[KEYS_PATH] = (200, {"keys": [{**key, member: value}]}, {})
        self._enroll_twice(nexi, session)

    @staticmethod
    def _enroll_twice(nexi: Nexi, session: Session) -> None:
        for _ in range(2):
            assert nexi.push(HELD, "device", Deadline(10)).request_uri == "urn:x"
        assert session.asked.count(TOKEN_PATH) == session.asked.count(KEYS_PATH) == 1


class TestStatuses:
    """What a status means at each endpoint, whatever the body."""

    @pytest.mark.parametrize("status", [408, 421, 425, 429, 500, 502, 503, 504, 599])
    @pytest.mark.parametrize("path", [TOKEN_PATH, KEYS_PATH, PAR_PATH])
    def test_passing_ones_are_worth_a_retry(self, nexi: Nexi, session: Session, path: str, status: int) -> None:
        session.next = [(path, status, b"", {"Retry-After": "3"})]
        with pytest.raises(NexiUnavailableError) as caught:
            nexi.push(HELD, "device", Deadline(10))
        assert caught.value.retry_after == 3

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 422])
    @pytest.mark.parametrize("path", [TOKEN_PATH, KEYS_PATH])
    def test_4xx_of_token_and_keys_is_about_our_credentials(
        self, nexi: Nexi, session: Session, path: str, status: int
    ) -> None:
        session.next = [(path, status, b"", {})]
        with pytest.raises(CredentialsRefusedError):
            nexi.push(HELD, "device", Deadline(10))

    @pytest.mark.parametrize("status", [202, 204, 301, 302, 307])
    @pytest.mark.parametrize("path", [TOKEN_PATH, KEYS_PATH])
    def test_other_answers_of_token_and_keys_ask_about_the_base_url(
        self, nexi: Nexi, session: Session, path: str, status: int
    ) -> None:
        session.next = [(path, status, b"", {})]
        with pytest.raises(NexiUnavailableError) as caught:
            nexi.push(HELD, "device", Deadline(10))
        assert "NEXI_BASE_URL" in caught.value.remedy

    @pytest.mark.parametrize("status", [200, 202, 204, 301, 302, 400, 401, 403, 404, 409, 418, 422])
    def test_anything_else_of_par_is_a_refusal(self, nexi: Nexi, session: Session, status: int) -> None:
        session.next = [(PAR_PATH, status, {"error": "invalid_client"}, {})]
        with pytest.raises(NexiRejectedError):
            nexi.push(HELD, "device", Deadline(10))


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            ("7", 7),
            ("0", 1),
            ("1.5", 2),
            ("999999", MAX_RETRY_AFTER_SECONDS),
            ("9999999", MAX_RETRY_AFTER_SECONDS),
            (formatdate(NOW - 300 + 7, usegmt=True), 7),
            (formatdate(NOW - 900, usegmt=True), 1),
            ("soon", None),
        ],
        ids=["seconds", "zero", "fraction", "absurd", "seven-digits", "date-by-their-clock", "date-gone-by", "a-word"],
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
