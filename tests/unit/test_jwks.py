"""Which keys of a JWK set are usable and in which order, one row for each rule; and what may come instead of a set."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from unit_support import RsaPair

from softpos.errors import NexiUnavailableError
from softpos.nexi.jwks import EncryptionKey, published_keys, usable_keys


def base64url(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8)).rstrip(b"=").decode()


def document(*keys: Any) -> bytes:
    return json.dumps({"keys": keys}).encode()


@pytest.fixture(scope="session")
def jwk(nexi_key: RsaPair) -> dict[str, Any]:
    """Nexi's key as its API reference shows one."""
    numbers = nexi_key.public.public_numbers()
    return {"kty": "RSA", "kid": "nexi-1", "use": "enc", "n": base64url(numbers.n), "e": base64url(numbers.e)}


@pytest.fixture(scope="session")
def other_jwk(other_key: RsaPair) -> dict[str, Any]:
    numbers = other_key.public.public_numbers()
    return {"kty": "RSA", "kid": "other", "use": "enc", "n": base64url(numbers.n), "e": base64url(numbers.e)}


def choose_key(document: bytes) -> EncryptionKey:
    """The one that assertions are encrypted to."""
    return usable_keys(document)[0]


def without(jwk: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in jwk.items() if name not in names}


class TestAUsableKey:
    def test_it_is_read_with_its_kid(self, jwk: dict[str, Any], nexi_key: RsaPair) -> None:
        assert choose_key(document(jwk)) == EncryptionKey("nexi-1", nexi_key.public, 0, "")

    @pytest.mark.parametrize(
        "absent",
        [["use"], ["kid"], ["use", "kid"]],
        ids="-and-".join,
    )
    def test_it_may_leave_members_away(self, jwk: dict[str, Any], nexi_key: RsaPair, absent: list[str]) -> None:
        chosen = choose_key(document(without(jwk, *absent)))
        rank = 1 if "use" in absent else 0
        assert chosen == EncryptionKey(None if "kid" in absent else "nexi-1", nexi_key.public, rank)

    @pytest.mark.parametrize(
        "members",
        [
            pytest.param({"alg": "RSA-OAEP-256"}, id="alg-ours"),
            pytest.param({"key_ops": ["encrypt"]}, id="key_ops-encrypt"),
            pytest.param({"key_ops": ["wrapKey"]}, id="key_ops-wrapKey"),
            pytest.param({"key_ops": ["verify", "wrapKey"]}, id="key_ops-one-of-several"),
            pytest.param({"kid": None}, id="kid-null"),
            pytest.param({"kid": "k" * 256}, id="kid-of-256-characters"),
            pytest.param({"x5t": "thumb", "nexi:note": {"a": [1]}}, id="members-unknown-to-us"),
            pytest.param({"e": "Aw"}, id="exponent-3"),
            pytest.param({"e": base64url(2**32 - 1)}, id="exponent-of-32-bits"),
        ],
    )
    def test_it_may_say_more(self, jwk: dict[str, Any], nexi_key: RsaPair, members: dict[str, Any]) -> None:
        chosen = choose_key(document({**jwk, **members}))
        assert chosen.public_key.public_numbers().n == nexi_key.public.public_numbers().n

    def test_base64_may_be_padded(self, jwk: dict[str, Any], nexi_key: RsaPair) -> None:
        padded = {**jwk, "n": jwk["n"] + "=" * (-len(jwk["n"]) % 4)}
        assert choose_key(document(padded)).public_key == nexi_key.public

    def test_a_leading_zero_byte_does_no_harm(self, jwk: dict[str, Any], nexi_key: RsaPair) -> None:
        """Some encoders write the sign byte of a Java BigInteger."""
        number = nexi_key.public.public_numbers().n.to_bytes(257)
        signed = {**jwk, "n": base64.urlsafe_b64encode(number).rstrip(b"=").decode()}
        assert choose_key(document(signed)).public_key == nexi_key.public


class TestTheChoice:
    """The set holds the key to be chosen, `nexi-1`, and one that stands in its way."""

    @pytest.mark.parametrize(
        "obstacle",
        [
            pytest.param({"use": "sig"}, id="a-signature-key-first"),
            pytest.param({"use": None}, id="use-null-first"),
            pytest.param({"alg": "RSA-OAEP"}, id="another-algorithm-first"),
            pytest.param({"alg": "RS256"}, id="a-signature-algorithm-first"),
            pytest.param({"key_ops": ["verify"]}, id="key_ops-for-signatures-first"),
            pytest.param({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, id="an-elliptic-curve-first"),
            pytest.param({"n": "AQAB"}, id="a-short-key-first"),
        ],
    )
    def test_a_better_key_is_found_behind_another(
        self, jwk: dict[str, Any], other_jwk: dict[str, Any], obstacle: dict[str, Any]
    ) -> None:
        assert choose_key(document({**other_jwk, **obstacle}, jwk)).kid == "nexi-1"

    @pytest.mark.parametrize("junk", [None, 7, "key", [], {}, [[]], True])
    def test_a_usable_key_is_found_behind_junk(self, jwk: dict[str, Any], junk: Any) -> None:
        assert choose_key(document(junk, jwk)).kid == "nexi-1"

    def test_a_key_for_encryption_goes_before_one_that_says_nothing(
        self, jwk: dict[str, Any], other_jwk: dict[str, Any]
    ) -> None:
        assert choose_key(document(without(other_jwk, "use"), jwk)).kid == "nexi-1"

    def test_a_key_that_says_nothing_is_better_than_none(self, jwk: dict[str, Any], other_jwk: dict[str, Any]) -> None:
        assert choose_key(document({**other_jwk, "use": "sig"}, without(jwk, "use"))).kid == "nexi-1"

    def test_of_two_alike_the_first_is_taken(self, jwk: dict[str, Any], other_jwk: dict[str, Any]) -> None:
        assert choose_key(document(jwk, other_jwk)).kid == "nexi-1"
        assert choose_key(document(other_jwk, jwk)).kid == "other"


RANKS = [
    pytest.param({"use": "enc"}, 0, "", id="enc"),
    pytest.param({"use": "ENC", "alg": "rsa-oaep-256"}, 0, "", id="enc-in-capitals"),
    pytest.param({"use": "enc", "alg": None, "key_ops": None, "kid": None}, 0, "", id="enc-with-nulls"),
    pytest.param({"use": "enc", "alg": "", "key_ops": []}, 0, "", id="enc-with-empty-labels"),
    pytest.param({"use": None}, 1, "", id="use-null"),
    pytest.param({"use": ""}, 1, "", id="use-empty"),
    pytest.param({"use": ["enc"]}, 1, "", id="use-a-list"),
    pytest.param({"use": None, "alg": {}}, 1, "", id="alg-an-object"),
    pytest.param({"use": None, "key_ops": ["WRAPKEY"]}, 1, "", id="key_ops-in-capitals"),
    pytest.param({"use": None, "key_ops": {"encrypt": 1}}, 1, "", id="key_ops-an-object"),
    pytest.param({"use": "enc", "alg": "RSA-OAEP"}, 2, "alg rsa-oaep", id="enc-for-sha-1"),
    pytest.param({"use": "enc", "alg": "RSA1_5"}, 2, "alg rsa1_5", id="enc-for-pkcs1"),
    pytest.param({"use": None, "alg": "RS256"}, 3, "alg rs256", id="a-signature-algorithm"),
    pytest.param({"use": "sig"}, 4, "use sig", id="sig"),
    pytest.param({"use": "SIG", "alg": "RS256"}, 4, "use sig, alg rs256", id="sig-with-its-algorithm"),
    pytest.param({"use": None, "key_ops": ["verify"]}, 4, "key_ops verify", id="key_ops-for-signatures"),
    pytest.param({"kid": 7}, 0, "kid that is not a short string", id="kid-a-number"),
    pytest.param({"kid": ""}, 0, "kid that is not a short string", id="kid-empty"),
    pytest.param({"kid": "k" * 257}, 0, "kid that is not a short string", id="kid-too-long"),
    pytest.param({"d": "AQAB"}, 0, "a private part", id="private-part"),
    pytest.param({"kty": "rsa"}, 0, "", id="kty-in-lower-case"),
    pytest.param({"kty": None}, 0, "", id="kty-null"),
]


@pytest.mark.parametrize(("members", "rank", "label"), RANKS)
def test_labels_rank_a_key_and_never_refuse_it(
    jwk: dict[str, Any], nexi_key: RsaPair, members: dict[str, Any], rank: int, label: str
) -> None:
    chosen = choose_key(document({**jwk, **members}))
    assert (chosen.rank, chosen.label, chosen.public_key) == (rank, label, nexi_key.public)
    assert chosen.kid is None or isinstance(chosen.kid, str)


def test_a_label_shows_little_of_what_nexi_wrote(jwk: dict[str, Any]) -> None:
    label = choose_key(document({**jwk, "alg": 'x"\n{}' * 100})).label
    assert label == f"alg {'x' * 40}"


UNUSABLE = [
    pytest.param({"kty": "EC", "crv": "P-256"}, "is not RSA", id="kty-ec"),
    pytest.param({"kty": "oct", "k": "AAAA"}, "is not RSA", id="kty-oct"),
    pytest.param({"n": base64url(2**1023 + 1)}, "has 1024 bits", id="modulus-of-1024-bits"),
    pytest.param({"n": base64url(2**2046 + 1)}, "has 2047 bits", id="modulus-a-bit-short"),
    pytest.param({"n": base64url(2**8192 + 1)}, "has 8193 bits", id="modulus-a-bit-long"),
    pytest.param({"n": base64url(2**65536 + 1)}, "lacks base64url in n", id="modulus-huge"),
    pytest.param({"n": base64url(2**2047)}, "is not a valid RSA key", id="modulus-even"),
    pytest.param({"n": "AA"}, "has 0 bits", id="modulus-zero"),
    pytest.param({"n": ""}, "has 0 bits", id="modulus-empty"),
    pytest.param({"n": None}, "lacks base64url in n", id="modulus-null"),
    pytest.param({"n": 65537}, "lacks base64url in n", id="modulus-a-number"),
    pytest.param({"n": "***"}, "lacks base64url in n", id="modulus-not-base64"),
    pytest.param({"n": "A A"}, "lacks base64url in n", id="modulus-with-a-space"),
    pytest.param({"n": "é" * 400}, "lacks base64url in n", id="modulus-not-ascii"),
    pytest.param({"n": "A"}, "lacks base64url in n", id="modulus-cut-inside-a-byte"),
    pytest.param({"e": "AQAA"}, "has an unusual exponent", id="exponent-even"),
    pytest.param({"e": "AQ"}, "has an unusual exponent", id="exponent-one"),
    pytest.param({"e": ""}, "has an unusual exponent", id="exponent-empty"),
    pytest.param({"e": base64url(2**32 + 1)}, "has an unusual exponent", id="exponent-too-large"),
    pytest.param({"e": base64url(2**4096 + 1)}, "has an unusual exponent", id="exponent-huge"),
    pytest.param({"e": "AQA!"}, "lacks base64url in e", id="exponent-not-base64"),
    pytest.param({"e": 65537}, "lacks base64url in e", id="exponent-a-number"),
]


@pytest.mark.parametrize(("members", "reason"), UNUSABLE)
def test_a_key_that_breaks_a_rule_is_refused_and_the_rule_named(
    jwk: dict[str, Any], members: dict[str, Any], reason: str
) -> None:
    with pytest.raises(NexiUnavailableError, match=rf"holds no usable key \(key 0 {reason}\)"):
        choose_key(document({**jwk, **members}))


@pytest.mark.parametrize(("name", "reason"), [("n", "lacks base64url in n"), ("e", "lacks base64url in e")])
def test_a_key_that_lacks_a_required_member_is_refused(jwk: dict[str, Any], name: str, reason: str) -> None:
    with pytest.raises(NexiUnavailableError, match=f"key 0 {reason}"):
        choose_key(document(without(jwk, name)))


@pytest.mark.parametrize("junk", [None, 7, "key", [], True], ids=repr)
def test_an_entry_that_is_no_object_is_refused(junk: Any) -> None:
    with pytest.raises(NexiUnavailableError, match="key 0 "):
        choose_key(document(junk))


def test_every_unusable_key_is_named_by_its_place(jwk: dict[str, Any]) -> None:
    with pytest.raises(NexiUnavailableError, match=r"\(key 0 has 24 bits; key 1 lacks base64url in n\)"):
        choose_key(document({**jwk, "n": "gAAB"}, {}))


def test_a_private_part_is_never_shown(jwk: dict[str, Any]) -> None:
    key = choose_key(document({**jwk, "d": "c2VjcmV0LWV4cG9uZW50"}))
    assert "c2VjcmV0LWV4cG9uZW50" not in f"{key!r} {key.jwk()}"


def test_a_set_of_very_many_unfit_keys_makes_no_endless_message() -> None:
    with pytest.raises(NexiUnavailableError) as caught:
        choose_key(document(*[{}] * 10_000))
    assert len(str(caught.value)) < 4096


NO_SET = [
    pytest.param(b"", id="empty"),
    pytest.param(b"<html>Bad gateway</html>", id="not-json"),
    pytest.param(b'{"keys":[', id="cut-short"),
    pytest.param(b"\xff\xfe\xfd", id="not-utf-8"),
    pytest.param(b"null", id="null"),
    pytest.param(b'"keys"', id="a-string"),
    pytest.param(b"[]", id="an-array"),
    pytest.param(b"{}", id="keys-missing"),
    pytest.param(b'{"keys":null}', id="keys-null"),
    pytest.param(b'{"keys":{"kty":"RSA"}}', id="keys-an-object"),
    pytest.param(b'{"keys":"RSA"}', id="keys-a-string"),
    pytest.param(b"[" * 100_000, id="nested-too-deeply"),
    pytest.param(b'{"keys":' + b"[" * 30_000 + b"]" * 30_000 + b"}", id="keys-nested-too-deeply"),
    pytest.param(b'{"keys":[' + b"9" * 5000 + b"]}", id="a-number-too-long-for-python"),
]


@pytest.mark.parametrize("answer", NO_SET)
def test_what_is_no_set_is_refused(answer: bytes) -> None:
    with pytest.raises(NexiUnavailableError, match="answered without a JWK set"):
        choose_key(answer)


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(NexiUnavailableError, match="holds no usable key"):
        choose_key(document())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
MEMBERS = {
    "kty": st.just("RSA"),
    "use": st.sampled_from(["enc", "sig"]) | JSON,
    "alg": st.just("RSA-OAEP-256") | JSON,
    "key_ops": st.lists(st.sampled_from(["encrypt", "wrapKey", "sign"])) | JSON,
    "kid": st.text(max_size=300) | JSON,
    "n": st.integers(2**2040, 2**2050).map(base64url) | st.text(alphabet="AQB-_=", max_size=6) | JSON,
    "e": st.sampled_from(["AQAB", "Aw", "AQ", ""]) | st.integers(1, 2**40).map(base64url) | JSON,
}
ALMOST_KEYS = st.fixed_dictionaries(
    {name: MEMBERS[name] for name in ("kty", "n", "e")},
    optional={name: MEMBERS[name] for name in ("use", "alg", "key_ops", "kid")} | {"d": JSON},
)


def assert_nothing_but_a_fit_key_or_our_error(answer: bytes) -> None:
    try:
        numbers = choose_key(answer).public_key.public_numbers()
    except NexiUnavailableError as error:
        assert len(str(error)) < 10_000  # noqa: PT017 - the other outcome is fine, too
    else:
        assert 2048 <= numbers.n.bit_length() <= 8192
        assert numbers.n % 2
        assert 3 <= numbers.e <= 2**32


@given(st.binary())
def test_no_bytes_raise_anything_else(answer: bytes) -> None:
    assert_nothing_but_a_fit_key_or_our_error(answer)


@examples(max_examples=100)
@given(JSON)
def test_no_json_raises_anything_else(value: Any) -> None:
    assert_nothing_but_a_fit_key_or_our_error(json.dumps(value).encode())


@examples(max_examples=100)
@given(st.lists(ALMOST_KEYS | JSON, max_size=4))
def test_no_set_of_almost_keys_raises_anything_else(keys: list[Any]) -> None:
    assert_nothing_but_a_fit_key_or_our_error(document(*keys))


class TestWhatIsPublished:
    def test_the_keys_of_the_best_rank_are(self, jwk: dict[str, Any], other_jwk: dict[str, Any]) -> None:
        unsaid = without({**other_jwk, "kid": "unsaid"}, "use")
        signing = {**jwk, "kid": "signing", "use": "sig"}
        keys = usable_keys(document(unsaid, signing, jwk, other_jwk))
        assert [key.kid for key in keys] == ["nexi-1", "other", "unsaid", "signing"]
        assert [key.kid for key in published_keys(keys)] == ["nexi-1", "other"]
        assert [key.kid for key in published_keys(usable_keys(document(signing)))] == ["signing"]

    def test_the_public_members_that_were_checked_and_none_that_nexi_added(self, jwk: dict[str, Any]) -> None:
        (key,) = usable_keys(document({**jwk, "x5u": "https://elsewhere.example", "nexi:note": 1, "n": jwk["n"] + "="}))
        assert key.jwk() == jwk

    def test_a_key_that_says_little_is_published_as_what_it_was_taken_for(self, jwk: dict[str, Any]) -> None:
        (key,) = usable_keys(document(without(jwk, "use", "kid")))
        assert key.jwk() == without(jwk, "kid")

    def test_an_exponent_is_as_short_as_it_can_be(self, jwk: dict[str, Any]) -> None:
        (key,) = usable_keys(document({**jwk, "e": "AAEAAQ"}))
        assert key.jwk()["e"] == "AQAB"
