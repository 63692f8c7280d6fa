"""An enrollment that Nexi refuses for a cause that can be cured succeeds at once, whatever words Nexi refuses with.

The real Enrollment, Recovery, Nexi and Cache run in memory, against the sandbox's rules, on a clock that a test moves.
"""

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from joserfc.jwk import RSAKey
from recovery_support import ANNA, LUCA, MARIO, Environment, FailingTable, Refusal, World, simulate

from sandbox.authority import Authority, Issued
from softpos.credentials import Certificate, parse_certificate
from softpos.nexi.client import KEYS_PATH, PAR_PATH, TOKEN_PATH

REFUSALS: dict[str, Refusal] = {
    "400 message": {"status": 400, "body": {"statusCode": None, "message": "Invalid request."}},
    "400 invalid_client": {"status": 400, "body": {"error": "invalid_client"}},
    "400 invalid_token": {"status": 400, "body": {"error": "invalid_token"}},
    "400 invalid_request": {"status": 400, "body": {"error": "invalid_request"}},
    "400 invalid_request_object": {"status": 400, "body": {"error": "invalid_request_object"}},
    "401 errmsg": {"status": 401, "body": {"errcode": "401", "errmsg": "Unauthorized"}},
    "401 invalid_client": {"status": 401, "body": {"error": "invalid_client"}},
    "401 WWW-Authenticate": {
        "status": 401,
        "headers": {"WWW-Authenticate": 'Bearer error="invalid_token"'},
        "body": None,
    },
    "403 errmsg": {"status": 403, "body": {"errcode": "403", "errmsg": "Forbidden"}},
    "403 page": {"status": 403, "body": "<html><body>Forbidden</body></html>"},
    "302": {"status": 302, "headers": {"Location": "https://nexi.example/login"}, "body": None},
    "404": {"status": 404, "body": {"statusCode": None, "message": "Not found."}},
    "405": {"status": 405, "body": None},
    "409": {"status": 409, "body": None},
    "422": {"status": 422, "body": {"statusCode": None, "message": "Unprocessable."}},
    "204": {"status": 204, "body": None},
    "200 errmsg": {"status": 200, "body": {"errcode": "401", "errmsg": "Unauthorized"}},
    "201 page": {"status": 201, "body": "<html><body>Welcome</body></html>"},
    "500": {"status": 500, "body": {"statusCode": None, "message": "Internal error."}},
    "502": {"status": 502, "body": None},
}


def both(world: World) -> None:
    world.revoke_tokens()
    world.rotate_keys()


def clock_ahead(world: World) -> None:
    world.nexi.offset = -120.0


def date_ahead(world: World) -> None:
    world.nexi.date_offset = 3600.0


def date_behind(world: World) -> None:
    world.nexi.date_offset = -3600.0


CAUSES: dict[str, Callable[[World], None]] = {
    "revoked token": World.revoke_tokens,
    "rotated keys": World.rotate_keys,
    "revoked token and rotated keys": both,
    "rotated secret": World.rotate_secret,
    "replaced certificate": World.replace_certificate,
    "our clock ahead by two minutes": clock_ahead,
    "Date ahead by an hour": date_ahead,
    "Date behind by an hour": date_behind,
}
AGES = {"5 s old": 5.0, "5 minutes old": 300.0}
ENVIRONMENTS = {"one environment": 1, "two environments": 2}


@pytest.fixture(scope="session")
def keys() -> list[RSAKey]:
    """Nexi's encryption keys: two of now, and two for later."""
    return [RSAKey.generate_key(2048, {"kid": f"enc-{number}", "use": "enc"}) for number in range(4)]


@pytest.fixture(scope="session")
def developers(authority: Authority) -> list[Issued]:
    return [authority.developer("FIRST"), authority.developer("SECOND")]


@pytest.fixture(scope="session")
def certificates(developers: list[Issued]) -> list[Certificate]:
    return [
        parse_certificate(json.dumps({"certificate": each.certificate_pem, "private_key": each.key_pem}))
        for each in developers
    ]


@pytest.fixture
def new_world(certificates: list[Certificate], developers: list[Issued], keys: list[RSAKey]) -> Callable[..., World]:
    def new(refusal: str = "400 message") -> World:
        return World(certificates, [each.certificate for each in developers], keys, REFUSALS[refusal])

    return new


def warm(world: World, count: int) -> list[Environment]:
    environments = [Environment(world) for _ in range(count)]
    assert [each.enroll() for each in environments] == ["201"] * count
    return environments


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("cause", CAUSES)
def test_the_first_enrollment_after_a_cause_that_can_be_cured_succeeds(
    cause: str, refusal: str, new_world: Callable[..., World]
) -> None:
    for age, count in itertools.product(AGES.values(), ENVIRONMENTS.values()):
        world = new_world(refusal)
        environments = warm(world, count)
        world.now += age
        CAUSES[cause](world)
        # Each environment's first enrollment, and then another operator's.
        assert [each.enroll(operator) for operator in (MARIO, ANNA) for each in environments] == ["201"] * 2 * count
        assert all(each.clock.now - world.now < 10 for each in environments)


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_forbidden_operator_is_refused_and_nobody_else(refusal: str, new_world: Callable[..., World]) -> None:
    code = "nexi_unavailable" if REFUSALS[refusal]["status"] >= 500 else "nexi_rejected"
    for age, count in itertools.product(AGES.values(), ENVIRONMENTS.values()):
        world = new_world(refusal)
        environments = warm(world, count)
        world.now += age
        for _ in range(3):
            assert [each.enroll(LUCA) for each in environments] == [code] * count
            assert [each.enroll(operator) for operator in (MARIO, ANNA) for each in environments] == ["201"] * 2 * count


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("cause", ["revoked token", "rotated keys", "revoked token and rotated keys"])
def test_a_table_that_fails_changes_nothing(cause: str, refusal: str, new_world: Callable[..., World]) -> None:
    world = new_world(refusal)
    world.table = FailingTable()
    (environment,) = warm(world, 1)
    world.now += 5
    CAUSES[cause](world)
    assert [environment.enroll(MARIO), environment.enroll(ANNA)] == ["201", "201"]


@pytest.mark.parametrize("cause", CAUSES)
def test_a_cause_while_the_date_header_is_wrong_is_cured(cause: str, new_world: Callable[..., World]) -> None:
    world = new_world()
    world.nexi.date_offset = 3600.0
    (environment,) = warm(world, 1)
    world.now += 60
    CAUSES[cause](world)
    assert environment.enroll() == "201"


@pytest.mark.parametrize("cause", CAUSES)
def test_a_cause_while_our_clock_is_ahead_is_cured(cause: str, new_world: Callable[..., World]) -> None:
    """The correction that Nexi accepted serves on when the Date header goes wrong."""
    world = new_world()
    world.nexi.offset = -8.0
    (environment,) = warm(world, 1)
    world.now += 60
    CAUSES[cause](world)
    assert environment.enroll() == "201"


class TestWhatItCosts:
    def test_one_operator_refused_ten_times_pays_for_one_renewal(self, new_world: Callable[..., World]) -> None:
        world = new_world()
        environments = warm(world, 2)
        world.now = 60 * (world.now // 60 + 1)
        before = world.nexi.calls.copy()
        for number in range(10):
            assert environments[number % 2].enroll(LUCA) == "nexi_rejected"
            world.now += 3
        spent = world.nexi.calls - before
        assert (spent[TOKEN_PATH], spent[KEYS_PATH]) == (1, 1)

    def test_a_revocation_and_a_rotation_right_after_it_are_both_cured(self, new_world: Callable[..., World]) -> None:
        """What a renewal that helped has cost is given back."""
        world = new_world()
        (environment,) = warm(world, 1)
        world.now += 5
        for cause in (World.revoke_tokens, World.rotate_keys, World.revoke_tokens):
            cause(world)
            assert environment.enroll() == "201"
            world.now += 1

    def test_another_environments_renewal_costs_nothing(self, new_world: Callable[..., World]) -> None:
        world = new_world()
        environments = warm(world, 5)
        world.now += 5
        both(world)
        before = world.nexi.calls.copy()
        assert [each.enroll() for each in environments] == ["201"] * 5
        spent = world.nexi.calls - before
        assert (spent[TOKEN_PATH], spent[KEYS_PATH], spent[PAR_PATH]) == (1, 1, 10)

    @pytest.mark.parametrize("table_fails", [False, True], ids=["table", "no table"])
    def test_eight_refused_operators_leave_a_healthy_one_alone(
        self, table_fails: bool, new_world: Callable[..., World]
    ) -> None:
        """Four environments, 60 s, a revocation in the middle: the prototype served 238 to 240 of 240."""
        world = new_world("401 errmsg")
        if table_fails:
            world.table = FailingTable()
        environments = warm(world, 4)
        world.now += 60
        began, before, outcomes = world.now, world.nexi.calls.copy(), []
        for tick in range(240):
            world.now = max(world.now, began + tick / 4)
            if tick == 120:
                world.revoke_tokens()
            if tick % 2:
                environments[tick // 2 % 4].enroll(f"refused-{tick // 2 % 8}@example.com")
            outcomes.append(environments[tick % 4].enroll(MARIO))
        spent = world.nexi.calls - before
        assert outcomes.count("201") >= (236 if table_fails else 238)
        assert spent[TOKEN_PATH] <= (4 * 7 if table_fails else 14)

    @pytest.mark.parametrize("failures", [1, 2])
    def test_a_renewal_that_failed_is_tried_again(
        self, failures: int, new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Once at once, then by the next enrollment: a token endpoint that stumbles must not cost a minute."""
        world = new_world()
        (environment,) = warm(world, 1)
        world.now += 5
        world.revoke_tokens()
        answer, left = world.nexi._answer, [failures]

        def stumbling(path: str, *arguments: Any, **request: Any) -> Any:
            found = answer(path, *arguments, **request)
            if path != TOKEN_PATH or not left[0]:
                return found
            left[0] -= 1
            return type(found)(503, {}, b"")

        monkeypatch.setattr(world.nexi, "_answer", stumbling)
        outcomes = [environment.enroll(), environment.enroll()]
        assert outcomes == (["201", "201"] if failures == 1 else ["nexi_rejected", "201"])

    def test_nothing_is_dropped_when_its_replacement_fails_to_come(
        self, new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = new_world()
        (environment,) = warm(world, 1)
        world.now += 5
        answer = world.nexi._answer

        def only_par(path: str, *arguments: Any, **request: Any) -> Any:
            found = answer(path, *arguments, **request)
            return found if path == PAR_PATH else type(found)(503, {}, b"")

        monkeypatch.setattr(world.nexi, "_answer", only_par)
        assert environment.enroll(LUCA) == "nexi_rejected"
        assert environment.enroll(MARIO) == "201"


class TestAnotherKey:
    """The set begins with a key that Nexi cannot decrypt with."""

    @pytest.fixture
    def stray(self, new_world: Callable[..., World]) -> World:
        world = new_world()
        world.nexi.stray_keys = [world.all_keys[3].as_dict(private=False)]
        return world

    def test_the_second_key_is_tried_once_and_remembered(self, stray: World) -> None:
        environment = Environment(stray)
        assert [environment.enroll(), environment.enroll(), environment.enroll(ANNA)] == ["201"] * 3
        # The first enrollment: refused, refused after renewing, accepted. Then one call each.
        assert stray.nexi.calls[PAR_PATH] == 5

    def test_a_key_of_the_next_rank_is_tried(self, stray: World) -> None:
        unlabelled = stray.all_keys[0].as_dict(private=True)
        del unlabelled["use"]
        stray.nexi.keys = [RSAKey.import_key(unlabelled)]
        assert Environment(stray).enroll() == "201"
        assert stray.nexi.calls[PAR_PATH] == 3

    def test_a_key_for_signatures_comes_last(self, stray: World) -> None:
        stray.nexi.stray_keys[0]["use"] = "sig"
        assert Environment(stray).enroll() == "201"
        assert stray.nexi.calls[PAR_PATH] == 1

    def test_a_key_that_worked_is_not_doubted(self, new_world: Callable[..., World]) -> None:
        world = new_world()
        (environment,) = warm(world, 1)
        before = world.nexi.calls[PAR_PATH]
        assert environment.enroll(LUCA) == "nexi_rejected"
        assert environment.enroll(LUCA) == "nexi_rejected"
        assert world.nexi.calls[PAR_PATH] - before <= 4


class TestOutage:
    def test_after_ten_minutes_all_environments_succeed_within_eleven_seconds(
        self, new_world: Callable[..., World]
    ) -> None:
        world = new_world()
        environments = [Environment(world) for _ in range(200)]
        for number, each in enumerate(environments):
            each.clock.now += number * 0.01
        back_at = world.nexi.down_until = environments[0].clock.now + 600
        served_at: dict[int, float] = {}

        def next_at(environment: Environment, outcome: str) -> float:
            if outcome == "201":
                served_at.setdefault(id(environment), environment.clock.now)
                return environment.clock.now + 3600
            return environment.clock.now + environment.retry_after

        simulate(environments, 660, next_at)
        assert len(served_at) == 200
        assert max(served_at.values()) - back_at < 11
