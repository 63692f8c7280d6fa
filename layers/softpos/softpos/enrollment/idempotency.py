"""The same enrollment asked for twice by an impatient phone is made once (`Idempotency-Key`).

Powertools' idempotency does the work, in `CACHE_TABLE`; it is imported with this module, which is imported only when a
phone sends the header. What is stored is sealed: a reader of the table learns no `request_uri`, a writer plants none.
"""

import base64
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
    IdempotencyValidationError,
)

from softpos import operators, telemetry
from softpos.credentials import CredentialStore
from softpos.deadline import Deadline
from softpos.errors import EnrollmentInProgressError, IdempotencyKeyReusedError
from softpos.nexi.client import REQUEST_URI_SECONDS, PushedAuthorization
from softpos.seal import Seal
from softpos.terminals import Assignment

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


class Idempotency:
    """Remembers, for as long as a `request_uri` lives, what a key was answered with."""

    def __init__(
        self,
        dynamodb: "DynamoDBClient",
        table: str,
        credentials: CredentialStore,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = DynamoDBPersistenceLayer(
            table_name=table,
            key_attr="id",
            expiry_attr="expires_at",
            boto3_client=dynamodb,
        )
        self._credentials = credentials
        self._now = now

    def once(
        self,
        key: str,
        held: Assignment,
        device_id: str,
        deadline: Deadline,
        enroll: Callable[[], PushedAuthorization],
    ) -> PushedAuthorization:
        """What `enroll` gives, or gave for this operator's key and terminals, with the seconds that are left of it.

        A table that fails, or holds what we have not put there, costs the idempotency, not the enrollment. Raises
        IdempotencyKeyReusedError when the key came with another device id, EnrollmentInProgressError while the first is
        under way, and what `enroll` raises.
        """
        seal = self._credentials.get().seal("idempotency")
        # The assignment, too: a request_uri of terminals that were taken away since is not handed out again.
        name = seal.mark(key, operators.key(held.operator), held.point_of_sale, *held.terminal_ids)
        bound_to = f"{name} {device_id}"
        made: list[PushedAuthorization] = []
        failed: list[Exception] = []

        def make(request: dict[str, str]) -> dict[str, str]:  # noqa: ARG001 - Powertools hands it on
            try:
                pushed = enroll()
            except Exception as error:
                failed.append(error)
                raise
            made.append(pushed)
            # Read by Powertools when it stores the result, which is next.
            self._store.expires_after_seconds = pushed.expires_in
            return {"sealed": base64.b64encode(seal.close(bound_to, json.dumps(asdict(pushed)).encode())).decode()}

        guarded = idempotent_function(
            make,
            data_keyword_argument="request",
            persistence_store=self._store,
            config=_config(deadline),
            key_prefix="once",
        )
        try:
            stored = guarded(request={"name": name, "device": seal.mark(device_id)})
        except IdempotencyAlreadyInProgressError as error:
            raise EnrollmentInProgressError("the first enrollment under this key is under way") from error
        except IdempotencyValidationError as error:
            raise IdempotencyKeyReusedError("the key was used with another device id") from error
        except Exception as error:  # noqa: BLE001 - Powertools trips over whatever stands in the table
            if failed:
                # Not "from error", which is the same one, or what Powertools made of it: the cause is its own.
                raise failed[0] from failed[0].__cause__
            telemetry.note(idempotency=f"failed ({type(error).__name__})")
            telemetry.count("IdempotencyFailed")
            return made[0] if made else enroll()
        return made[0] if made else self._left_of(seal, bound_to, stored) or enroll()

    def _left_of(self, seal: Seal, bound_to: str, stored: Any) -> PushedAuthorization | None:
        sealed = stored.get("sealed") if isinstance(stored, dict) else None
        try:
            value = seal.open(bound_to, base64.b64decode(sealed)) if isinstance(sealed, str) else None
        except ValueError:
            value = None
        if value is None:
            return None
        pushed = PushedAuthorization(**json.loads(value))
        left = int(pushed.expires_at - self._now())
        if left < 1:
            return None
        telemetry.note(repeated=True)
        return replace(pushed, expires_in=left)


def _config(deadline: Deadline) -> IdempotencyConfig:
    return IdempotencyConfig(
        event_key_jmespath="name",
        payload_validation_jmespath="device",
        expires_after_seconds=REQUEST_URI_SECONDS,
        hash_function="sha256",
        lambda_context=_Context(deadline),  # type: ignore[arg-type] # it is asked for the remaining time alone
    )


class _Context:
    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline

    def get_remaining_time_in_millis(self) -> int:
        return int(self._deadline.remaining() * 1000)
