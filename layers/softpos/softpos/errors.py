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

    def __init__(self, message: str, remedy: str = "", *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy
        self.retry_after = retry_after


class InvalidRequestError(SoftposError):
    """When the phone sent something that no enrollment can be made of.

    `members` maps each wrong member's name to what is wrong with it; the whole body goes by the name `body`. Both are
    shown to the phone, so neither repeats a value.
    """

    code = "invalid_request"

    def __init__(self, members: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name} {reason}" for name, reason in members.items()))
        self.members = members


class OperatorUnknownError(SoftposError):
    """When the bearer token says nothing about who the operator is."""

    code = "operator_unknown"


class TerminalNotAssignedError(SoftposError):
    """When the operator holds no terminal."""

    code = "terminal_not_assigned"


class IdempotencyKeyReusedError(SoftposError):
    """When an `Idempotency-Key` comes again, with another request."""

    code = "idempotency_key_reused"


class EnrollmentInProgressError(SoftposError):
    """When an `Idempotency-Key` comes again while the first enrollment under it is under way."""

    code = "enrollment_in_progress"


class MisconfiguredError(SoftposError):
    """When settings, credentials or certificate are missing or malformed, or Nexi refuses them."""

    code = "misconfigured"


class CredentialsRefusedError(MisconfiguredError):
    """When Nexi refuses the certificate, the client id or the client secret that we have."""


class NexiRejectedError(SoftposError):
    """When Nexi understood the request and refused it."""

    code = "nexi_rejected"


class NexiUnavailableError(SoftposError):
    """When Nexi cannot be reached, says that it cannot serve, or answers with something that is no answer."""

    code = "nexi_unavailable"


class NexiTimeoutError(SoftposError):
    """When Nexi had not answered in time."""

    code = "nexi_timeout"


class OutOfTimeError(NexiTimeoutError):
    """When no time was left to ask Nexi at all: ours was spent elsewhere, and says nothing of Nexi."""
