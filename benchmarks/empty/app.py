"""The limit of a cold start: a handler that does nothing."""

from typing import Any


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Nothing."""
    return {}
