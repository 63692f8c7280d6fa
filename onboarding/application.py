"""`softpos application`: what Nexi's portal gave the app, in the secret that the functions read."""

import json as jsonlib
import re
import sys
from typing import Any
from urllib.parse import urlsplit

import click

from onboarding import console
from onboarding.deployment import CommandError, Deployment, translated
from onboarding.options import as_json, example, placed
from softpos.aws import error_code
from softpos.credentials import DEFAULT_SCOPE, parse_application

SCOPE_WARNING = f"the SDK always asks for the scope `{DEFAULT_SCOPE}`: Nexi may refuse another one"

_MEMBERS = ("client_id", "client_secret", "redirect_uri", "scope")

_MAX_CHARACTERS = 8192
"""As much of standard input is read: twice the longest secret."""


class NothingStoredError(CommandError):
    """When the secret has never been given a value."""


@click.group()
def application() -> None:
    """Client id, client secret, redirect URI and scope, as on Nexi's portal."""


@application.command(
    "set",
    epilog=example(
        "softpos application set --stage staging --client-id 4f1c… --redirect-uri https://shop.example/softpos",
        "softpos application set --stage production --scope 'oidc email' < secret.txt",
    ),
)
@placed
@click.option("--client-id", help="The portal's ID Client: the SDK's app id.")
@click.option("--redirect-uri", help="Exactly as on the portal and in the SDK.")
@click.option("--scope", help=f"Separated by spaces.  [{DEFAULT_SCOPE}]")
def set_(deployment: Deployment, client_id: str | None, redirect_uri: str | None, scope: str | None) -> None:
    """Store what Nexi's portal shows of the app. What is not given stays as it is.

    The client secret is asked for, or read from standard input; it is never an argument, which others could see.
    """
    now = _members(deployment)
    given = {"client_id": client_id, "redirect_uri": redirect_uri, "scope": scope, "client_secret": _secret(now)}
    members = {**now, **{name: value.strip() for name, value in given.items() if value is not None}}
    members.setdefault("scope", DEFAULT_SCOPE)
    for name, option in (("client_id", "--client-id"), ("redirect_uri", "--redirect-uri")):
        if not members.get(name):
            raise CommandError(f"nothing is known of the {name}", f"pass {option}")
    _check(members)
    value = jsonlib.dumps(members)
    parse_application(value)
    with translated():
        deployment.client("secretsmanager").put_secret_value(
            SecretId=deployment.output("ApplicationSecretId"), SecretString=value
        )
    console.say(f"Stored for client {members['client_id']}. Functions take it up within five minutes")
    if members["scope"] != DEFAULT_SCOPE:
        console.warn(f"{SCOPE_WARNING}. `softpos application set --scope {DEFAULT_SCOPE}` sets it")


@application.command(epilog=example("softpos application show --stage staging"))
@placed
@as_json
def show(deployment: Deployment, json: bool) -> None:
    """What is stored, but for the client secret."""
    stored = parse_application(application_value(deployment))
    shown = {"client_id": stored.client_id, "redirect_uri": stored.redirect_uri, "scope": stored.scope}
    if json:
        console.say_json(shown)
    else:
        console.pairs([*shown.items(), ("client_secret", "stored, and not shown")])


def application_value(deployment: Deployment) -> str:
    """The application secret's text. Raises NothingStoredError when it has none."""
    secret_id = deployment.output("ApplicationSecretId")
    with translated():
        try:
            answer = deployment.client("secretsmanager").get_secret_value(SecretId=secret_id)
        except Exception as error:
            if error_code(error) != "ResourceNotFoundException":
                raise
            raise NothingStoredError("the application secret is empty", "softpos application set") from error
    return str(answer.get("SecretString", ""))


def _members(deployment: Deployment) -> dict[str, Any]:
    """What is stored now, as far as it is of use."""
    try:
        members = jsonlib.loads(application_value(deployment))
    except (ValueError, RecursionError, NothingStoredError):
        return {}
    if not isinstance(members, dict):
        return {}
    return {name: value for name, value in members.items() if name not in _MEMBERS or isinstance(value, str)}


def _secret(now: dict[str, Any]) -> str | None:
    """The client secret, from whoever types it or from standard input; None when the stored one is to stay."""
    known = bool(now.get("client_secret"))
    if sys.stdin.isatty():
        hint = " (Enter: as it is)" if known else ""
        typed = click.prompt(f"Client secret{hint}", hide_input=True, default="", show_default=False, err=True)
    else:
        typed = _from_standard_input()
    typed = typed.strip()
    if not typed and not known:
        raise CommandError("no client secret was given", "type it when asked, or pass it on standard input")
    if not re.fullmatch(r"[!-~]{0,4096}", typed):
        raise CommandError(
            "the client secret is longer than 4,096, or holds blanks, line breaks or letters that no client secret has",
            "pass the portal's Secret alone: it was not stored",
        )
    return typed or None


def _from_standard_input() -> str:
    """Raises CommandError when it is no text."""
    try:
        return sys.stdin.read(_MAX_CHARACTERS)
    except UnicodeDecodeError:
        raise CommandError("standard input is not text", "pass the portal's Secret alone: it was not stored") from None


def _check(members: dict[str, Any]) -> None:
    """Raises CommandError for what Nexi's portal cannot have shown."""
    if not re.fullmatch(r"[!-~]{1,255}", members["client_id"]):
        raise CommandError("the client id holds blanks or letters that no client id has", "pass the portal's ID Client")
    uri = members["redirect_uri"]
    try:
        parts = urlsplit(uri)
    except ValueError:
        parts = urlsplit("")
    # RFC 6749 section 3.1.2: absolute, and without a fragment. An app's own scheme is as good as https.
    if not re.fullmatch(r"[!-~]{1,2048}", uri) or not parts.scheme or not (parts.netloc or parts.path) or "#" in uri:
        raise CommandError(
            "the redirect URI is not an absolute URI without a fragment", "pass it as on the portal, scheme included"
        )
