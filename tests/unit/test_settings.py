"""The functions' environment: one row for each variable, and for each way that it can be wrong."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from softpos import settings as module
from softpos.errors import MisconfiguredError
from softpos.settings import Settings

ENVIRONMENT = {
    "STAGE": "staging",
    "NEXI_BASE_URL": "https://nexi.example",
    "NEXI_CA_BUNDLE": "/opt/nexi-ca.pem",
    "APPLICATION_SECRET_ID": "stack/application",
    "CERTIFICATE_SECRET_ID": "stack/certificate",
    "SIGNING_KEY_ID": "alias/assertion",
    "TERMINALS_TABLE": "stack-terminals",
    "CACHE_TABLE": "stack-cache",
    "ASSERTION_HEADERS": "minimal",
    "ASSIGN_ON_FIRST_USE": "true",
    "POINT_OF_SALE_CLAIM": "custom:point_of_sale",
    "ENROLLMENTS_PER_MINUTE": "25",
    "OPERATORS_POOL_ID": "eu-south-1_A1b2C3d4E",
    "OPERATORS_CLIENT_ID": "6h1k5l0m3n2o4p7q8r9s1t2u3v",
}
OPTIONAL = {
    "NEXI_CA_BUNDLE": "nexi_ca_bundle",
    "SIGNING_KEY_ID": "signing_key_id",
    "POINT_OF_SALE_CLAIM": "point_of_sale_claim",
    "OPERATORS_POOL_ID": "operators_pool_id",
    "OPERATORS_CLIENT_ID": "operators_client_id",
}
REQUIRED = (
    "STAGE",
    "NEXI_BASE_URL",
    "APPLICATION_SECRET_ID",
    "CERTIFICATE_SECRET_ID",
    "TERMINALS_TABLE",
    "CACHE_TABLE",
)
BLANK = {"empty": "", "spaces": "  ", "line-break": "\n"}


def test_every_variable_is_read_into_its_field() -> None:
    assert dataclasses.asdict(Settings.from_environment(ENVIRONMENT)) == {
        "stage": "staging",
        "nexi_base_url": "https://nexi.example",
        "nexi_ca_bundle": "/opt/nexi-ca.pem",
        "application_secret_id": "stack/application",
        "certificate_secret_id": "stack/certificate",
        "signing_key_id": "alias/assertion",
        "terminals_table": "stack-terminals",
        "cache_table": "stack-cache",
        "minimal_assertion_headers": True,
        "assign_on_first_use": True,
        "point_of_sale_claim": "custom:point_of_sale",
        "enrollments_per_minute": 25,
        "operators_pool_id": "eu-south-1_A1b2C3d4E",
        "operators_client_id": "6h1k5l0m3n2o4p7q8r9s1t2u3v",
    }


def test_the_required_variables_are_enough() -> None:
    settings = Settings.from_environment({name: ENVIRONMENT[name] for name in REQUIRED})
    assert (settings.nexi_ca_bundle, settings.signing_key_id, settings.minimal_assertion_headers) == (None, None, True)
    assert (settings.assign_on_first_use, settings.point_of_sale_claim) == (False, None)
    assert settings.enrollments_per_minute == 10


def test_the_template_sets_every_required_variable() -> None:
    template = (Path(__file__).parents[2] / "template.yaml").read_text()
    for name in REQUIRED:
        assert re.search(rf"^        {name}: !", template, re.MULTILINE), name


@pytest.mark.parametrize("name", REQUIRED)
def test_a_required_variable_that_is_missing_is_named(name: str) -> None:
    environment = {each: value for each, value in ENVIRONMENT.items() if each != name}
    with pytest.raises(MisconfiguredError, match=f"environment variable {name} is not set") as caught:
        Settings.from_environment(environment)
    assert name in caught.value.remedy


@pytest.mark.parametrize("blank", BLANK.values(), ids=BLANK.keys())
@pytest.mark.parametrize("name", REQUIRED)
def test_a_required_variable_that_is_blank_counts_as_missing(name: str, blank: str) -> None:
    with pytest.raises(MisconfiguredError, match=f"environment variable {name} is not set"):
        Settings.from_environment({**ENVIRONMENT, name: blank})


@pytest.mark.parametrize("blank", BLANK.values(), ids=BLANK.keys())
@pytest.mark.parametrize("name", OPTIONAL)
def test_an_optional_variable_that_is_blank_counts_as_absent(name: str, blank: str) -> None:
    """CloudFormation cannot leave a variable away on an empty parameter without a condition: it sets it to ""."""
    settings = Settings.from_environment({**ENVIRONMENT, name: blank})
    assert getattr(settings, OPTIONAL[name]) is None


def test_blanks_around_a_value_are_not_part_of_it() -> None:
    settings = Settings.from_environment({name: f" {value}\n" for name, value in ENVIRONMENT.items()})
    assert settings == Settings.from_environment(ENVIRONMENT)


@pytest.mark.parametrize(
    ("value", "minimal"),
    [
        pytest.param("full", False, id="full"),
        pytest.param("minimal", True, id="minimal"),
        pytest.param("", True, id="empty-is-minimal"),
    ],
)
def test_assertion_headers_are_full_or_minimal(value: str, minimal: bool) -> None:
    settings = Settings.from_environment({**ENVIRONMENT, "ASSERTION_HEADERS": value})
    assert settings.minimal_assertion_headers is minimal


@pytest.mark.parametrize("value", ["Minimal", "none", "true", "full,minimal"])
def test_assertion_headers_take_no_other_word(value: str) -> None:
    with pytest.raises(MisconfiguredError, match="ASSERTION_HEADERS is neither minimal nor full"):
        Settings.from_environment({**ENVIRONMENT, "ASSERTION_HEADERS": value})


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("https://stgb2bsoftpos.nexigroup.com", id="staging"),
        pytest.param("https://b2bsoftpos.nexigroup.com", id="production"),
        pytest.param("https://127.0.0.1:8443", id="address-and-port"),
        pytest.param("https://[::1]:8443", id="ipv6-address-and-port"),
    ],
)
def test_a_base_url_is_kept_to_the_letter(value: str) -> None:
    """It is the assertion's `aud`, too."""
    assert Settings.from_environment({**ENVIRONMENT, "NEXI_BASE_URL": value}).nexi_base_url == value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("nexi.example", id="no-scheme"),
        pytest.param("http://nexi.example", id="not-https"),
        pytest.param("https://nexi.example/", id="trailing-slash"),
        pytest.param("https://nexi.example/softpos", id="path"),
        pytest.param("https://nexi.example?x=1", id="query"),
        pytest.param("https://nexi.example#x", id="fragment"),
        pytest.param("https://me:pass@nexi.example", id="user-information"),
        pytest.param("https://", id="no-host"),
        pytest.param("https://:443", id="port-without-host"),
        pytest.param("https://nexi.example:", id="colon-without-port"),
        pytest.param("https://nexi.example:99999", id="port-out-of-range"),
        pytest.param("https://nexi.example:0", id="port-zero"),
        pytest.param("https://nexi.example:https", id="port-not-a-number"),
        pytest.param("https://nexi. example", id="space-inside"),
        pytest.param("https://nexi\t.example", id="tab-inside"),
        pytest.param("https://nexi.example\\softpos", id="backslash"),
        pytest.param("https://[::1", id="bracket-left-open"),
        pytest.param("HTTPS://nexi.example", id="scheme-in-capitals"),
    ],
)
def test_a_base_url_is_https_host_and_port_alone(value: str) -> None:
    with pytest.raises(MisconfiguredError, match="environment variable NEXI_BASE_URL is not https://HOST"):
        Settings.from_environment({**ENVIRONMENT, "NEXI_BASE_URL": value})


@pytest.mark.parametrize(
    ("value", "assigns"),
    [
        pytest.param("true", True, id="true"),
        pytest.param("false", False, id="false"),
        pytest.param("", False, id="empty-is-false"),
    ],
)
def test_assignment_on_first_use_is_on_or_off(value: str, assigns: bool) -> None:
    assert Settings.from_environment({**ENVIRONMENT, "ASSIGN_ON_FIRST_USE": value}).assign_on_first_use is assigns


@pytest.mark.parametrize("value", ["True", "yes", "1", "on"])
def test_assignment_on_first_use_takes_no_other_word(value: str) -> None:
    with pytest.raises(MisconfiguredError, match="ASSIGN_ON_FIRST_USE is neither false nor true"):
        Settings.from_environment({**ENVIRONMENT, "ASSIGN_ON_FIRST_USE": value})


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "ten", "1e3", "010", "9" * 10])
def test_enrollments_per_minute_are_a_whole_number_above_nothing(value: str) -> None:
    with pytest.raises(MisconfiguredError, match="ENROLLMENTS_PER_MINUTE is no whole number above 0"):
        Settings.from_environment({**ENVIRONMENT, "ENROLLMENTS_PER_MINUTE": value})


CHECKED = {
    "NEXI_BASE_URL": "https://value-of.example",
    "ASSERTION_HEADERS": "full",
    "ASSIGN_ON_FIRST_USE": "true",
    "ENROLLMENTS_PER_MINUTE": "7",
}
"""What is more than a name of something, and a value that will do."""


@pytest.mark.parametrize("name", [*REQUIRED, *CHECKED])
def test_no_error_shows_a_value(name: str) -> None:
    """Whatever stands in the environment beside: AWS's session token does."""
    environment = {each: f"VALUE-OF-{each}" for each in (*ENVIRONMENT, "AWS_SESSION_TOKEN")} | CHECKED
    environment[name] = "" if name in REQUIRED else f"VALUE-OF-{name}"
    with pytest.raises(MisconfiguredError) as caught:
        Settings.from_environment(environment)
    assert "value-of" not in f"{caught.value} {caught.value.remedy}".lower()


def test_no_error_shows_a_malformed_base_url() -> None:
    with pytest.raises(MisconfiguredError) as caught:
        Settings.from_environment({**ENVIRONMENT, "NEXI_BASE_URL": "https://me:hunter2@nexi.example"})
    assert "hunter2" not in f"{caught.value} {caught.value.remedy} {caught.value.__cause__} {caught.value.__context__}"


def test_settings_are_frozen() -> None:
    settings = Settings.from_environment(ENVIRONMENT)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.stage = "production"  # type: ignore[misc]  # the very thing that must not work


class TestTheExecutionEnvironmentsSettings:
    @pytest.fixture(autouse=True)
    def _forgotten(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        module.settings.cache_clear()
        yield
        module.settings.cache_clear()

    def test_they_come_from_the_process_environment(self) -> None:
        assert module.settings() == Settings.from_environment(ENVIRONMENT)

    def test_they_are_read_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first = module.settings()
        monkeypatch.setenv("STAGE", "production")
        assert module.settings() is first

    def test_a_failure_is_not_remembered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("STAGE")
        with pytest.raises(MisconfiguredError):
            module.settings()
        monkeypatch.setenv("STAGE", "production")
        assert module.settings().stage == "production"
