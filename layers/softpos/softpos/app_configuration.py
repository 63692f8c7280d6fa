"""What the SDK's `App2AppIPC` is built from, in one answer, so that it lives in one place."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from softpos import operators, telemetry
from softpos.credentials import Application, SecretStore, application_store
from softpos.errors import OperatorHoldsTerminalError, TerminalNotAssignedError
from softpos.settings import Settings, settings
from softpos.terminals import Assignment, TerminalRegistry, registry


@dataclass(frozen=True, slots=True)
class AppConfiguration:
    """An operator's."""

    app_id: str
    environment: str
    """The SDK's domain: `STAGING` or `PRODUCTION`."""
    redirect_uri: str
    point_of_sale: str
    softpos_tid: str | None
    mpos_tid: str | None
    operator: str
    """E-mail, to be given to the SDK as it is spelled here."""


class AppConfigurations:
    """Binds the registry to the application secret. Needs neither the certificate nor Nexi."""

    def __init__(
        self, configured: Settings, terminals: TerminalRegistry, application: SecretStore[Application]
    ) -> None:
        self._settings = configured
        self._registry = terminals
        self._application = application

    def obtain(self, claims: Mapping[str, Any]) -> AppConfiguration:
        """The configuration for the operator of these verified claims.

        An operator without a terminal gets one if the stack assigns on first use. Raises OperatorUnknownError,
        TerminalNotAssignedError, or NoTerminalFreeError and PointOfSaleUnknownError when one was to be assigned.
        """
        email = operators.email_of(claims)
        with telemetry.timed("registry"):
            held = self._held(email, claims)
        telemetry.note(point_of_sale=held.point_of_sale, terminal_ids=held.terminal_ids)
        application = self._application.get()
        return AppConfiguration(
            app_id=application.client_id,
            environment=self._settings.stage.upper(),
            redirect_uri=application.redirect_uri,
            point_of_sale=held.point_of_sale,
            softpos_tid=held.softpos_tid,
            mpos_tid=held.mpos_tid,
            operator=held.operator,
        )

    def _held(self, email: str, claims: Mapping[str, Any]) -> Assignment:
        try:
            return self._registry.held_by(email)
        except TerminalNotAssignedError:
            if not self._settings.assign_on_first_use:
                raise
        claim = self._settings.point_of_sale_claim
        point_of_sale = claim and operators.point_of_sale_of(claims, claim)
        try:
            held = self._registry.assign(email, point_of_sale=point_of_sale)
        except OperatorHoldsTerminalError:
            # The back office was quicker, and decided for another point of sale.
            return self._registry.held_by(email)
        telemetry.note(assigned=True)
        return held


@functools.cache
def service() -> AppConfigurations:
    """The execution environment's, from its settings. Built on first use; a failure is not cached."""
    return AppConfigurations(settings(), registry(), application_store())
