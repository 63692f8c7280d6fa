"""With the parameter SigningKeyId, a key in KMS signs the assertion, and Nexi takes it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from backends import Backend, backend, client, secret

from sandbox.local import LocalStack
from sandbox.template import Template

KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.fixture(scope="module")
def signed_in_kms() -> Iterator[LocalStack]:
    with LocalStack(signer="kms", parameters={"EnrollmentsPerMinute": "1000000"}) as running:
        yield running


@pytest.fixture
def start(signed_in_kms: LocalStack) -> Iterator[Callable[..., Backend]]:
    """Starts a cold API of its own on that stack."""
    with ExitStack() as running:
        yield lambda environment=None: running.enter_context(backend(signed_in_kms, environment))


def test_nexi_takes_what_kms_has_signed(signed_in_kms: LocalStack, start: Callable[..., Backend]) -> None:
    api = start()
    assert [api.enroll().status_code for _ in range(2)] == [201, 201]
    assert signed_in_kms.nexi.calls[-1].claims is not None


def test_it_is_the_key_in_kms_that_signs(signed_in_kms: LocalStack, start: Callable[..., Backend]) -> None:
    """Nexi forgets the certificate of that key, and takes nothing any more, though mutual TLS goes on."""
    app = signed_in_kms.app
    kept = dict(app.certificates)
    try:
        app.certificates = {signed_in_kms.developer.thumbprint: signed_in_kms.developer.certificate}
        assert start().enroll().json()["code"] == "nexi_rejected"
        assert signed_in_kms.nexi.calls[-1].rule == "jws-key"
    finally:
        app.certificates = kept


def test_a_key_that_no_certificate_is_for_is_a_misconfiguration(
    signed_in_kms: LocalStack, start: Callable[..., Backend]
) -> None:
    other = client(signed_in_kms, "kms").create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    pushed = signed_in_kms.nexi.counts["call par"]
    api = start({"SIGNING_KEY_ID": other})
    response = api.enroll()
    assert (response.status_code, response.json()["code"]) == (500, "misconfigured")
    assert "signing_certificate" in api.line(response)["remedy"]
    assert signed_in_kms.nexi.counts["call par"] == pushed


def test_without_a_certificate_of_its_own_it_has_to_be_the_developer_certificates_key(
    signed_in_kms: LocalStack, start: Callable[..., Backend]
) -> None:
    pair = {"certificate": signed_in_kms.developer.certificate_pem, "private_key": signed_in_kms.developer.key_pem}
    api = start({"CERTIFICATE_SECRET_ID": secret(signed_in_kms, pair)})
    assert api.enroll().json()["code"] == "misconfigured"


def test_a_key_that_is_not_there_is_a_misconfiguration(start: Callable[..., Backend]) -> None:
    api = start({"SIGNING_KEY_ID": KEY_ID})
    response = api.enroll()
    assert (response.status_code, response.json()["code"]) == (500, "misconfigured")
    assert "NotFoundException" in api.line(response)["message"]


def test_who_signs_and_who_looks_may_and_with_the_stacks_keys_alone(template_of: Callable[..., Template]) -> None:
    """As far as the template says; AWS enforces it. Whatever SigningKeyId is: the version before has another."""
    for template in (template_of(), template_of(SigningKeyId=KEY_ID)):
        found = {}
        for name, properties in template.resources("AWS::Serverless::Function").items():
            (policy,) = properties["Policies"]
            # Of what the template's conditions leave away here, nothing is about a key.
            statements = [each for each in policy["Statement"] if "kms:" in str(each.get("Action"))]
            for statement in template.resolve(statements):
                found[name] = statement
        assert {name: each["Action"] for name, each in found.items()} == {
            "EnrollmentFunction": ["kms:Sign", "kms:GetPublicKey"],
            "CertificateWatchFunction": "kms:GetPublicKey",
        }
        for statement in found.values():
            assert statement["Resource"] == "arn:aws:kms:eu-south-1:123456789012:key/*"
            assert statement["Condition"] == {"StringEquals": {"aws:ResourceTag/softpos:stack": "softpos"}}


@pytest.mark.parametrize("key_id", ["alias/softpos", "*", "arn:aws:kms:eu-south-1:1:key/1"])
def test_a_key_goes_by_its_id(key_id: str, template_of: Callable[..., Template]) -> None:
    """An alias could be pointed at another key."""
    with pytest.raises(ValueError, match="SigningKeyId"):
        template_of(SigningKeyId=key_id)
