"""`softpos terminals`: the pool of terminal pairs and who holds them, by the back-office API of the deployed stack."""

import csv
import functools
import io
import json as jsonlib
import os
import re
import ssl
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlencode

import click
from rich.progress import Progress

from onboarding import console
from onboarding.deployment import AwsError, CommandError, Deployment, translated
from onboarding.options import Command, as_json, example, placed, with_client_certificate
from softpos.errors import InvalidRequestError
from softpos.pairs import MAX_PAIRS, PairList, from_csv, from_json, is_identifier

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

Pair = dict[str, Any]
"""As the API has it: `point_of_sale`, `softpos_tid`, `mpos_tid` and `operator`; None where there is none."""

Kind = Literal["csv", "json"]

Connect = Callable[[], "closing[BackOffice]"]

PATH = "/v1/terminals"

CONNECT_SECONDS = 5.0
READ_SECONDS = 35.0
"""An import takes up to 29."""

PAGE = 500

_CONTENT_TYPES: dict[Kind, str] = {"csv": "text/csv", "json": "application/json"}

_INDEX = re.compile(r"pairs\[(\d+)\]")

_REMEDIES = {
    "no_terminal_free": "release one (softpos terminals release), or import more",
    "operator_holds_terminal": "softpos terminals move, or release that one first",
    "pairs_refused": "correct these, and send the import again",
    "terminal_held": "softpos terminals release, first",
    "terminal_not_assigned": "softpos terminals assign",
    "terminal_unknown": "softpos terminals list shows those that the pool has",
    "404": "deploy the template of this version of softpos",
    "429": "the stack's own throttle is for all callers together: try again in a minute",
    "500": "look at the function's log for this request",
    "503": "try again in a minute; if it stays so, look at the function's log",
}
"""What to do, by a problem's code, or by the status where API Gateway answers by itself."""


class BackOffice:
    """The back-office API of a stack, as this machine's AWS credentials may use it. To be closed."""

    def __init__(self, deployment: Deployment, client_certificate: Path | None = None) -> None:
        """`client_certificate` is a PEM file with its key, for an API with mutual TLS (TruststoreUri).

        The AWS credentials are those of this moment. Raises AwsError when there are none, or no stack, and CommandError
        when the certificate is of no use.
        """
        import requests
        from botocore.auth import SigV4Auth

        self._deployment = deployment
        self._url = deployment.output("ApiUrl").rstrip("/")
        with translated():
            credentials = deployment.session.get_credentials()
            frozen = credentials and credentials.get_frozen_credentials()
        if not frozen:
            raise AwsError("there are no AWS credentials", "sign in as for the aws command, or pass --profile")
        self._signer = SigV4Auth(frozen, "execute-api", deployment.session.region_name)
        self._http = requests.Session()
        # No proxy stands between this machine and itself.
        self._http.trust_env = deployment.stage != "local"
        if client_certificate is not None:
            _check(client_certificate)
            self._http.cert = str(client_certificate)

    def close(self) -> None:
        """Drop the connection."""
        self._http.close()

    def pairs(self, limit: int | None = None, **filters: str | None) -> tuple[list[Pair], bool]:
        """Pairs, page by page up to the limit, and whether there may be more. Raises as `call` does."""
        found: list[Pair] = []
        after = None
        while True:
            size = PAGE if limit is None else min(PAGE, limit - len(found))
            page = self.call("GET", PATH, query={**filters, "limit": size, "after": after})
            found += page["pairs"]
            after = page["after"]
            if after is None or len(found) == limit:
                return found, after is not None

    def call(
        self, method: str, path: str, body: Any = None, kind: Kind = "json", *, query: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The JSON object that a signed request is answered with.

        A body that is text is sent as it is, any other as JSON; `query` without those that are None. Raises
        CommandError for a problem, for whatever else is no such answer, and when there is none.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        # With %20, not +: what is signed is the query as it stands.
        url = self._url + path + (f"?{urlencode(given, quote_via=quote)}" if given else "")
        text = body if isinstance(body, str) else None if body is None else jsonlib.dumps(body)
        try:
            answer = self._http.request(
                method,
                url,
                data=None if text is None else text.encode(),
                headers={} if text is None else {"Content-Type": _CONTENT_TYPES[kind]},
                # Not set as headers: then .netrc would have the last word.
                auth=self._sign,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
                verify=os.environ.get("AWS_CA_BUNDLE") or True,
            )
        # What requests raises is an OSError, and so is what it lets pass.
        except OSError as error:
            raise CommandError(
                f"{self._url} did not answer ({type(error).__name__})",
                "check the network, and whether it was done all the same (softpos terminals list); "
                "what is asked for twice is done once. An API with TruststoreUri wants --client-certificate",
            ) from error
        return self._read(answer)

    def _sign(self, request: "PreparedRequest") -> "PreparedRequest":
        """Signature Version 4 over the request as it is sent, but for headers that are anybody's to change."""
        from botocore.awsrequest import AWSRequest

        kept = {name: value for name, value in request.headers.items() if name == "Content-Type"}
        signed = AWSRequest(request.method, request.url, kept, request.body or b"")
        self._signer.add_auth(signed)
        request.headers.update(signed.headers.items())
        return request

    def _read(self, answer: "Response") -> dict[str, Any]:
        status = answer.status_code
        try:
            body = answer.json()
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise CommandError(
                f"{self._url} answered {status}, and no JSON object", "check whether a proxy stands in between"
            )
        if 200 <= status < 300:
            return body
        code = str(body.get("code") or status)
        said = _described(status, body, answer.headers.get("apigw-requestid", "unknown"))
        raise CommandError(said, self._remedy(status, code, answer.headers.get("Retry-After")))

    def _remedy(self, status: int, code: str, retry_after: str | None) -> str:
        if status in (401, 403):
            # Not `output`, lest a stack without it had the last word.
            policy = self._deployment.outputs.get("BackOfficePolicyArn", "that lets the back office in")
            return (
                f"attach the policy {policy} to the identity that is signed in, or choose another with --profile; its "
                "session must not have ended, nor this machine's clock be off"
            )
        if retry_after:
            return f"try again after {retry_after} s"
        return _REMEDIES.get(code) or _REMEDIES.get(str(status), "")


@dataclass(frozen=True, slots=True)
class Batch:
    """As much of a list as the API takes at once."""

    kind: Kind
    text: str
    count: int
    """How many pairs it has."""
    first: int = 0
    """Which of the whole list its first pair is. In CSV a line has its number in every batch."""

    def read(self) -> PairList:
        """As the API reads it. Raises InvalidRequestError when no list can be made out."""
        return from_csv(self.text) if self.kind == "csv" else from_json(jsonlib.loads(self.text))

    def in_file(self, text: str) -> str:
        """What was said of this batch, with the places of the whole list."""
        if not self.first:
            return text
        return _INDEX.sub(lambda found: f"pairs[{int(found[1]) + self.first}]", text)


def batches(data: bytes) -> list[Batch]:
    """A list of pairs, CSV or JSON, in batches: one, as it is, if the API takes it at once.

    Raises CommandError when it is no text, or cannot be told apart into pairs.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CommandError("the list is not text in UTF-8", "save it as CSV in UTF-8, or as JSON") from None
    return _of_json(text) if text.lstrip()[:1] in ("{", "[") else _of_csv(text)


def _of_csv(text: str) -> list[Batch]:
    # As softpos.pairs has it, so that both see the same lines.
    lines = list(io.StringIO(text, newline=""))
    rows = csv.reader(lines, delimiter=";" if ";" in text.partition("\n")[0] else ",", strict=True)
    try:
        next(rows, None)
        head = rows.line_num
        ends = [rows.line_num for row in rows if any(cell.strip() for cell in row)]
    except csv.Error:
        raise CommandError(f"line {rows.line_num} is not CSV", "look for a quotation mark too many") from None
    if len(ends) <= MAX_PAIRS:
        return [Batch("csv", text, len(ends))]
    made, begin = [], head
    for at in range(0, len(ends), MAX_PAIRS):
        part = ends[at : at + MAX_PAIRS]
        # Lines that went before are left empty, which is no pair, and so the API counts as the file does.
        before = [line[len(line.rstrip("\r\n")) :] for line in lines[head:begin]]
        made.append(Batch("csv", "".join([*lines[:head], *before, *lines[begin : part[-1]]]), len(part)))
        begin = part[-1]
    return made


def _of_json(text: str) -> list[Batch]:
    try:
        value = jsonlib.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"the list is not JSON ({error})", "save it anew") from error
    if isinstance(value, list):
        value, text = {"pairs": value}, f'{{"pairs": {text}}}'
    pairs = value.get("pairs")
    if not isinstance(pairs, list) or len(pairs) <= MAX_PAIRS:
        return [Batch("json", text, len(pairs) if isinstance(pairs, list) else 0)]
    parts = [(at, pairs[at : at + MAX_PAIRS]) for at in range(0, len(pairs), MAX_PAIRS)]
    return [Batch("json", jsonlib.dumps({**value, "pairs": part}), len(part), at) for at, part in parts]


def check(parts: Iterable[Batch]) -> None:
    """Raises CommandError with all that is wrong with a list in several batches, as far as the list itself says it.

    The API takes all of a batch or nothing. So that it is the same with the whole list, as far as can be, this is found
    out before the first is sent.
    """
    wrong: dict[str, str] = {}
    places: dict[str, str] = {}
    for part in parts:
        try:
            listed = part.read()
        except InvalidRequestError as error:
            wrong |= {part.in_file(place): part.in_file(reason) for place, reason in error.members.items()}
            continue
        wrong |= {part.in_file(place): part.in_file(reason) for place, reason in listed.problems.items()}
        before = dict(places)
        for place, pair in listed.pairs.items():
            for name, tid in (("softpos_tid", pair.softpos_tid), ("mpos_tid", pair.mpos_tid)):
                if tid in before:
                    wrong[f"{part.in_file(place)}, {name}"] = f"is in {before[tid]}, too"
            places |= dict.fromkeys(pair.terminal_ids, part.in_file(place))
    if wrong:
        raise CommandError(
            "\n".join(["The pairs cannot be imported", *(f"  {place}: {reason}" for place, reason in wrong.items())]),
            f"nothing was sent: {_REMEDIES['pairs_refused']}",
        )


def _check(client_certificate: Path) -> None:
    """requests would say of a file that is of no use that the connection failed, and OpenSSL ask for a passphrase."""

    def refuse() -> str:
        raise ValueError("its key is encrypted")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(client_certificate, password=refuse)
    except (OSError, ValueError) as error:
        raise CommandError(
            f"{client_certificate} is no certificate with its key ({getattr(error, 'reason', None) or error})",
            "let it hold both as PEM, the key unencrypted",
        ) from error


def connected(command: Command) -> Command:
    """Options that say where the back-office API is and how to get in; the command gets `connect`, to be closed."""

    @placed
    @with_client_certificate
    @functools.wraps(command)
    def with_office(*args: Any, deployment: Deployment, client_certificate: Path | None, **options: Any) -> Any:
        def connect() -> "closing[BackOffice]":
            return closing(BackOffice(deployment, client_certificate))

        return command(*args, connect=connect, **options)

    return with_office


@click.group()
def terminals() -> None:
    """The pool of terminal pairs, and who holds them."""


@terminals.command(
    "import",
    epilog=example(
        "softpos terminals import pairs.csv --stage staging",
        "jq .terminals portal.json | softpos terminals import - --stage staging",
    ),
)
@click.argument("file", type=click.File("rb"))
@connected
@as_json
def import_(connect: Connect, file: Any, json: bool) -> None:
    """Bring pairs into the pool, out of CSV or JSON ('-' for standard input). Pairs that it has stay as they are.

    CSV begins with a line that names point_of_sale, softpos_tid and mpos_tid; JSON is a list of objects with these
    members. One of the TIDs may be empty.

    Of up to 1,000 pairs, all are imported or none. More are sent in several calls.
    """
    parts = batches(file.read())
    if len(parts) > 1:
        check(parts)
    done = {"imported": 0, "unchanged": 0}
    shown = console.err()
    with (
        connect() as office,
        Progress(console=shown, disable=not shown.is_terminal, transient=True) as progress,
    ):
        for part in progress.track(parts, description="importing"):
            try:
                answer = office.call("POST", PATH, part.text, part.kind)
            except CommandError as error:
                raise _stopped(error, part, done, sum(each.count for each in parts)) from error
            done = {name: before + answer[name] for name, before in done.items()}
    if json:
        console.say_json(done)
    else:
        console.say(f"New in the pool: {done['imported']}. There already: {done['unchanged']}")


def _stopped(error: CommandError, part: Batch, done: dict[str, int], total: int) -> CommandError:
    """What ended an import, and how far it had come."""
    said = part.in_file(str(error))
    if part.count == total:
        return CommandError(said, error.remedy)
    known, again = sum(done.values()), "the import may be sent again, all of it: pairs that are there stay as they are"
    return CommandError(
        f"{known} of {total} pairs are in the pool, {done['imported']} of them new; then it ended. {said}",
        "; ".join(filter(None, (error.remedy, again))),
    )


@terminals.command(
    "list",
    epilog=example(
        "softpos terminals list --stage production --point-of-sale 00012345 --state free",
        "softpos terminals list --stage production --operator mario.rossi@example.com",
    ),
)
@connected
@click.option("--point-of-sale", help="Of this point of sale alone.")
@click.option("--state", type=click.Choice(["free", "held"]), help="Those that are free, or held, alone.")
@click.option("--operator", help="The pair that this operator holds. Goes with no other filter.")
@click.option("--limit", type=click.IntRange(min=1), help="No more than so many.")
@as_json
def list_(
    connect: Connect,
    point_of_sale: str | None,
    state: str | None,
    operator: str | None,
    limit: int | None,
    json: bool,
) -> None:
    """Pairs and their operators, sorted by point of sale and TID."""
    if operator and (point_of_sale or state):
        raise click.UsageError("--operator goes with neither --point-of-sale nor --state")
    with connect() as office:
        if operator:
            found, more = office.call("GET", PATH, query={"operator": operator})["pairs"], False
        else:
            found, more = office.pairs(limit, point_of_sale=point_of_sale, state=state)
    if json:
        console.say_json(found)
    elif found:
        _table(found)
    else:
        console.say("The pool has no such pair" if operator or point_of_sale or state else "The pool is empty")
    if more:
        console.remark(f"There are more than these {limit}.")


def _tid(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """A TID that a path can hold: one of dots alone would be another path."""
    if value is not None and not (is_identifier(value) and value.strip(".")):
        raise click.BadParameter(f"{value!r} is not 1 to 32 of letters, digits, dot, dash and underscore")
    return value


@terminals.command(
    epilog=example(
        "softpos terminals assign mario.rossi@example.com 30000001 --stage staging",
        "softpos terminals assign mario.rossi@example.com --stage staging --point-of-sale 00012345",
    )
)
@click.argument("operator")
@click.argument("tid", required=False, callback=_tid)
@connected
@click.option("--point-of-sale", help="The first free pair of this point of sale.")
@as_json
def assign(connect: Connect, operator: str, tid: str | None, point_of_sale: str | None, json: bool) -> None:
    """Give OPERATOR, who holds none, the pair with this TID; without one, the first that is free.

    OPERATOR is an e-mail, spelled as the SDK is to be given it.
    """
    if tid and point_of_sale:
        raise click.UsageError("pass TID or --point-of-sale, not both")
    with connect() as office:
        if tid:
            pair = office.call("PUT", f"{PATH}/{tid}/operator", {"operator": operator})
        else:
            wanted = {"operator": operator, "point_of_sale": point_of_sale}
            pair = office.call("POST", f"{PATH}/assignments", wanted)
    _tell(pair, json=json)


@terminals.command(epilog=example("softpos terminals release 30000001 --stage staging"))
@click.argument("tid", callback=_tid)
@connected
@as_json
def release(connect: Connect, tid: str, json: bool) -> None:
    """Take the pair with this TID from whoever holds it, if anyone does. Their next enrollment fails."""
    with connect() as office:
        pair = office.call("DELETE", f"{PATH}/{tid}/operator")
    _tell(pair, json=json)


@terminals.command(
    epilog=example(
        "softpos terminals move mario.rossi@example.com 30000002 --stage staging",
        "softpos terminals move mario.rossi@example.com --stage staging --point-of-sale 00067890",
    )
)
@click.argument("operator")
@click.argument("tid", required=False, callback=_tid)
@connected
@click.option("--point-of-sale", help="To the first free pair of this point of sale.")
@as_json
def move(connect: Connect, operator: str, tid: str | None, point_of_sale: str | None, json: bool) -> None:
    """Give OPERATOR another pair for the one that they hold, in one step: that of TID, or of --point-of-sale."""
    if bool(tid) == bool(point_of_sale):
        raise click.UsageError("pass either TID or --point-of-sale")
    with connect() as office:
        to = {"tid": tid} if tid else {"point_of_sale": point_of_sale}
        pair = office.call("POST", f"{PATH}/moves", {"operator": operator, **to})
    _tell(pair, json=json)


def _tell(pair: Pair, *, json: bool) -> None:
    if json:
        console.say_json(pair)
    else:
        _table([pair])


def _table(found: list[Pair]) -> None:
    console.table(
        ["point of sale", "SoftPOS TID", "MPOS TID", "operator"],
        (
            [each["point_of_sale"], each["softpos_tid"] or "", each["mpos_tid"] or "", each["operator"] or "free"]
            for each in found
        ),
    )


def _described(status: int, problem: dict[str, Any], request_id: str) -> str:
    """An RFC 9457 problem in words, or API Gateway's own message."""
    if "code" not in problem:
        return f"API Gateway answered {status} ({problem.get('message', 'without a word')}, request {request_id})"
    name = f"({problem['code']}, request {request_id})"
    errors = problem.get("errors")
    if not errors:
        return f"{problem.get('title')}. {problem.get('detail')} {name}"
    # The detail sums up what follows.
    return "\n".join([f"{problem.get('title')} {name}", *(f"  {each['member']}: {each['detail']}" for each in errors)])
