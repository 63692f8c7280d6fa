"""What is sealed opens for who has the secret, for that purpose, under that name."""

from dataclasses import replace

import pytest

from softpos.credentials import Application, Certificate, Credentials
from softpos.seal import Seal

SECRET = b"a secret"


def test_it_opens_under_its_own_name_alone() -> None:
    sealed = Seal(SECRET, "cache").close("name", b"value")
    assert Seal(SECRET, "cache").open("name", sealed) == b"value"
    assert Seal(SECRET, "cache").open("another", sealed) is None
    assert Seal(b"another", "cache").open("name", sealed) is None
    assert Seal(SECRET, "idempotency").open("name", sealed) is None


def test_the_same_value_is_sealed_differently_each_time() -> None:
    """A nonce that came twice under one key would give away both values, and the power to forge."""
    seal = Seal(SECRET, "cache")
    assert len({seal.close("name", b"value")[:12] for _ in range(100)}) == 100


@pytest.mark.parametrize("length", [0, 1, 12, 27])
def test_what_is_too_short_does_not_open(length: int) -> None:
    assert Seal(SECRET, "cache").open("name", b"x" * length) is None


def test_it_takes_both_secrets(certificate: Certificate) -> None:
    application = Application("app-id", "client-secret", "https://merchant.example", "oidc")
    sealed = Credentials(application, certificate).seal("cache").close("name", b"value")
    assert Credentials(application, certificate).seal("cache").open("name", sealed) == b"value"
    without_secret = Credentials(replace(application, client_secret="another"), certificate)
    without_key = Credentials(application, replace(certificate, key_pem=b"another"))
    assert without_secret.seal("cache").open("name", sealed) is None
    assert without_key.seal("cache").open("name", sealed) is None
