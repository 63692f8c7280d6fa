"""Who the operator is: out of verified claims alone, and when two spellings of an e-mail are one operator."""

import unicodedata
from collections.abc import Mapping
from typing import Any

from softpos.errors import OperatorUnknownError, PointOfSaleUnknownError
from softpos.pairs import is_identifier


def is_email(value: Any) -> bool:
    """Whether it may be an operator's e-mail: 3 to 254 printable characters, no spaces, an @ with something around it.

    A letter beyond ASCII is taken only if it is the one capital of its one small letter, or the other way round. The
    Kelvin sign is not: its small letter is k, and whoever owns a mailbox with it must not become the one with the k.
    """
    return (
        isinstance(value, str)
        and 3 <= len(value) <= 254
        and "@" in value[1:-1]
        and value.isprintable()
        and " " not in value
        and all(each.isascii() or _is_plain(each) for each in value)
    )


def key(email: str) -> str:
    """Return what an operator goes by: the e-mail without regard to case, in Unicode's composed form (NFC).

    One key for one operator, given `is_email`.
    """
    # Letter by letter: str.lower() looks at a sigma's neighbours.
    return "".join(each.lower() for each in unicodedata.normalize("NFC", email))


def email_of(claims: Mapping[str, Any]) -> str:
    """The e-mail in the claims of a token that has been verified already, spelled as it is there.

    Raises OperatorUnknownError when there is none, or when the identity provider does not say that it is verified
    where it says anything of it.
    """
    email = claims.get("email")
    if not is_email(email):
        raise OperatorUnknownError(
            "the bearer token carries no e-mail",
            "let the app send the ID token, which carries the e-mail, and not the access token",
        )
    if str(claims.get("email_verified", "true")).lower() != "true":
        raise OperatorUnknownError(
            "the bearer token's e-mail is not verified", "verify the operator's e-mail in the user pool"
        )
    return str(email)


def point_of_sale_of(claims: Mapping[str, Any], claim: str) -> str:
    """The point of sale that the claim of this name says. Raises PointOfSaleUnknownError when it says none."""
    value = claims.get(claim)
    if not isinstance(value, str) or not is_identifier(value.strip()):
        raise PointOfSaleUnknownError(
            "the claim that the parameter PointOfSaleClaim names is not in the bearer token, or is no point of sale",
            "give the operator that attribute in the user pool, or leave the parameter empty for any point of sale",
        )
    return value.strip()


def _is_plain(letter: str) -> bool:
    """Return whether neither case nor Unicode's composed form makes a letter an ASCII one or somebody else's."""
    small = letter.lower()
    one_capital = len(small) == 1 and not small.isascii() and small.upper() == letter
    return not unicodedata.normalize("NFC", letter).isascii() and (small == letter or one_capital)
