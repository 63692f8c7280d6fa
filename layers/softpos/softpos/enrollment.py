"""The enrollment: an operator and a device in, a `request_uri` out."""

import functools

from softpos import aws, telemetry
from softpos.cache import Cache
from softpos.credentials import CredentialStore
from softpos.deadline import Deadline
from softpos.nexi import Nexi, PushedAuthorization
from softpos.settings import settings
from softpos.terminals import TerminalRegistry

DEADLINE_SECONDS = 10.0
"""For a whole enrollment. The phone's person is standing at a counter."""


class Enrollment:
    """Binds the registry to Nexi's channel."""

    def __init__(self, registry: TerminalRegistry, nexi: Nexi) -> None:
        self._registry = registry
        self._nexi = nexi

    def enroll(self, email: str, device_id: str, deadline: Deadline) -> PushedAuthorization:
        """A `request_uri` for the terminals that the operator holds, on the device that the SDK named.

        Raises SoftposError's family: TerminalNotAssignedError before Nexi is asked for anything.
        """
        with telemetry.timed("registry"):
            held = self._registry.held_by(email)
        telemetry.note(point_of_sale=held.point_of_sale, terminal_ids=held.terminal_ids)
        return self._nexi.push(held.operator, held.point_of_sale, held.terminal_ids, device_id, deadline)


@functools.cache
def service() -> Enrollment:
    """The execution environment's enrollment, from its settings. Built on first use; a failure is not cached."""
    configured = settings()
    credentials = CredentialStore(
        aws.client("secretsmanager"), configured.application_secret_id, configured.certificate_secret_id
    )
    registry = TerminalRegistry(aws.client("dynamodb"), configured.terminals_table)
    return Enrollment(registry, Nexi(configured, credentials, Cache()))
