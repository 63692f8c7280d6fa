"""The handler of GET /v1/jwks.json, on the event in events/: the same file is there for `sam local invoke`."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
from handlers import (
    INVOCATION,
    Context,
    Event,
    assert_like_api_gateways,
    invoke,
    load_event,
    load_function,
    told,
    without_authorizer,
)
from unit_support import Lines, RsaPair

from softpos.deadline import Deadline
from softpos.errors import (
    MisconfiguredError,
    NexiRejectedError,
    NexiTimeoutError,
    NexiUnavailableError,
    SoftposError,
)
from softpos.nexi import client
from softpos.nexi.client import PublishedKeys
from softpos.nexi.jwks import EncryptionKey

Handle = Callable[..., dict[str, Any]]


def asked() -> Event:
    return load_event("encryption-keys")


def asked_by(**claims: str) -> Event:
    event = asked()
    event["requestContext"]["authorizer"]["jwt"]["claims"] = {"sub": "3f2a8c1e", **claims}
    return event


@dataclass
class FakeChannel:
    """Publishes its keys, or fails as it is told to."""

    published: PublishedKeys
    failure: Exception | None = None
    seconds: list[float] = field(default_factory=list)

    def keys(self, deadline: Deadline) -> PublishedKeys:
        self.seconds.append(deadline.remaining())
        if self.failure is not None:
            raise self.failure
        return self.published


@pytest.fixture(scope="module")
def function() -> ModuleType:
    return load_function("encryption_keys")


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch, nexi_key: RsaPair, other_key: RsaPair) -> FakeChannel:
    keys = [EncryptionKey("nexi-1", nexi_key.public), EncryptionKey(None, other_key.public)]
    fake = FakeChannel(PublishedKeys(keys, usable_for=3_000))
    monkeypatch.setattr(client, "channel", lambda: fake)
    return fake


@pytest.fixture
def handle(function: ModuleType, channel: FakeChannel) -> Handle:
    return lambda event, context=None: invoke(function, event, context)


class TestTheKeys:
    def test_they_are_a_jwk_set_of_public_members_in_the_channels_order(
        self, handle: Handle, channel: FakeChannel
    ) -> None:
        answer = handle(asked())
        assert answer["statusCode"] == 200
        body = json.loads(answer["body"])
        assert set(body) == {"keys"}
        assert body["keys"] == [key.jwk() for key in channel.published.keys]
        named, unnamed = body["keys"]
        assert set(named) == {"kty", "use", "kid", "n", "e"}
        assert set(unnamed) == {"kty", "use", "n", "e"}
        assert (named["kty"], named["use"], named["kid"], named["e"]) == ("RSA", "enc", "nexi-1", "AQAB")

    @pytest.mark.parametrize(
        ("usable_for", "max_age"),
        [
            pytest.param(3_000, 300, id="no-longer-than-five-minutes-after-a-rotation"),
            pytest.param(301, 300, id="just-more"),
            pytest.param(299, 299, id="no-longer-than-they-last"),
            pytest.param(1, 1, id="one-second-left"),
            pytest.param(0, 0, id="nothing-left"),
        ],
    )
    def test_a_device_keeps_them_no_longer_than_we_do(
        self, handle: Handle, channel: FakeChannel, usable_for: int, max_age: int
    ) -> None:
        channel.published = PublishedKeys(channel.published.keys, usable_for)
        assert handle(asked())["headers"] == {
            "content-type": "application/json",
            "cache-control": f"private, max-age={max_age}",
        }

    @pytest.mark.parametrize(
        ("remaining", "seconds"),
        [
            pytest.param(14_900, 10.0, id="an-enrollments-when-lambda-has-more"),
            pytest.param(6_000, 5.0, id="lambdas-less-a-second-to-answer-in"),
        ],
    )
    def test_nexi_is_waited_for_no_longer_than_in_an_enrollment(
        self, handle: Handle, channel: FakeChannel, remaining: int, seconds: float
    ) -> None:
        handle(asked(), Context(remaining=remaining))
        assert channel.seconds == [pytest.approx(seconds, abs=0.5)]

    def test_their_line_names_request_and_invocation_and_nobody(self, handle: Handle, lines: Lines) -> None:
        handle(asked())
        line = lines.only()
        assert (line["level"], line["message"]) == ("INFO", "encryption keys given")
        assert (line["request_id"], line["invocation"]) == (asked()["requestContext"]["requestId"], INVOCATION)
        assert "THE-ID-TOKEN" not in lines.text
        assert "@" not in lines.text


class TestWhoAsks:
    @pytest.mark.parametrize(
        "event",
        [
            pytest.param(asked_by(), id="an-access-token-without-email"),
            pytest.param(asked_by(email="mario.rossi@example.com", email_verified="false"), id="email-not-verified"),
        ],
    )
    def test_one_that_the_token_does_not_name_gets_no_key(
        self, handle: Handle, channel: FakeChannel, lines: Lines, event: Event
    ) -> None:
        assert told(handle(event)) == (403, "operator_unknown")
        assert channel.seconds == []
        assert lines.only()["level"] == "WARNING"

    def test_nobody_gets_a_key_without_the_authorizer(self, handle: Handle, channel: FakeChannel, lines: Lines) -> None:
        """A route that someone deploys without it must not be open."""
        assert told(handle(without_authorizer(asked()))) == (500, "internal_error")
        assert channel.seconds == []
        assert lines.only()["level"] == "ERROR"

    def test_an_operator_without_a_terminal_gets_them(self, handle: Handle) -> None:
        """They are Nexi's, and no operator's."""
        event = asked_by(email="nessun.terminale@example.com", email_verified="true")
        assert handle(event)["statusCode"] == 200


class TestAFailure:
    @pytest.mark.parametrize(
        ("failure", "status", "code"),
        [
            (NexiRejectedError("s3cr3t"), 502, "nexi_rejected"),
            (NexiUnavailableError("s3cr3t"), 503, "nexi_unavailable"),
            (NexiTimeoutError("s3cr3t"), 504, "nexi_timeout"),
            (MisconfiguredError("s3cr3t"), 500, "misconfigured"),
            (SoftposError("s3cr3t"), 500, "internal_error"),
            (ValueError("s3cr3t"), 500, "internal_error"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
    )
    def test_each_has_its_status_and_code_and_is_not_stored(
        self, handle: Handle, channel: FakeChannel, lines: Lines, failure: Exception, status: int, code: str
    ) -> None:
        channel.failure = failure
        answer = handle(asked())
        assert told(answer) == (status, code)
        assert answer["headers"]["cache-control"] == "no-store"
        assert ("retry-after" in answer["headers"]) == (status in (503, 504))
        assert "s3cr3t" not in json.dumps(answer)
        assert lines.only()["code"] == code

    def test_one_while_the_channel_is_built_is_answered_too(
        self, handle: Handle, lines: Lines, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unbuildable() -> None:
            raise MisconfiguredError("environment variable STAGE is not set", "set it")

        monkeypatch.setattr(client, "channel", unbuildable)
        assert told(handle(asked())) == (500, "misconfigured")
        assert lines.only()["remedy"] == "set it"


def test_the_event_file_is_an_http_api_event_behind_the_jwt_authorizer() -> None:
    assert_like_api_gateways(asked())
    assert asked()["routeKey"] == "GET /v1/jwks.json"
    assert set(asked()["requestContext"]["authorizer"]) == {"jwt"}
