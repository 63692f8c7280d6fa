"""What the SDK is built from, and who gets which terminals for it: the real registry and secrets, on moto."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from handlers import OPERATOR, SECOND_OPERATOR, UNTOUCHED, Pool, aws_client, holders, registry_of
from moto import mock_aws
from unit_support import Clock, Lines

from softpos import app_configuration, aws, credentials, settings, telemetry, terminals
from softpos.app_configuration import AppConfiguration, AppConfigurations
from softpos.credentials import MAX_AGE_SECONDS, SecretStore, parse_application
from softpos.errors import (
    MisconfiguredError,
    NoTerminalFreeError,
    OperatorUnknownError,
    PointOfSaleUnknownError,
    SoftposError,
    TerminalNotAssignedError,
)
from softpos.settings import Settings
from softpos.terminals import TerminalRegistry

ENVIRONMENT = {
    "STAGE": "staging",
    "NEXI_BASE_URL": "https://nexi.example",
    "APPLICATION_SECRET_ID": "stack/application",
    "CERTIFICATE_SECRET_ID": "stack/certificate",
    "TERMINALS_TABLE": "terminals",
    "CACHE_TABLE": "cache",
}
SETTINGS = Settings.from_environment(ENVIRONMENT)
ASSIGNING = dataclasses.replace(SETTINGS, assign_on_first_use=True)
CLAIM = "custom:point_of_sale"
BY_CLAIM = dataclasses.replace(ASSIGNING, point_of_sale_claim=CLAIM)

APPLICATION = {
    "client_id": "app-1",
    "client_secret": "the-client-secret",
    "redirect_uri": "https://merchant.example/softpos",
}


def claims(email: str = OPERATOR, **others: Any) -> dict[str, Any]:
    return {"sub": "3f2a8c1e", "email": email, "email_verified": "true", **others}


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with mock_aws():
        yield Pool()


@pytest.fixture(scope="module")
def secretsmanager(pool: Pool) -> Any:
    """Secrets Manager, with the application secret and no certificate."""
    client = aws_client("secretsmanager")
    client.create_secret(Name="stack/application", SecretString="{}")
    return client


@pytest.fixture
def registry(pool: Pool) -> TerminalRegistry:
    return registry_of(pool.put_back())


@pytest.fixture
def store_application(secretsmanager: Any) -> Callable[..., None]:
    def store(**changed: str) -> None:
        secretsmanager.put_secret_value(SecretId="stack/application", SecretString=json.dumps(APPLICATION | changed))

    store()
    return store


@pytest.fixture
def clock() -> Clock:
    return Clock(1_800_000_000.0)


@pytest.fixture
def with_settings(
    registry: TerminalRegistry, secretsmanager: Any, store_application: Any, clock: Clock
) -> Callable[[Settings], AppConfigurations]:
    application = SecretStore(
        secretsmanager, "APPLICATION_SECRET_ID", "stack/application", parse_application, now=clock
    )
    return lambda configured: AppConfigurations(configured, registry, application)


@pytest.fixture
def service(with_settings: Callable[[Settings], AppConfigurations]) -> AppConfigurations:
    """As it is out of the box: it assigns nothing."""
    return with_settings(SETTINGS)


class TestWhatIsHeld:
    def test_it_comes_with_what_the_application_secret_and_the_stage_say(self, service: AppConfigurations) -> None:
        assert service.obtain(claims()) == AppConfiguration(
            app_id="app-1",
            environment="STAGING",
            redirect_uri="https://merchant.example/softpos",
            point_of_sale="00012345",
            softpos_tid="30000001",
            mpos_tid="40000001",
            operator=OPERATOR,
        )

    def test_in_production_the_environment_is_production(self, with_settings: Any) -> None:
        assert with_settings(dataclasses.replace(SETTINGS, stage="production")).obtain(claims()).environment == (
            "PRODUCTION"
        )

    @pytest.mark.parametrize("email", ["MARIO.ROSSI@EXAMPLE.COM", "Mario.Rossi@example.com"])
    @pytest.mark.parametrize("configured", [SETTINGS, ASSIGNING], ids=["assigning-nothing", "assigning"])
    def test_an_e_mail_in_other_letters_is_the_same_operator_spelled_as_held(
        self, with_settings: Any, registry: TerminalRegistry, email: str, configured: Settings
    ) -> None:
        obtained = with_settings(configured).obtain(claims(email))
        assert (obtained.softpos_tid, obtained.operator) == ("30000001", OPERATOR)
        assert holders(registry) == UNTOUCHED

    def test_a_tid_that_the_pair_lacks_is_none(self, service: AppConfigurations, registry: TerminalRegistry) -> None:
        registry.assign(OPERATOR, "30000003", move=True)
        obtained = service.obtain(claims())
        assert (obtained.softpos_tid, obtained.mpos_tid) == ("30000003", None)

    def test_what_is_taken_away_is_gone_with_the_next_call(
        self, service: AppConfigurations, registry: TerminalRegistry
    ) -> None:
        service.obtain(claims())
        registry.release("30000001")
        with pytest.raises(TerminalNotAssignedError):
            service.obtain(claims())

    @pytest.mark.parametrize(
        "nobodys",
        [
            pytest.param({"sub": "3f2a8c1e"}, id="no-email"),
            pytest.param(claims("mario.rossi"), id="no-e-mail-in-email"),
            pytest.param(claims(email_verified="false"), id="email-not-verified"),
            pytest.param(claims(SECOND_OPERATOR, email_verified="False"), id="email-of-another-not-verified"),
            pytest.param({"username": OPERATOR, "cognito:username": OPERATOR}, id="an-access-tokens-claims"),
        ],
    )
    def test_nobody_gets_anything_whom_the_token_does_not_name(
        self, with_settings: Any, registry: TerminalRegistry, nobodys: dict[str, Any]
    ) -> None:
        with pytest.raises(OperatorUnknownError):
            with_settings(ASSIGNING).obtain(nobodys)
        assert holders(registry) == UNTOUCHED

    def test_no_claim_but_the_e_mail_says_who_it_is(self, service: AppConfigurations) -> None:
        others = {"operator": SECOND_OPERATOR, "username": SECOND_OPERATOR, "preferred_username": SECOND_OPERATOR}
        assert service.obtain(claims(**others)).operator == OPERATOR

    def test_the_line_names_the_terminals_and_nobody(self, service: AppConfigurations, lines: Lines) -> None:
        telemetry.begin("enrollment")
        service.obtain(claims())
        telemetry.succeeded("app configuration given")
        line = lines.only()
        assert (line["point_of_sale"], line["terminal_ids"]) == ("00012345", ["30000001", "40000001"])
        assert "registry_ms" in line
        assert "assigned" not in line
        assert "@" not in lines.text
        assert "the-client-secret" not in lines.text


class TestTheFirstUse:
    def test_nothing_is_assigned_where_the_stack_does_not_say_so(
        self, service: AppConfigurations, registry: TerminalRegistry
    ) -> None:
        with pytest.raises(TerminalNotAssignedError):
            service.obtain(claims(SECOND_OPERATOR))
        assert holders(registry) == UNTOUCHED

    def test_where_it_does_the_first_free_pair_is_given_and_kept(
        self, with_settings: Any, registry: TerminalRegistry
    ) -> None:
        assigning = with_settings(ASSIGNING)
        first = assigning.obtain(claims(SECOND_OPERATOR))
        assert (first.point_of_sale, first.softpos_tid, first.operator) == ("00012345", "30000002", SECOND_OPERATOR)
        assert assigning.obtain(claims(SECOND_OPERATOR.upper())) == first
        assert holders(registry) == {**UNTOUCHED, "30000002": SECOND_OPERATOR}

    def test_what_the_back_office_decides_meanwhile_holds(self, with_settings: Any, registry: TerminalRegistry) -> None:
        """Another point of sale than the token's: it has just assigned the operator there."""
        assigning = with_settings(BY_CLAIM)
        held_by, looked = registry.held_by, []

        def decided_after_the_first_look(email: str) -> Any:
            looked.append(email)
            try:
                return held_by(email)
            finally:
                if len(looked) == 1:
                    registry.assign(email, "30000002")

        registry.held_by = decided_after_the_first_look  # type: ignore[method-assign]  # between two reads
        assigning._registry = registry
        obtained = assigning.obtain(claims(SECOND_OPERATOR, **{CLAIM: "00067890"}))
        assert (obtained.point_of_sale, obtained.softpos_tid) == ("00012345", "30000002")

    def test_its_line_says_so_once(self, with_settings: Any, lines: Lines) -> None:
        assigning = with_settings(ASSIGNING)
        for _ in range(2):
            telemetry.begin("enrollment")
            assigning.obtain(claims(SECOND_OPERATOR))
            telemetry.succeeded("app configuration given")
        first, second = lines.all()
        assert (first["assigned"], first["terminal_ids"]) == (True, ["30000002", "40000002"])
        assert "assigned" not in second

    def test_no_two_operators_get_the_same_and_the_last_gets_none(
        self, with_settings: Any, registry: TerminalRegistry
    ) -> None:
        assigning = with_settings(ASSIGNING)
        given = [assigning.obtain(claims(f"{name}@example.com")).softpos_tid for name in ("a", "b", "c")]
        assert given == ["30000002", "30000003", "30000004"]
        with pytest.raises(NoTerminalFreeError):
            assigning.obtain(claims("d@example.com"))
        assert assigning.obtain(claims()).softpos_tid == "30000001"

    def test_without_a_configured_claim_no_claim_decides_where(self, with_settings: Any) -> None:
        obtained = with_settings(ASSIGNING).obtain(claims(SECOND_OPERATOR, **{CLAIM: "00067890"}))
        assert obtained.point_of_sale == "00012345"

    @pytest.mark.parametrize("said", ["00067890", " 00067890\n"], ids=["plain", "with-blanks-around"])
    def test_the_configured_claim_decides_where(self, with_settings: Any, said: str) -> None:
        obtained = with_settings(BY_CLAIM).obtain(claims(SECOND_OPERATOR, **{CLAIM: said}))
        assert (obtained.point_of_sale, obtained.softpos_tid) == ("00067890", "30000004")

    @pytest.mark.parametrize(
        "said",
        [
            pytest.param({}, id="absent"),
            pytest.param({CLAIM: ""}, id="empty"),
            pytest.param({CLAIM: " \t"}, id="blank"),
            pytest.param({CLAIM: None}, id="null"),
            pytest.param({CLAIM: ["00067890"]}, id="a-list"),
            pytest.param({CLAIM.upper(): "00067890"}, id="of-almost-that-name"),
            pytest.param({CLAIM: "00012345#30000002"}, id="a-pairs-name"),
            pytest.param({CLAIM: "00012345$"}, id="a-sign-that-none-has"),
            pytest.param({CLAIM: "!"}, id="before-all"),
            pytest.param({CLAIM: "città"}, id="beyond-ascii"),
            pytest.param({CLAIM: "1" * 2000}, id="longer-than-dynamodbs-keys"),
        ],
    )
    def test_where_the_configured_claim_says_nothing_none_is_given(
        self, with_settings: Any, registry: TerminalRegistry, said: dict[str, Any]
    ) -> None:
        with pytest.raises(PointOfSaleUnknownError) as caught:
            with_settings(BY_CLAIM).obtain(claims(SECOND_OPERATOR, **said))
        assert "PointOfSaleClaim" in str(caught.value)
        assert holders(registry) == UNTOUCHED

    @pytest.mark.parametrize(
        "said",
        [
            pytest.param("00099999", id="unknown"),
            pytest.param("0001234", id="the-beginning-of-one"),
        ],
    )
    def test_of_a_point_of_sale_without_a_free_pair_none_is_given(
        self, with_settings: Any, registry: TerminalRegistry, said: str
    ) -> None:
        with pytest.raises(NoTerminalFreeError):
            with_settings(BY_CLAIM).obtain(claims(SECOND_OPERATOR, **{CLAIM: said}))
        assert holders(registry) == UNTOUCHED

    @pytest.mark.parametrize("said", [{}, {CLAIM: "00067890"}], ids=["absent", "another-point-of-sale"])
    def test_who_holds_a_pair_keeps_it_whatever_the_claim_says(
        self, with_settings: Any, registry: TerminalRegistry, said: dict[str, str]
    ) -> None:
        assert with_settings(BY_CLAIM).obtain(claims(**said)).point_of_sale == "00012345"
        assert holders(registry) == UNTOUCHED


class TestTheApplicationSecret:
    def test_a_new_version_is_taken_up_once_the_old_has_its_age(
        self, service: AppConfigurations, store_application: Any, clock: Clock
    ) -> None:
        service.obtain(claims())
        store_application(client_id="app-2", redirect_uri="https://merchant.example/new")
        assert service.obtain(claims()).app_id == "app-1"
        clock.now += MAX_AGE_SECONDS
        obtained = service.obtain(claims())
        assert (obtained.app_id, obtained.redirect_uri) == ("app-2", "https://merchant.example/new")

    def test_neither_the_answer_nor_any_repr_shows_the_client_secret(self, service: AppConfigurations) -> None:
        obtained = service.obtain(claims())
        assert "the-client-secret" not in f"{obtained!r} {dataclasses.asdict(obtained)} {service!r} {vars(service)!r}"

    def test_one_that_cannot_be_used_is_a_misconfiguration_that_shows_nothing(
        self, service: AppConfigurations, store_application: Any
    ) -> None:
        store_application(redirect_uri=" ")
        with pytest.raises(MisconfiguredError, match="redirect_uri is not a non-empty string") as caught:
            service.obtain(claims())
        assert "the-client-secret" not in f"{caught.value} {caught.value.remedy}"


class TestTheExecutionEnvironments:
    CACHES = (
        settings.settings,
        terminals.registry,
        credentials.application_store,
        credentials.credential_store,
        app_configuration.service,
    )

    @pytest.fixture(autouse=True)
    def _built_anew(
        self,
        registry: TerminalRegistry,
        store_application: Any,
        pool: Pool,
        secretsmanager: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[None]:
        clients = {"dynamodb": pool.dynamodb, "secretsmanager": secretsmanager}
        monkeypatch.setattr(aws, "client", lambda service: clients[service])
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        for cached in self.CACHES:
            cached.cache_clear()
        yield
        for cached in self.CACHES:
            cached.cache_clear()

    def test_it_is_built_once_of_settings_registry_and_secret(self) -> None:
        assert app_configuration.service().obtain(claims()).app_id == "app-1"
        assert app_configuration.service() is app_configuration.service()

    def test_it_does_without_the_certificate(self, secretsmanager: Any) -> None:
        """The function's role may not read that secret, and here there is none."""
        with pytest.raises(SoftposError, match="CERTIFICATE_SECRET_ID names does not exist"):
            credentials.credential_store().get()
        assert app_configuration.service().obtain(claims()).operator == OPERATOR

    def test_a_failure_to_build_it_is_not_remembered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ASSIGN_ON_FIRST_USE", "perhaps")
        with pytest.raises(MisconfiguredError, match="ASSIGN_ON_FIRST_USE"):
            app_configuration.service()
        monkeypatch.setenv("ASSIGN_ON_FIRST_USE", "true")
        assert app_configuration.service().obtain(claims(SECOND_OPERATOR)).softpos_tid == "30000002"
