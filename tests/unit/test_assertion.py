"""The client assertion, opened and verified by joserfc: an implementation of JOSE that did not make it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from jose.backends.base import Key
from joserfc import jwe, jws
from joserfc.jwk import RSAKey
from unit_support import RsaPair

from softpos.nexi import assertion
from softpos.nexi.jwks import EncryptionKey

NOW = 1_800_000_000.75
JTI = "0b9d3c1e-6f2a-4d58-9a77-3a1c5e8f2b64"
NAMES: dict[str, Any] = {
    "client_id": "app-id",
    "audience": "https://nexi.example",
    "point_of_sale": "00012345",
    "terminal_ids": ("30000001", "40000001"),
    "operator": "Mario.Rossi@example.com",
    "device_id": "c0ffee5d",
    "now": NOW,
    "jti": JTI,
}


@dataclass(frozen=True)
class Opened:
    outer: dict[str, Any]
    inner: dict[str, Any]
    claims: dict[str, Any]


Seal = Callable[..., str]
Open = Callable[[str], Opened]


@pytest.fixture(scope="session")
def signing_key(other_key: RsaPair) -> RsaPair:
    return other_key


@pytest.fixture(scope="session")
def seal(signing_key: RsaPair, nexi_key: RsaPair) -> Seal:
    """The code under test, with both keys in place."""
    signer = assertion.certificate_signer(signing_key.private)

    def seal(claims: dict[str, Any], *, kid: str | None = "nexi-1", minimal_headers: bool = False) -> str:
        return assertion.seal(claims, signer, EncryptionKey(kid, nexi_key.public), minimal_headers=minimal_headers)

    return seal


@pytest.fixture(scope="session")
def opened(signing_key: RsaPair, nexi_key: RsaPair) -> Open:
    """What Nexi does with an assertion. Raises joserfc's errors when it is not what the contract says."""
    decryption = RSAKey.import_key(nexi_key.private_pem)
    verification = RSAKey.import_key(signing_key.public_pem)
    registry = jwe.JWERegistry(algorithms=["RSA-OAEP-256", "A128CBC-HS256"])

    def opened(sealed: str) -> Opened:
        outer = jwe.decrypt_compact(sealed, decryption, registry=registry)
        inner = jws.deserialize_compact(outer.plaintext, verification, algorithms=["RS256"])
        return Opened(dict(outer.headers()), dict(inner.headers()), json.loads(inner.payload))

    return opened


class TestTheClaims:
    def test_they_are_those_of_the_contract_and_no_others(self) -> None:
        assert assertion.claims(**NAMES) == {
            "appId": "app-id",
            "pointOfSale": "00012345",
            "terminal_ids": ["30000001", "40000001"],
            "app_username_merchant": "Mario.Rossi@example.com",
            "app_deviceid": "c0ffee5d",
            "iss": "app-id",
            "sub": "app-id",
            "aud": "https://nexi.example",
            "iat": 1_799_999_995,
            "exp": 1_800_000_295,
            "jti": JTI,
        }

    def test_a_single_tid_is_still_a_list(self) -> None:
        assert assertion.claims(**{**NAMES, "terminal_ids": ("40000001",)})["terminal_ids"] == ["40000001"]

    @given(st.floats(1_600_000_000, 4_000_000_000))
    def test_times_are_whole_seconds_that_nexi_takes_at_any_moment(self, now: float) -> None:
        """Never ahead of the clock, even if ours is 4 seconds fast, not yet over, and not more than 900 s apart."""
        claims = assertion.claims(**{**NAMES, "now": now})
        assert type(claims["iat"]) is type(claims["exp"]) is int
        assert now - 60 < claims["iat"] <= now - 4
        assert now + 60 < claims["exp"]
        assert claims["exp"] - claims["iat"] <= 900


class TestTheEnvelope:
    def test_a_second_implementation_reads_the_claims_that_went_in(self, seal: Seal, opened: Open) -> None:
        claims = assertion.claims(**NAMES)
        assert opened(seal(claims)).claims == claims

    def test_full_headers_name_the_key_and_the_nesting(self, seal: Seal, opened: Open) -> None:
        read = opened(seal(assertion.claims(**NAMES)))
        assert read.outer == {"alg": "RSA-OAEP-256", "enc": "A128CBC-HS256", "cty": "JWT", "kid": "nexi-1"}
        assert read.inner == {"alg": "RS256", "typ": "JWT"}

    def test_a_key_without_kid_is_not_named(self, seal: Seal, opened: Open) -> None:
        read = opened(seal(assertion.claims(**NAMES), kid=None))
        assert read.outer == {"alg": "RSA-OAEP-256", "enc": "A128CBC-HS256", "cty": "JWT"}

    def test_minimal_headers_are_exactly_those_of_nexis_samples(self, seal: Seal, opened: Open) -> None:
        read = opened(seal(assertion.claims(**NAMES), minimal_headers=True))
        assert read.outer == {"alg": "RSA-OAEP-256", "enc": "A128CBC-HS256"}
        assert read.inner == {"alg": "RS256"}
        assert read.claims == assertion.claims(**NAMES)

    @pytest.mark.parametrize("kid", ["chiave-1", "clé 1", 'a"b\\c', "k" * 256])
    def test_any_kid_comes_out_as_it_went_in(self, seal: Seal, opened: Open, kid: str) -> None:
        assert opened(seal(assertion.claims(**NAMES), kid=kid)).outer["kid"] == kid

    def test_it_goes_into_a_form_field_as_it_is(self, seal: Seal) -> None:
        sealed = seal(assertion.claims(**NAMES))
        assert sealed.count(".") == 4
        assert sealed.replace(".", "").replace("-", "").replace("_", "").isalnum()
        assert sealed.isascii()

    def test_the_same_claims_never_seal_to_the_same_text(self, seal: Seal) -> None:
        claims = assertion.claims(**NAMES)
        one, other = seal(claims).split("."), seal(claims).split(".")
        # Content key, initialization vector, ciphertext and tag: each is new. The header is not.
        assert [a != b for a, b in zip(one, other, strict=True)] == [False, True, True, True, True]

    def test_claims_are_left_as_they_were(self, seal: Seal) -> None:
        claims = assertion.claims(**NAMES)
        seal(claims)
        assert claims == assertion.claims(**NAMES)

    @examples(max_examples=50)
    @given(
        operator=st.emails() | st.text(min_size=1, max_size=254),
        device_id=st.text(min_size=1, max_size=128),
        minimal=st.booleans(),
    )
    def test_any_text_comes_out_as_it_went_in(
        self, seal: Seal, opened: Open, operator: str, device_id: str, minimal: bool
    ) -> None:
        claims = assertion.claims(**{**NAMES, "operator": operator, "device_id": device_id})
        read = opened(seal(claims, minimal_headers=minimal)).claims
        assert (read["app_username_merchant"], read["app_deviceid"]) == (operator, device_id)

    @pytest.mark.parametrize(
        "operator", ["josé@esempio.it", "用户@例子.公司", "😀@example.com", "o'neill+1@example.com"]
    )
    def test_an_e_mail_beyond_ascii_comes_out_as_it_went_in(self, seal: Seal, opened: Open, operator: str) -> None:
        read = opened(seal(assertion.claims(**{**NAMES, "operator": operator})))
        assert read.claims["app_username_merchant"] == operator


class Elsewhere(Key):
    """A signer whose key this process does not have, as one in KMS would be. It signs, and can do nothing else."""

    def __init__(self, key: Key) -> None:
        super().__init__(None, assertion.SIGNATURE_ALGORITHM)
        self._key = key
        self.signed = 0

    def sign(self, msg: bytes) -> bytes:
        self.signed += 1
        signature: bytes = self._key.sign(msg)
        return signature


def test_any_key_that_signs_can_stand_in_for_the_certificates(
    signing_key: RsaPair, nexi_key: RsaPair, opened: Open
) -> None:
    signer = Elsewhere(assertion.certificate_signer(signing_key.private))
    claims = assertion.claims(**NAMES)
    sealed = assertion.seal(claims, signer, EncryptionKey("nexi-1", nexi_key.public))
    assert opened(sealed).claims == claims
    assert signer.signed == 1
