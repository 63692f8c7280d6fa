"""The certificate signing request: to the byte what Nexi's own command makes, and which names and keys it takes."""

import copy
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from moto import mock_aws
from unit_support import RsaPair

from onboarding import signing_request
from onboarding.deployment import AwsError, CommandError
from onboarding.signing_request import UNITS, KmsPrivateKey

# Made once, by the command of Nexi's page "Backend integration", with OpenSSL 3.0.19:
#   openssl req -nodes -newkey rsa:2048 -keyout NOMEAPP.key -out NOMEAPP.csr \
#     -subj '/CN=NOMEAPP/O=NEXI/OU=API Security - STAGING/L=Milano/C=IT/' -addext 'extendedKeyUsage=clientAuth'
# The key is for this test alone: no certificate was ever made for it.
NEXIS_KEY = """\
-----BEGIN PRIVATE KEY-----
MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC/Y4qy5HXh9Ber
XhDUFt9yQUyAunLeprgA794wjFS51DTG6tmF442U004ImDOE+DhopacSEhd+o0TF
aPn6Lu58Jg//6ZkkARREEJclUiwOdd138dBNTEQIy9Xdv4yRFe6dcFz13L1ARmTZ
X1fPCUKo8oLOelgZt3ZfO8PMaDrmTHp3XEJMVUDcReKjwcDHPhILiWGlswrLu/6w
2qtj2R0NatzIb68W1IGvIqQpXsBdHHOujHm6413G7hphpsc+Mr3iNmmLZAmLsfNj
FB1mjuQUbdP+YS9IdCtNqjblZX3QBqMnz2o18jQ7xa8Oe2MjplileGY+rEGNDs2j
0Gjri0//AgMBAAECggEAUzgEuKmXSnMZEaYauiXh7evPyI+J4B9tFdc27TQvqQfJ
FQ9MGygpSWOh5CHOEQzfdj1FSpm8Ro/WmOH/BBaBE1F3loar1Jh1h+0Q06UJzBXb
AUsPkHTPhmWfbkbaZ8G6GhIgEbX0Qmz5b/1BkKANsKmWUBKpmTEJUvqJNinCJp2r
oFyvxcrHupnf666b6LtuXTD/lXGh7LIvjx2VyBCXY62ct6//ZszHlCz7pwKQy69I
xYXcBiNgGhcQmbP4NqlplRSwUBTw9gNXu2AAgKzgvYkKQeUTmjNL/Q4jikQuEdmj
mcwIssqYGi045cXe2Yz9CRfEZTAaYIVdLcXNuknBIQKBgQD51QEb/Y0IRDwuJ8Dy
fU9fCmD7mwfQUpfIl/9x/LB3oHm48kTDB53VcVjWIMebgfu+YXfpj+x1yvAQWAXF
3cw+mRdVYhYOchiGVlYSIfLxleEuB6mPMXEPvF8KSgE9arQXxGDcpWcavTE+f86I
+qWb14AojxKnVTGBTzoLZINg3wKBgQDEHSm5slr8PAOOOjY3fNpIggBSClEKBZyk
guWgzELJ7F+stRjlUtXvN/v/XMKJS14dn9ljVdyj/hobTA/M5LfVCKTamMU0rjdS
xDPXj8DTVMX5aHpDX2FOvmT7sBjDoJpi7ngcjZJYhUrJjGr89WzbvkOCg4265RHe
P8gW3vZU4QKBgCTVEGrOAMLdPHoZhkq5yr/aSd4ORyKhaps6PYDSnjmkwQ1ROm3+
a3iSU2SORJ9alIDG4eTfQR9EogvmzkMTpg78hwIhidrrW05C4EGgG68eR6p/mrHv
uhl1zhU4P+KMHqz6WMVu5Tp99gqe0RZEzbGiHdTc8wUUfE3yHj6bvPrFAoGBAIgd
sas4lpwBT3p0/tJubtbqnCxVCsBI+trYG2cKvsSFsjYeD+SDJQd/NQGdsUw3qmAn
ZWvj2Vtdb2NI3KKakNlkwX8Tj7SrwqxIj67rEKvdZ/dew5VlaxWLYm2qYNXO77kA
yQ8QV+Xmxeyz8EIYWfD+0r6QblusyEUYwdjV8eUhAoGAAXD4W0Avoblh+f+SEUXx
xoTeos03qEKGfywo1bO/t9C3blfEWl67Sy3Ktj6qBzw+ab992t1yRMeMC/lEpFl9
hOlQXPW+t1aMoRQmNr5Oi1XWJvXeg2xGv4CSX6f2aZxOAeH50ao0XKDWRvc2QKMS
bqUW5qAhhhLqNIC/uHnejmM=
-----END PRIVATE KEY-----
"""
NEXIS_REQUEST = """\
-----BEGIN CERTIFICATE REQUEST-----
MIICyzCCAbMCAQAwYDEQMA4GA1UEAwwHTk9NRUFQUDENMAsGA1UECgwETkVYSTEf
MB0GA1UECwwWQVBJIFNlY3VyaXR5IC0gU1RBR0lORzEPMA0GA1UEBwwGTWlsYW5v
MQswCQYDVQQGEwJJVDCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBAL9j
irLkdeH0F6teENQW33JBTIC6ct6muADv3jCMVLnUNMbq2YXjjZTTTgiYM4T4OGil
pxISF36jRMVo+fou7nwmD//pmSQBFEQQlyVSLA513Xfx0E1MRAjL1d2/jJEV7p1w
XPXcvUBGZNlfV88JQqjygs56WBm3dl87w8xoOuZMendcQkxVQNxF4qPBwMc+EguJ
YaWzCsu7/rDaq2PZHQ1q3MhvrxbUga8ipClewF0cc66MebrjXcbuGmGmxz4yveI2
aYtkCYux82MUHWaO5BRt0/5hL0h0K02qNuVlfdAGoyfPajXyNDvFrw57YyOmWKV4
Zj6sQY0OzaPQaOuLT/8CAwEAAaAmMCQGCSqGSIb3DQEJDjEXMBUwEwYDVR0lBAww
CgYIKwYBBQUHAwIwDQYJKoZIhvcNAQELBQADggEBACTD2QC/yeQ1ALw8CXoQfGWM
YrGX4/YxOXprDu2OMZRZWegFEgFogWj8BPXzLQ2q4OKqN0hZMuovx/yCNnObxIye
FA82P3bPbVQgMWsGbU1EXdPgTQxzDguAEB5iBLb+U95XVizKfzJmsMTBWZi+L7NB
DslMNFI0uulCIVN5BUsl8ReZpuoPjyCrQGNoR0CMQwd2QaanulN8bTpEC/GYQGIJ
DZWQYcJUYZOpCZ6ArMznBSqkfzrpWdObyXtfngV439Fk2YMFbM1/3qjf/v3oEM+S
2YdP5HoSv77kVTPRQO3XE+Iapwb4RxXVnk8XXq6U+tx4NWLW5N69yV5TuTl8Wmc=
-----END CERTIFICATE REQUEST-----
"""

OPENSSL = shutil.which("openssl")
PKCS1, SHA256 = padding.PKCS1v15(), hashes.SHA256()


@pytest.fixture(scope="module")
def nexis_key() -> rsa.RSAPrivateKey:
    key = load_pem_private_key(NEXIS_KEY.encode(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def der(request: x509.CertificateSigningRequest) -> bytes:
    return request.public_bytes(serialization.Encoding.DER)


def unit(request: x509.CertificateSigningRequest) -> str:
    (found,) = request.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATIONAL_UNIT_NAME)
    return str(found.value)


class TestNexisCommand:
    def test_makes_the_very_bytes_that_are_made_here(self, nexis_key: rsa.RSAPrivateKey) -> None:
        """Whatever a portal looks at, it sees the same: PKCS#1 v1.5 signs the same bytes with the same signature."""
        made = signing_request.build("NOMEAPP", UNITS["staging"], nexis_key)
        assert der(made) == der(x509.load_pem_x509_csr(NEXIS_REQUEST.encode()))

    def test_writes_the_same_files(self, nexis_key: rsa.RSAPrivateKey) -> None:
        made = signing_request.build("NOMEAPP", UNITS["staging"], nexis_key)
        assert signing_request.pem(made) == NEXIS_REQUEST
        assert signing_request.key_pem(nexis_key) == NEXIS_KEY

    # Without openssl, the bytes above have said it already.
    if OPENSSL is not None:

        def test_reads_the_same_in_openssls_words(self, nexis_key: rsa.RSAPrivateKey) -> None:
            made = signing_request.build("NOMEAPP", UNITS["staging"], nexis_key)
            golden = self._text(NEXIS_REQUEST)
            subject = "Subject: CN=NOMEAPP, O=NEXI, OU=API Security - STAGING, L=Milano, C=IT"
            assert subject in golden.replace(" = ", "="), "newer versions leave the blanks out"
            assert "TLS Web Client Authentication" in golden
            assert self._text(signing_request.pem(made)) == golden

        def test_made_now_differs_in_nothing_but_its_key(self, tmp_path: Path) -> None:
            """The command itself, as this machine's openssl understands it, and the same key given to both."""
            assert OPENSSL is not None
            key_file, csr_file = tmp_path / "NOMEAPP.key", tmp_path / "NOMEAPP.csr"
            # fmt: off
            subprocess.run(
                [
                    OPENSSL, "req", "-nodes", "-newkey", "rsa:2048", "-keyout", key_file, "-out", csr_file,
                    "-subj", "/CN=NOMEAPP/O=NEXI/OU=API Security - STAGING/L=Milano/C=IT/",
                    "-addext", "extendedKeyUsage=clientAuth",
                ],
                check=True, capture_output=True, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            )
            # fmt: on
            key = load_pem_private_key(key_file.read_bytes(), None)
            assert isinstance(key, rsa.RSAPrivateKey)
            made = signing_request.build("NOMEAPP", UNITS["staging"], key)
            assert self._text(signing_request.pem(made)) == self._text(csr_file.read_text())

        @staticmethod
        def _text(pem: str) -> str:
            assert OPENSSL is not None
            command = [OPENSSL, "req", "-text", "-noout"]
            return subprocess.run(command, input=pem, check=True, capture_output=True, text=True).stdout


class TestTheSubject:
    @pytest.mark.parametrize(
        ("given", "found"),
        [
            pytest.param(UNITS["staging"], "API Security - STAGING", id="staging"),
            pytest.param(UNITS["production"], "API Security - PRODUCTION", id="production"),
            pytest.param("API Security - ESERCIZIO", "API Security - ESERCIZIO", id="what-nexi-asks-for"),
            pytest.param("U" * 64, "U" * 64, id="as-long-as-an-ou-may-be"),
        ],
    )
    def test_names_the_unit(self, nexis_key: rsa.RSAPrivateKey, given: str, found: str) -> None:
        assert unit(signing_request.build("NOMEAPP", given, nexis_key)) == found

    @pytest.mark.parametrize("length", [0, 65])
    def test_has_a_unit_of_1_to_64_characters(self, nexis_key: rsa.RSAPrivateKey, length: int) -> None:
        with pytest.raises(CommandError, match=f"the unit has {length} characters") as caught:
            signing_request.build("NOMEAPP", "U" * length, nexis_key)
        assert "RFC 5280" in caught.value.remedy

    @pytest.mark.parametrize("name", ["A", "7", "NOMEAPP", "NomeApp2", "a" * 64])
    def test_has_the_apps_name(self, nexis_key: rsa.RSAPrivateKey, name: str) -> None:
        made = signing_request.build(name, UNITS["staging"], nexis_key)
        assert made.subject.rfc4514_string() == f"C=IT,L=Milano,OU=API Security - STAGING,O=NEXI,CN={name}"
        assert made.is_signature_valid

    @pytest.mark.parametrize(
        "name",
        [
            pytest.param("", id="empty"),
            pytest.param("NOME APP", id="space"),
            pytest.param("NOME-APP", id="dash"),
            pytest.param("NOME.APP", id="dot"),
            pytest.param("NOME_APP", id="underscore"),
            pytest.param("NOME/APP", id="slash"),
            pytest.param("CAFFÈ", id="accent"),
            pytest.param("\u0661\u0662", id="digits-of-another-script"),
            pytest.param("NOMEAPP\n", id="newline"),
            pytest.param("A" * 65, id="65-characters"),
        ],
    )
    def test_has_no_name_that_the_portal_refuses(self, nexis_key: rsa.RSAPrivateKey, name: str) -> None:
        with pytest.raises(CommandError, match="no name that Nexi's portal takes") as caught:
            signing_request.build(name, UNITS["staging"], nexis_key)
        assert "1 to 64 letters and digits" in caught.value.remedy


def test_a_new_key_is_rsa_of_2048_bits() -> None:
    key = signing_request.new_key()
    assert (key.key_size, key.public_key().public_numbers().e) == (2048, 65537)


class Kms:
    """moto's KMS, which tells what it was asked, and fails when told to."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.failing: dict[str, Exception] = {}

    def __getattr__(self, operation: str) -> Any:
        def call(**arguments: Any) -> Any:
            self.calls.append((operation, arguments))
            if operation in self.failing:
                raise self.failing[operation]
            return getattr(self.client, operation)(**arguments)

        return call

    def new_key(self, spec: str = "RSA_2048") -> str:
        return str(self.client.create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"])


@pytest.fixture(scope="module")
def made() -> Iterator[tuple[Any, str]]:
    with mock_aws():
        client = boto3.client("kms", region_name="eu-south-1", aws_access_key_id="test", aws_secret_access_key="test")
        yield client, Kms(client).new_key()


@pytest.fixture
def kms(made: tuple[Any, str]) -> Any:
    return Kms(made[0])


@pytest.fixture
def key_id(made: tuple[Any, str]) -> str:
    return made[1]


class TestAKeyInKms:
    def test_signs_a_request_that_anybody_can_verify(self, kms: Any, key_id: str) -> None:
        key = KmsPrivateKey(kms, key_id)
        made = signing_request.build("NOMEAPP", UNITS["production"], key)
        assert made.is_signature_valid
        assert made.public_key() == key.public_key()
        assert unit(made) == "API Security - PRODUCTION"

    def test_makes_a_request_that_differs_from_nexis_in_key_and_signature_alone(
        self, kms: Any, key_id: str, nexis_key: rsa.RSAPrivateKey
    ) -> None:
        def without_key(key: rsa.RSAPrivateKey) -> bytes:
            spki = key.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            return signing_request.build("NOMEAPP", UNITS["staging"], key).tbs_certrequest_bytes.replace(spki, b"")

        assert without_key(KmsPrivateKey(kms, key_id)) == without_key(nexis_key)

    def test_asks_kms_for_rs256_over_the_request_itself(self, kms: Any, key_id: str) -> None:
        made = signing_request.build("NOMEAPP", UNITS["staging"], KmsPrivateKey(kms, key_id))
        assert kms.calls == [
            ("get_public_key", {"KeyId": key_id}),
            (
                "sign",
                {
                    "KeyId": key_id,
                    "Message": made.tbs_certrequest_bytes,
                    "MessageType": "RAW",
                    "SigningAlgorithm": "RSASSA_PKCS1_V1_5_SHA_256",
                },
            ),
        ]

    @pytest.mark.parametrize(
        ("scheme", "digest"),
        [
            pytest.param(padding.PSS(padding.MGF1(SHA256), 32), SHA256, id="pss"),
            pytest.param(PKCS1, hashes.SHA384(), id="sha-384"),
            pytest.param(PKCS1, hashes.SHA1(), id="sha-1"),
            pytest.param(PKCS1, None, id="no-digest"),
        ],
    )
    def test_signs_nothing_else(self, kms: Any, key_id: str, scheme: Any, digest: Any) -> None:
        key = KmsPrivateKey(kms, key_id)
        with pytest.raises(TypeError, match="RSASSA_PKCS1_V1_5_SHA_256 alone"):
            key.sign(b"data", scheme, digest)
        assert [operation for operation, _ in kms.calls] == ["get_public_key"]

    def test_gives_its_private_half_to_nobody(self, kms: Any, key_id: str) -> None:
        key = KmsPrivateKey(kms, key_id)
        with pytest.raises(TypeError, match="never leaves KMS"):
            key.private_numbers()
        with pytest.raises(TypeError, match="never leaves KMS"):
            signing_request.key_pem(key)
        with pytest.raises(TypeError, match="this key signs"):
            key.decrypt(b"", PKCS1)

    def test_is_as_long_as_it_is_and_the_same_when_copied(self, kms: Any, key_id: str) -> None:
        key = KmsPrivateKey(kms, key_id)
        assert key.key_size == 2048
        assert copy.copy(key) is key
        assert copy.deepcopy(key) is key

    def test_has_to_be_rsa(self, kms: Any) -> None:
        with pytest.raises(CommandError, match="not an RSA key") as caught:
            KmsPrivateKey(kms, kms.new_key("ECC_NIST_P256"))
        assert "2048" in caught.value.remedy

    @pytest.mark.parametrize("failing", ["get_public_key", "sign"])
    @pytest.mark.parametrize(
        ("failure", "found"),
        [
            pytest.param(
                ClientError({"Error": {"Code": "AccessDeniedException", "Message": "arn:aws:kms"}}, "Sign"),
                r"AWS refused Sign \(AccessDeniedException\)",
                id="refused",
            ),
            pytest.param(
                EndpointConnectionError(endpoint_url="https://kms"), r"\(EndpointConnectionError\)", id="unreachable"
            ),
        ],
    )
    def test_that_kms_does_not_let_sign_is_said_with_what_to_do(
        self, kms: Any, key_id: str, failing: str, failure: Exception, found: str
    ) -> None:
        kms.failing = {failing: failure}
        with pytest.raises(AwsError, match=found) as caught:
            signing_request.build("NOMEAPP", UNITS["staging"], KmsPrivateKey(kms, key_id))
        assert caught.value.remedy
        assert "arn:" not in f"{caught.value} {caught.value.remedy}"

    def test_verifies_as_any_other(self, kms: Any, key_id: str, other_key: RsaPair) -> None:
        key = KmsPrivateKey(kms, key_id)
        key.public_key().verify(key.sign(bytearray(b"data"), PKCS1, SHA256), b"data", PKCS1, SHA256)
        assert key.public_key() != other_key.public
