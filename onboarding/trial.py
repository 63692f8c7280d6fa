"""Nexi's B2B channel from this machine, with the functions' own code: credentials are tried out before they serve."""

import json
import time
from collections.abc import Mapping
from typing import Any

from softpos.credentials import Certificate, Credentials, CredentialStore, parse_application, parse_certificate
from softpos.deadline import Deadline
from softpos.nexi.client import KEYS_PATH, Nexi, PublishedKeys
from softpos.nexi.session import Answer, MutualTlsSession
from softpos.settings import Settings

SECONDS = 10.0
"""For one call, from a machine that may be far from Nexi."""


class Trial:
    """What Nexi says to an application with a certificate. Every method raises as `softpos.nexi` does."""

    def __init__(self, settings: Settings, application: str, certificate: Mapping[str, Any]) -> None:
        """Takes the two secrets' values. Raises MisconfiguredError when one is malformed."""
        self.credentials = Credentials(parse_application(application), parse_certificate(json.dumps(certificate)))
        self.answered_at = 0.0
        """Unix time at which the handshake was done."""
        self._settings = settings
        self._nexi = Nexi(settings, _Given(self.credentials))

    @property
    def certificate(self) -> Certificate:
        """The certificate that is tried."""
        return self.credentials.certificate

    def shake_hands(self) -> Answer:
        """A handshake, and whatever the server says after it. With TLS 1.3, that is when it refuses a certificate."""
        session = MutualTlsSession(self.certificate, self._settings.nexi_ca_bundle)
        try:
            return session.send("GET", self._settings.nexi_base_url + KEYS_PATH, Deadline(SECONDS))
        finally:
            self.answered_at = time.time()

    def token(self) -> int:
        """A token: the seconds it may be used for. It is not printed, kept or shown."""
        return self._nexi.token(Deadline(SECONDS))

    def keys(self) -> PublishedKeys:
        """The encryption keys that assertions can be made for."""
        return self._nexi.keys(Deadline(SECONDS))


class _Given(CredentialStore):
    """Credentials that are what they are."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def get(self, *, reload: bool = False) -> Credentials:  # noqa: ARG002 - the store's signature
        return self._credentials
