"""Bearer tokens as the user pool signs them, with claims that it would not put into them."""

import base64
import gzip
import importlib.resources
import json
from typing import Any

from backends import bearer
from joserfc import jwt
from joserfc.jwk import RSAKey

from sandbox.local import LocalStack


class Forger:
    """Makes bearer tokens like the user pool's, but for what a test wants wrong."""

    def __init__(self, stack: LocalStack) -> None:
        packed = importlib.resources.files("moto.cognitoidp").joinpath("resources/jwks-private.json.gz").read_bytes()
        self.pool_key = RSAKey.import_key(json.loads(gzip.decompress(packed)))
        self.issuer, (self.audience,) = stack.template.authorizer("Operators")
        self.right = self.decoded(bearer(stack))

    def token(self, key: Any = None, alg: str = "RS256", **claims: Any) -> str:
        """The operator's token with other claims; one that is None is left away."""
        changed = {name: value for name, value in {**self.right, **claims}.items() if value is not None}
        header = {"alg": alg, "kid": "dummy", "typ": "JWT"}
        return jwt.encode(header, changed, key or self.pool_key, algorithms=[alg])

    def unsigned(self, token: str, signature: str = "", **header: str) -> str:
        """The token with another header and this signature."""
        _, claims, _ = token.split(".")
        return f"{_segment({'typ': 'JWT', 'kid': 'dummy', **header})}.{claims}.{signature}"

    def tampered(self) -> str:
        """The operator's token with somebody else's e-mail in it."""
        header, _, signature = self.token().split(".")
        return f"{header}.{_segment({**self.right, 'email': 'boss@example.com'})}.{signature}"

    @staticmethod
    def decoded(token: str) -> dict[str, Any]:
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        return claims


def _segment(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
