from softpos.errors import (
    BackendUnavailableError,
    EnrollmentInProgressError,
    IdempotencyKeyReusedError,
    InvalidRequestError,
    MisconfiguredError,
    NexiRejectedError,
    NexiTimeoutError,
    NexiUnavailableError,
    NoTerminalFreeError,
    OperatorHoldsTerminalError,
    OperatorUnknownError,
    PairsRefusedError,
    PointOfSaleUnknownError,
    RegistryBusyError,
    SigningUnavailableError,
    SoftposError,
    TerminalHeldError,
    TerminalNotAssignedError,
    TerminalUnknownError,
    TooManyEnrollmentsError,
)


def test_codes_are_what_the_phone_was_promised() -> None:
    # The softpos command has some of its own, that no phone ever sees.
    ours = [each for each in SoftposError.__subclasses__() if each.__module__ == SoftposError.__module__]
    codes = {error.__name__: error.code for error in (*ours, PairsRefusedError)}
    assert codes | {"SoftposError": SoftposError.code} == {
        InvalidRequestError.__name__: "invalid_request",
        OperatorUnknownError.__name__: "operator_unknown",
        TerminalNotAssignedError.__name__: "terminal_not_assigned",
        PointOfSaleUnknownError.__name__: "point_of_sale_unknown",
        NoTerminalFreeError.__name__: "no_terminal_free",
        TerminalUnknownError.__name__: "terminal_unknown",
        TerminalHeldError.__name__: "terminal_held",
        OperatorHoldsTerminalError.__name__: "operator_holds_terminal",
        PairsRefusedError.__name__: "pairs_refused",
        RegistryBusyError.__name__: "registry_busy",
        BackendUnavailableError.__name__: "backend_unavailable",
        SigningUnavailableError.__name__: "signing_unavailable",
        TooManyEnrollmentsError.__name__: "too_many_enrollments",
        IdempotencyKeyReusedError.__name__: "idempotency_key_reused",
        EnrollmentInProgressError.__name__: "enrollment_in_progress",
        MisconfiguredError.__name__: "misconfigured",
        NexiRejectedError.__name__: "nexi_rejected",
        NexiUnavailableError.__name__: "nexi_unavailable",
        NexiTimeoutError.__name__: "nexi_timeout",
        SoftposError.__name__: "internal_error",
    }


def test_an_error_says_what_was_found_and_what_to_do() -> None:
    error = NexiUnavailableError("found this", "do that", retry_after=7)
    assert (str(error), error.remedy, error.retry_after) == ("found this", "do that", 7)


def test_remedy_and_retry_after_may_be_left_away() -> None:
    error = SoftposError("found this")
    assert (error.remedy, error.retry_after) == ("", None)


def test_an_invalid_request_names_every_wrong_member() -> None:
    error = InvalidRequestError({"device_id": "is missing", "color": "is not known here"})
    assert str(error) == "device_id is missing; color is not known here"
    assert error.members == {"device_id": "is missing", "color": "is not known here"}
