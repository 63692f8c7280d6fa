"""The functions' environment, read once, on first use. An error names the variable, never a value."""

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from softpos.errors import MisconfiguredError


@dataclass(frozen=True, slots=True)
class Settings:
    """What the deployment decides. Holds names of secrets, no secrets."""

    stage: str
    nexi_base_url: str
    """Also the assertion's `aud`: with scheme, without trailing slash."""
    nexi_ca_bundle: str | None
    """Path of the only certificate authorities to trust for Nexi; None for the system's."""
    application_secret_id: str
    certificate_secret_id: str
    signing_key_id: str | None
    """KMS key that signs the assertion; None when the certificate's own key does."""
    terminals_table: str
    cache_table: str
    minimal_assertion_headers: bool
    """Send `alg` and `enc` alone, as Nexi's samples do, without `kid`, `cty` and `typ`."""
    assign_on_first_use: bool = False
    """Give an operator without a terminal the first free pair when the app asks for its configuration."""
    point_of_sale_claim: str | None = None
    """The token's claim that says at which point of sale; None for any."""
    enrollments_per_minute: int = 10
    """An operator's, across all execution environments."""
    operators_pool_id: str | None = None
    operators_client_id: str | None = None
    """The user pool that the sample app's operators sign in at, and its app client."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Raises MisconfiguredError for a variable that is missing or malformed."""

        def required(name: str) -> str:
            value = environ.get(name, "").strip()
            if not value:
                raise _wrong(name, "is not set")
            return value

        def optional(name: str) -> str | None:
            return environ.get(name, "").strip() or None

        def choice(name: str, default: str, other: str) -> bool:
            """Whether it is the other one."""
            value = optional(name) or default
            if value not in (default, other):
                raise _wrong(name, f"is neither {default} nor {other}")
            return value == other

        return cls(
            stage=required("STAGE"),
            nexi_base_url=_base_url("NEXI_BASE_URL", required("NEXI_BASE_URL")),
            nexi_ca_bundle=optional("NEXI_CA_BUNDLE"),
            application_secret_id=required("APPLICATION_SECRET_ID"),
            certificate_secret_id=required("CERTIFICATE_SECRET_ID"),
            signing_key_id=optional("SIGNING_KEY_ID"),
            terminals_table=required("TERMINALS_TABLE"),
            cache_table=required("CACHE_TABLE"),
            minimal_assertion_headers=not choice("ASSERTION_HEADERS", "minimal", "full"),
            assign_on_first_use=choice("ASSIGN_ON_FIRST_USE", "false", "true"),
            point_of_sale_claim=optional("POINT_OF_SALE_CLAIM"),
            enrollments_per_minute=_count("ENROLLMENTS_PER_MINUTE", optional("ENROLLMENTS_PER_MINUTE") or "10"),
            operators_pool_id=optional("OPERATORS_POOL_ID"),
            operators_client_id=optional("OPERATORS_CLIENT_ID"),
        )


@functools.cache
def settings() -> Settings:
    """The settings of this execution environment. A failure is not cached."""
    return Settings.from_environment(os.environ)


def _count(name: str, value: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", value):
        raise _wrong(name, "is no whole number above 0")
    return int(value)


def _base_url(name: str, value: str) -> str:
    try:
        port = urlsplit(value).port
    except ValueError:
        port = 0
    if port == 0 or not _BASE_URL.fullmatch(value):
        raise _wrong(name, "is not https://HOST[:PORT] alone, without path and without trailing slash")
    return value


_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_BASE_URL = re.compile(rf"https://{_LABEL}(\.{_LABEL})*(:[0-9]+)?|https://\[[0-9A-Fa-f:.]+\](:[0-9]+)?")


def _wrong(name: str, what: str) -> MisconfiguredError:
    return MisconfiguredError(
        f"environment variable {name} {what}",
        f"set {name} on the function: template.yaml does so from the stack's parameters and resources",
    )


def forget_key_log() -> None:
    """Remove SSLKEYLOGFILE from the environment: botocore would write the keys of its TLS connections there."""
    os.environ.pop("SSLKEYLOGFILE", None)
