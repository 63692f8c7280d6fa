"""Looks for what must not be printed: keys, secrets, tokens, assertions, whole or in part, however they are spelled."""

import base64
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote_plus

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sandbox.nexi import Nexi

SLICE = 16
"""So many characters of a secret in a row are a leak of it."""

KEY_SLICE = 40


def leaks(text: str, hidden: Iterable[str]) -> list[str]:
    """Which of `hidden` are in `text`, by their first characters: the rest is nobody's business here either."""
    spellings = [text, unquote_plus(text), html.unescape(text), _json_unescaped(text), re.sub(r"\s|\\n", "", text)]
    return [secret[:6] for secret in hidden if any(piece in each for piece in _traces(secret) for each in spellings)]


def of_key(pem: str) -> list[str]:
    """Every spelling in which a private key could be printed: PEM's body, and its numbers in decimal and hex."""
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    hidden = [_pem_body(pem)]
    if isinstance(key, rsa.RSAPrivateKey):
        traditional = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        numbers = key.private_numbers()
        hidden.append(_pem_body(traditional.decode()))
        hidden += [spelled for number in (numbers.d, numbers.p, numbers.q) for spelled in (str(number), f"{number:x}")]
    return hidden


@contextmanager
def recorded(nexi: Nexi) -> Iterator[list[str]]:
    """The secrets, tokens and assertions that go over the sandbox Nexi's wire while the block runs."""
    seen: list[str] = []
    real: Callable[..., Any] = nexi.answer

    def answer(endpoint: str, certificate: Any, headers: Any, body: bytes) -> Any:
        seen.extend(in_request(headers.get("Authorization"), body))
        status, answered, claims = real(endpoint, certificate, headers, body)
        if "access_token" in answered:
            seen.append(answered["access_token"])
        return status, answered, claims

    nexi.answer = answer
    try:
        yield seen
    finally:
        nexi.answer = real


def in_request(authorization: str | None, body: bytes) -> list[str]:
    """What is secret in a request to Nexi."""
    form = parse_qs(body.decode("ascii", "replace"))
    found = [value for name in ("client_secret", "client_assertion") for value in form.get(name, [])]
    return [*found, *([authorization.removeprefix("Bearer ")] if authorization else [])]


def _traces(secret: str) -> Iterator[str]:
    for spelled in (secret, *_base64(secret)):
        yield from _pieces(spelled)


def _base64(secret: str) -> Iterator[str]:
    """The secret inside a longer text in base64: what it looks like there depends on where it begins."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret.encode())
        # Without the characters that neighbours have a part in.
        whole = encoded[4 if before else 0 : -4].decode()
        yield whole
        yield whole.translate(str.maketrans("+/", "-_"))


def _pieces(secret: str) -> Iterator[str]:
    size = KEY_SLICE if len(secret) > 400 and "." not in secret else SLICE
    if len(secret) <= size:
        yield secret
    else:
        yield from (secret[start : start + size] for start in range(len(secret) - size + 1))


def _pem_body(pem: str) -> str:
    # Without what every PKCS#8 of an RSA key begins with, which is no secret.
    return "".join(line for line in pem.splitlines() if "-----" not in line)[40:]


def _json_unescaped(text: str) -> str:
    return re.sub(r'\\(?:u[0-9a-fA-F]{4}|["\\/bfnrt])', lambda found: json.loads(f'"{found[0]}"'), text)
