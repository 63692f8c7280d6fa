"""Building an assertion: the same claims, the same two keys, by us and by four others."""

import base64
import importlib
import importlib.util
import json
import os
import time
import uuid
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives import padding as block_padding
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks.measure import MEDIANS, Row, Spread, Verdict, at_most, medians, number, ratio, take_turns
from softpos.nexi import assertion
from softpos.nexi.jwks import EncryptionKey, usable_keys

OURS, LIMIT = "softpos", "bare cryptography"
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
JWE_ALGORITHMS = ["RSA-OAEP-256", "A128CBC-HS256"]
ROUNDS = {"smallest": (3, 2), "usual": (100, 4)}


def _claims() -> dict[str, Any]:
    return assertion.claims(
        client_id="benchmark-app",
        audience="https://staging.nexi.example",
        point_of_sale="00012345",
        terminal_ids=("30000001", "40000001"),
        operator="mario.rossi@example.com",
        device_id="c0ffee5d-8f1b-4a53-9f1e-2f6f0a7c1d10",
        now=time.time(),
        jti=str(uuid.uuid4()),
    )


def _base64url(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")


def bare(claims: dict[str, Any], private: rsa.RSAPrivateKey, key: EncryptionKey) -> str:
    """RFC 7515 and RFC 7516 written out for exactly this one assertion: nobody can do with less arithmetic."""
    signing_input = _base64url(b'{"alg":"RS256","typ":"JWT"}') + b"." + _base64url(json.dumps(claims).encode())
    signature = private.sign(signing_input, padding.PKCS1v15(), hashes.SHA256())
    plain = signing_input + b"." + _base64url(signature)
    content_key, vector = os.urandom(32), os.urandom(16)
    header = {"alg": "RSA-OAEP-256", "enc": "A128CBC-HS256", "cty": "JWT", "kid": key.kid}
    protected = _base64url(json.dumps(header).encode())
    padder = block_padding.PKCS7(128).padder()
    padded = padder.update(plain) + padder.finalize()
    encryptor = Cipher(algorithms.AES(content_key[16:]), modes.CBC(vector)).encryptor()
    sealed = encryptor.update(padded) + encryptor.finalize()
    mac = hmac.HMAC(content_key[:16], hashes.SHA256())
    mac.update(protected + vector + sealed + (8 * len(protected)).to_bytes(8))
    parts = (key.public_key.encrypt(content_key, OAEP), vector, sealed, mac.finalize()[:16])
    return b".".join([protected, *map(_base64url, parts)]).decode()


def _jwcrypto(private: str, public: dict[str, Any]) -> Callable[[], str]:
    jwk, jwt = (importlib.import_module(f"jwcrypto.{name}") for name in ("jwk", "jwt"))
    signing, encryption = jwk.JWK.from_pem(private.encode()), jwk.JWK(**public)
    header = {"alg": "RSA-OAEP-256", "enc": "A128CBC-HS256", "cty": "JWT", "kid": public["kid"]}

    def build() -> str:
        signed = jwt.JWT(header={"alg": "RS256", "typ": "JWT"}, claims=_claims())
        signed.make_signed_token(signing)
        sealed = jwt.JWT(header=header, claims=signed.serialize())
        sealed.make_encrypted_token(encryption)
        text: str = sealed.serialize()
        return text

    return build


def _joserfc(private: str, public: dict[str, Any]) -> Callable[[], str]:
    from joserfc import jwe, jwt
    from joserfc.jwk import RSAKey

    signing, encryption = RSAKey.import_key(private), RSAKey.import_key(public)
    header = {"alg": "RSA-OAEP-256", "enc": "A128CBC-HS256", "cty": "JWT", "kid": public["kid"]}

    def build() -> str:
        signed = jwt.encode({"alg": "RS256", "typ": "JWT"}, _claims(), signing)
        return jwe.encrypt_compact(header, signed, encryption, algorithms=JWE_ALGORITHMS)

    return build


def _python_jose(private: str, public: dict[str, Any]) -> Callable[[], str]:
    """As its documentation shows it: keys as they came, PEM and a JWK."""
    from jose import jwe, jwt

    def build() -> str:
        signed = jwt.encode(_claims(), private, algorithm="RS256")
        sealed = jwe.encrypt(
            signed, public, algorithm="RSA-OAEP-256", encryption="A128CBC-HS256", cty="JWT", kid=public["kid"]
        )
        return str(sealed.decode())

    return build


def _parts(private: rsa.RSAPrivateKey, public: rsa.RSAPublicKey) -> dict[str, Callable[[], object]]:
    return {
        "RSA signature alone": lambda: private.sign(b"x" * 600, padding.PKCS1v15(), hashes.SHA256()),
        "RSA-OAEP alone": lambda: public.encrypt(bytes(32), OAEP),
    }


def run(size: str) -> Row:
    """The row of the assertion."""
    private, theirs = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    pem = _pem(private)
    public = EncryptionKey("enc-1", theirs.public_key()).jwk()
    (key,) = usable_keys(json.dumps({"keys": [public]}).encode())
    signer = assertion.certificate_signer(private)
    contestants: dict[str, Callable[[], object]] = {
        LIMIT: lambda: bare(_claims(), private, key),
        OURS: lambda: assertion.seal(_claims(), signer, key),
        "joserfc": _joserfc(pem, public),
        "python-jose, as documented": _python_jose(pem, public),
    }
    if importlib.util.find_spec("jwcrypto"):
        contestants["jwcrypto"] = _jwcrypto(pem, public)
    for build in contestants.values():
        _check(str(build()), theirs, private)
    rounds, repeat = ROUNDS[size]
    parts = _parts(private, theirs.public_key())
    samples = take_turns({**contestants, **parts}, rounds, repeat)
    verdicts = [at_most(f"against {LIMIT}", ratio(samples, OURS, LIMIT), 1.15)]
    for name in (each for each in contestants if each not in (OURS, LIMIT)):
        spread = ratio(samples, OURS, name)
        verdicts.append(
            Verdict(f"against {name}", spread.median, spread.low, spread.high, "×", "< 1×", met=spread.median < 1)
        )
    share = sum(Spread.of(samples[name]).median for name in parts) / Spread.of(samples[LIMIT]).median
    return Row(
        "assertion",
        "Building an assertion: claims → JWS → JWE",
        f"RS256, RSA-OAEP-256, A128CBC-HS256, 2048-bit keys, ready before the clock starts for all but the last. Each "
        f"result is decrypted and verified once. {rounds} rounds of {repeat} each.",
        MEDIANS,
        medians(samples, "ms", LIMIT),
        verdicts,
        [f"The two RSA operations alone are {number(100 * share)} % of the limit: nothing in Python can save those."],
        {"kind": "bars", "unit": "ms", "bars": {name: _bar(figures) for name, figures in samples.items()}},
        {"milliseconds": samples},
    )


def _bar(figures: list[float]) -> list[float]:
    spread = Spread.of(figures)
    return [spread.median, spread.low, spread.high]


def _check(sealed: str, theirs: rsa.RSAPrivateKey, private: rsa.RSAPrivateKey) -> None:
    """It opens, its signature holds, and so do its claims."""
    from joserfc import jwe, jwt
    from joserfc.jwk import RSAKey

    opened = jwe.decrypt_compact(sealed, RSAKey.import_key(_pem(theirs)), algorithms=JWE_ALGORITHMS)
    claims = jwt.decode((opened.plaintext or b"").decode(), RSAKey.import_key(_pem(private)), algorithms=["RS256"])
    assert claims.claims["appId"] == "benchmark-app"


def _pem(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
