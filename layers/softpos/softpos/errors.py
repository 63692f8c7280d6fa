"""One family of errors. A caller switches on `code`; a log line gets the message and the remedy.

Messages name what was found and what was wanted, never a key, secret, token or assertion: they are written to the log
as they are. What the phone may read stands in `problems`.
"""


class SoftposError(Exception):
    """Base of everything that this layer raises on purpose.

    `code` is stable and goes to the phone, and so does `retry_after`, in whole seconds, where trying again may help.
    The message and `remedy` (what the stack's operator should do) go to the log and nowhere else.
    """

    code = "internal_error"
    metric_code: str | None = None
    """The code under which the metric Failed counts it, where that is not `code`."""

    def __init__(self, message: str, remedy: str = "", *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy
        self.retry_after = retry_after


class InvalidRequestError(SoftposError):
    """When a request cannot be understood.

    `members` maps each wrong member's name to what is wrong with it; the whole body goes by the name `body`. Both are
    shown to the caller, so neither repeats a value that is not an identifier of the pool's.
    """

    code = "invalid_request"

    def __init__(self, members: dict[str, str]) -> None:
        told = [f"{name} {reason}" for name, reason in members.items()]
        # A log line has its limits; the caller gets them all.
        more = [f"and {len(told) - 20} more"] if len(told) > 20 else []
        super().__init__("; ".join(told[:20] + more))
        self.members = members


class OperatorUnknownError(SoftposError):
    """When the bearer token says nothing about who the operator is."""

    code = "operator_unknown"


class TerminalNotAssignedError(SoftposError):
    """When the operator holds no terminal."""

    code = "terminal_not_assigned"


class PointOfSaleUnknownError(SoftposError):
    """When the bearer token does not say at which point of sale the operator may be given a terminal."""

    code = "point_of_sale_unknown"


class NoTerminalFreeError(SoftposError):
    """When an operator is to be given the first free pair, and none is."""

    code = "no_terminal_free"


class TerminalUnknownError(SoftposError):
    """When the pool has no pair with this TID."""

    code = "terminal_unknown"


class TerminalHeldError(SoftposError):
    """When a pair is wanted, or to be deleted, that an operator holds."""

    code = "terminal_held"


class OperatorHoldsTerminalError(SoftposError):
    """When an operator is to be given a pair, and holds another."""

    code = "operator_holds_terminal"


class PairsRefusedError(InvalidRequestError):
    """When pairs cannot be imported: `members` says of each place in the import what is wrong there."""

    code = "pairs_refused"


class RegistryBusyError(SoftposError):
    """When others kept changing what was to be changed here, or DynamoDB kept throttling."""

    code = "registry_busy"


class TooManyEnrollmentsError(SoftposError):
    """When an operator enrolls more often than the stack allows."""

    code = "too_many_enrollments"


class IdempotencyKeyReusedError(SoftposError):
    """When an `Idempotency-Key` comes again, with another request."""

    code = "idempotency_key_reused"


class EnrollmentInProgressError(SoftposError):
    """When an `Idempotency-Key` comes again while the first enrollment under it is under way."""

    code = "enrollment_in_progress"


class MisconfiguredError(SoftposError):
    """When settings, credentials or certificate are missing or malformed, or Nexi refuses them."""

    code = "misconfigured"


class MalformedPairError(MisconfiguredError):
    """When one operator's item in the terminals table is malformed. It is no reason to page anyone."""

    metric_code = "pair_malformed"


class CredentialsRefusedError(MisconfiguredError):
    """When Nexi refuses our certificate in the handshake, or our credentials at the token or JWKS endpoint."""


class BackendUnavailableError(SoftposError):
    """When DynamoDB, Secrets Manager or Cognito fails for the moment."""

    code = "backend_unavailable"


class OutOfTimeError(BackendUnavailableError):
    """When no time was left to ask Nexi: it was spent on what went before."""


class SigningUnavailableError(SoftposError):
    """When KMS, which signs the assertion, throttles or fails."""

    code = "signing_unavailable"


class NexiRejectedError(SoftposError):
    """When Nexi refuses an enrollment: PAR answers with neither a `request_uri` nor a passing failure."""

    code = "nexi_rejected"


class NexiUnavailableError(SoftposError):
    """When Nexi cannot be reached, says that it cannot serve, or answers with something unusable.

    `reached` tells whether a request left: if not, no request of any operator would have.
    """

    code = "nexi_unavailable"
    reached = True


class NexiFailedError(NexiUnavailableError):
    """When Nexi answers with a status from 500: it may be down, or unable to process this very request."""


class UnansweredError(NexiUnavailableError):
    """When Nexi ends a new connection before the first byte of an answer, as it may do to an unknown certificate."""


class NexiTimeoutError(SoftposError):
    """When Nexi does not answer in time. `reached` is as for NexiUnavailableError."""

    code = "nexi_timeout"
    reached = True
