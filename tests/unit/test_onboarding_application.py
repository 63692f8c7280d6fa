"""`softpos application`: what is stored of what the portal shows, what stays as it is, and that no secret is shown."""

import io
import json
import sys
from collections.abc import Iterator
from typing import Any

import click
import pytest
from moto import mock_aws
from onboarding_support import Run, deployed, session, softpos

from onboarding.__main__ import main
from softpos.credentials import parse_application

CLIENT_ID = "4f1c7a52-0d8e-4a52-9d6b-5f0e6f6c1a11"
SECRET = "s3cr3t~of+the/portal="
OTHER_SECRET = "An0ther.secret"
REDIRECT_URI = "https://shop.example/softpos"

STORED = {"client_id": CLIENT_ID, "redirect_uri": REDIRECT_URI, "scope": "oidc", "client_secret": SECRET}


class Secret:
    """The application secret in Secrets Manager."""

    def __init__(self, secrets: Any) -> None:
        self._secrets = secrets
        self.id = secrets.create_secret(Name="softpos/application")["ARN"]

    def put(self, value: Any) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        self._secrets.put_secret_value(SecretId=self.id, SecretString=text)

    @property
    def value(self) -> Any:
        """None when it was never given one."""
        try:
            return json.loads(self._secrets.get_secret_value(SecretId=self.id)["SecretString"])
        except self._secrets.exceptions.ResourceNotFoundException:
            return None


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> Iterator[Secret]:
    with mock_aws():
        made = Secret(session().client("secretsmanager"))
        deployed(monkeypatch, ApplicationSecretId=made.id)
        yield made


def run(*arguments: str, stdin: str | bytes = "") -> Run:
    """The command's end; whatever it was, it has shown no secret."""
    ended = softpos("application", *arguments, stdin=stdin.encode() if isinstance(stdin, str) else stdin)
    for each in (SECRET, OTHER_SECRET):
        assert each not in ended.out + ended.err
    assert "Traceback" not in ended.err
    return ended


def set_all(*arguments: str, stdin: str | bytes = SECRET) -> Run:
    return run("set", "--client-id", CLIENT_ID, "--redirect-uri", REDIRECT_URI, *arguments, stdin=stdin)


# ---------------------------------------------------------------- set


def test_what_the_portal_shows_is_stored_as_the_functions_read_it(secret: Secret) -> None:
    ended = set_all()
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"Stored for client {CLIENT_ID}. Functions take it up within five minutes\n"
    assert secret.value == STORED
    assert parse_application(json.dumps(secret.value)).client_secret == SECRET


@pytest.mark.parametrize("end", ["\n", "\r\n", "  \n"], ids=repr)
def test_a_line_break_after_the_secret_is_not_of_it(end: str, secret: Secret) -> None:
    assert set_all(stdin=SECRET + end).status == 0
    assert secret.value["client_secret"] == SECRET


def test_the_scope_is_as_given(secret: Secret) -> None:
    ended = set_all("--scope", " oidc email ")
    assert ended.status == 0
    assert secret.value["scope"] == "oidc email"
    assert "the SDK always asks for the scope `oidc`" in " ".join(ended.err.split())


@pytest.mark.parametrize(
    ("arguments", "stdin", "changed"),
    [
        (("--client-id", "another"), "", {"client_id": "another"}),
        (("--redirect-uri", "softpos:/back"), "", {"redirect_uri": "softpos:/back"}),
        (("--scope", "oidc email"), "", {"scope": "oidc email"}),
        ((), OTHER_SECRET, {"client_secret": OTHER_SECRET}),
        ((), "", {}),
    ],
    ids=["client id", "redirect URI", "scope", "secret", "nothing"],
)
def test_what_is_not_given_stays_as_it_is(
    arguments: tuple[str, ...], stdin: str, changed: dict[str, str], secret: Secret
) -> None:
    secret.put({**STORED, "note": "someone's"})
    assert run("set", *arguments, stdin=stdin).status == 0
    assert secret.value == {**STORED, "note": "someone's", **changed}


def refused(ended: Run, said: str, remedy: str = "") -> None:
    assert (ended.status, ended.out) == (1, "")
    assert said in ended.err
    assert remedy in ended.err


SECRETS = {
    "nothing": ("", "no client secret was given", "pass it on standard input"),
    "blanks": (" \n", "no client secret was given", ""),
    "two lines": (f"{SECRET}\n{OTHER_SECRET}\n", "line breaks", "it was not stored"),
    "a blank": (f"{SECRET} x", "blanks", "it was not stored"),
    "an accent": ("segretò", "letters that no client secret has", "it was not stored"),
    "too much": ("x" * 4097, "longer than 4,096", "it was not stored"),
    "a file": (b"\xff\xfe\x00" * 99, "standard input is not text", "it was not stored"),
}


@pytest.mark.parametrize("what", SECRETS)
def test_it_stores_no_secret_that_is(what: str, secret: Secret) -> None:
    stdin, said, remedy = SECRETS[what]
    refused(set_all(stdin=stdin), said, remedy)
    assert secret.value is None


def test_the_longest_secret_is_stored(secret: Secret) -> None:
    assert set_all(stdin="x" * 4096 + "\r\n").status == 0
    assert secret.value["client_secret"] == "x" * 4096


MISTAKES = {
    "no client id": (("--redirect-uri", REDIRECT_URI), "nothing is known of the client_id", "pass --client-id"),
    "no redirect URI": (("--client-id", "x"), "nothing is known of the redirect_uri", "pass --redirect-uri"),
    "an empty client id": (("--client-id", " ", "--redirect-uri", REDIRECT_URI), "nothing is known of the cl", ""),
    "a client id with a blank": (("--client-id", "a b", "--redirect-uri", REDIRECT_URI), "the client id holds", ""),
    "a client id that is too long": (
        ("--client-id", "x" * 256, "--redirect-uri", REDIRECT_URI),
        "the client id holds",
        "the portal's ID Client",
    ),
    "an unknown scope": (
        ("--client-id", "x", "--redirect-uri", REDIRECT_URI, "--scope", "oidc admin"),
        "scope holds something that Nexi does not offer",
        "use oidc, or several of",
    ),
    **{
        f"a redirect URI {why}": (
            ("--client-id", "x", "--redirect-uri", uri),
            "the redirect URI is not an absolute URI without a fragment",
            "as on the portal",
        )
        for why, uri in {
            "without a scheme": "shop.example/softpos",
            "with a fragment": "https://shop.example/#softpos",
            "with an empty fragment": "https://shop.example/softpos#",
            "that is a scheme alone": "https:",
            "with a blank": "https://shop.example/soft pos",
            "that is none": "https://[::1/softpos",
            "that is too long": "https://shop.example/" + "x" * 2048,
        }.items()
    },
}


@pytest.mark.parametrize("what", MISTAKES)
def test_nothing_is_stored_with(what: str, secret: Secret) -> None:
    arguments, said, remedy = MISTAKES[what]
    refused(run("set", *arguments, stdin=SECRET), said, remedy)
    assert secret.value is None


@pytest.mark.parametrize(
    "uri", ["https://shop.example", "softpos:/back", "it.shop.app:back", "http://127.0.0.1:8080/x?y"]
)
def test_a_redirect_uri_may_be(uri: str, secret: Secret) -> None:
    assert run("set", "--client-id", "x", "--redirect-uri", uri, stdin=SECRET).status == 0
    assert secret.value["redirect_uri"] == uri


@pytest.mark.parametrize(
    "before",
    ["", "no JSON", "[" * 100_000, "[]", json.dumps({**STORED, "client_id": 5, "scope": None, "redirect_uri": ["x"]})],
    ids=["empty", "no JSON", "deep", "a list", "members that are no text"],
)
def test_what_is_of_no_use_is_replaced(before: str, secret: Secret) -> None:
    secret.put(before or " ")
    assert set_all().status == 0
    assert secret.value == STORED


def test_a_malformed_secret_is_no_reason_to_forget_a_missing_member(secret: Secret) -> None:
    secret.put({**STORED, "client_id": 5})
    refused(run("set", "--scope", "oidc"), "nothing is known of the client_id")


def test_aws_saying_no_is_told(secret: Secret, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed(monkeypatch, ApplicationSecretId="softpos/another")
    refused(set_all(), "AWS refused PutSecretValue (ResourceNotFoundException)")


# ---------------------------------------------------------------- at a terminal


class Terminal(io.StringIO):
    """Standard input that someone types at."""

    def isatty(self) -> bool:
        return True


def typed(text: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """The command, by someone who types this when asked without an echo, and nothing elsewhere."""
    monkeypatch.setattr(click.termui, "hidden_prompt_func", lambda _prompt: text)
    monkeypatch.setattr(sys, "stdin", Terminal())
    with pytest.raises(SystemExit) as end:
        main(["application", "set", *arguments, "--stage", "staging"])
    assert not end.value.code


def test_at_a_terminal_the_secret_is_asked_for_and_not_shown(
    secret: Secret, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(SECRET, monkeypatch, "--client-id", CLIENT_ID, "--redirect-uri", REDIRECT_URI)
    assert secret.value == STORED
    shown = capsys.readouterr()
    assert shown.err.strip() == "Client secret:"
    assert SECRET not in shown.out


def test_at_a_terminal_enter_leaves_the_secret_as_it_is(
    secret: Secret, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret.put(STORED)
    typed("", monkeypatch, "--client-id", "another")
    assert secret.value == {**STORED, "client_id": "another"}
    assert capsys.readouterr().err.strip() == "Client secret (Enter: as it is):"


# ---------------------------------------------------------------- show


def test_all_is_shown_but_the_secret(secret: Secret) -> None:
    secret.put(STORED)
    ended = run("show")
    assert ended == Run(
        0,
        f"client_id      {CLIENT_ID}\n"
        f"redirect_uri   {REDIRECT_URI}\n"
        "scope          oidc\n"
        "client_secret  stored, and not shown\n",
        "",
    )


def test_machines_are_shown_the_same(secret: Secret) -> None:
    secret.put({**STORED, "scope": ""})
    assert run("show", "--json").json == {"client_id": CLIENT_ID, "redirect_uri": REDIRECT_URI, "scope": "oidc"}


def test_where_nothing_is_stored_show_says_what_to_do(secret: Secret) -> None:
    refused(run("show"), "the application secret is empty", "softpos application set")
    refused(run("show", "--json"), "the application secret is empty", "softpos application set")


@pytest.mark.parametrize("value", ["no JSON", {**STORED, "client_secret": ""}, {**STORED, "scope": "admin"}], ids=str)
def test_what_the_functions_could_not_read_is_not_shown(value: Any, secret: Secret) -> None:
    secret.put(value)
    refused(run("show"), "application secret")


def test_a_stack_of_an_older_template_is_told_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    deployed(monkeypatch)
    refused(run("show"), "has no output ApplicationSecretId", "deploy the template of this version")
