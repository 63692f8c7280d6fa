"""`softpos terminals`: what is signed and sent, what is made of each answer, and how long lists are taken apart."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import botocore.session
import pytest
import requests
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from hypothesis import assume, given
from hypothesis import strategies as st
from onboarding_support import (
    ACCESS_KEY,
    API,
    POLICY,
    REGION,
    SECRET_KEY,
    SESSION_TOKEN,
    Answer,
    Run,
    Web,
    deployed,
    session,
    softpos,
)
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from onboarding import terminals
from onboarding.terminals import Batch, batches
from sandbox.authority import Issued
from sandbox.sigv4 import ForbiddenError, verify
from softpos import pairs

FIRST = {"point_of_sale": "00012345", "softpos_tid": "30000001", "mpos_tid": "40000001", "operator": "m.r@example.com"}
FREE = {"point_of_sale": "00012345", "softpos_tid": "30000003", "mpos_tid": None, "operator": None}
HEADINGS = "point of sale  SoftPOS TID  MPOS TID  operator"

CSV = "point_of_sale,softpos_tid,mpos_tid\n1,11,21\n1,12,\n"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A stack in staging, whose API answers as it is told to. What was to be answered has to be asked for."""
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTPS_PROXY", "https_proxy", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    deployed(monkeypatch, ApiUrl=API, BackOfficePolicyArn=POLICY)
    installed = Web()
    installed.install(monkeypatch)
    yield installed
    assert installed.answers == []


@pytest.fixture
def three_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An API that takes three pairs at a time, in the place of a thousand."""
    monkeypatch.setattr(terminals, "MAX_PAIRS", 3)


def page(*found: dict[str, Any], after: str | None = None) -> Answer:
    return Answer({"pairs": list(found), "after": after})


def imported(new: int, there: int = 0) -> Answer:
    return Answer({"imported": new, "unchanged": there})


def problem(status: int, code: str, *errors: tuple[str, str], **headers: str) -> Answer:
    body = {"title": "A title", "detail": "A detail.", "status": status, "code": code, "request_id": "request-1"}
    told = {"errors": [{"member": member, "detail": detail} for member, detail in errors]} if errors else {}
    return Answer({**body, **told}, status, headers)


def run(*arguments: str, stdin: bytes | str = b"", stage: str = "staging") -> Run:
    data = stdin.encode() if isinstance(stdin, str) else stdin
    return softpos("terminals", *arguments, stdin=data, stage=stage)


def lines(*rows: str, head: str = "point_of_sale,softpos_tid,mpos_tid", end: str = "\n") -> str:
    return "".join(f"{row}{end}" for row in (head, *rows))


# ---------------------------------------------------------------- what is signed


def check_signature(request: requests.PreparedRequest) -> None:
    """As API Gateway checks it: over the request as it was sent."""
    url = urlsplit(str(request.url))
    body: Any = request.body or b""
    environ = EnvironBuilder(url.path, f"https://{url.netloc}", method=request.method or "", data=body).get_environ()
    environ["RAW_URI"] = request.path_url
    for name, value in request.headers.items():
        text = value.decode() if isinstance(value, bytes) else value
        environ[f"HTTP_{name.upper().replace('-', '_')}"] = text
        if name == "Content-Type":
            environ["CONTENT_TYPE"] = text
    verify(Request(environ), body, ACCESS_KEY, SECRET_KEY, REGION)


SIGNED = {
    "a list": (("list",), page()),
    "a list with letters that a query quotes": (("list", "--operator", "a+b c/ü@example.com"), page()),
    "a page's cursor": (("list", "--point-of-sale", "1"), page(after="MDA=")),
    "CSV": (("import", "-"), imported(2)),
    "a body": (("assign", "anna@example.com", "30000001"), Answer(FIRST)),
    "an empty body": (("release", "30000001"), Answer(FREE)),
}


@pytest.mark.parametrize("what", SIGNED)
def test_what_is_sent_is_what_was_signed(what: str, web: Web) -> None:
    arguments, answer = SIGNED[what]
    web.answers = [answer, page()] if answer.body.get("after") else [answer]
    assert run(*arguments, stdin=CSV).status == 0
    for request in web.sent:
        check_signature(request)
        request.method = "PATCH"
        with pytest.raises(ForbiddenError):
            check_signature(request)


def test_the_signature_is_of_the_session_the_region_and_the_service(web: Web) -> None:
    web.answers = [Answer(FIRST)]
    run("assign", "anna@example.com")
    headers = web.sent[0].headers
    assert headers["X-Amz-Security-Token"] == SESSION_TOKEN
    assert f"Credential={ACCESS_KEY}/" in headers["Authorization"]
    assert f"/{REGION}/execute-api/aws4_request" in headers["Authorization"]
    # A proxy may change any other header.
    assert "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token," in headers["Authorization"]


def test_a_blank_in_a_query_is_no_plus(web: Web) -> None:
    """AWS signs %20, whatever a form would have."""
    web.answers = [page()]
    run("list", "--point-of-sale", "a b+c")
    assert "point_of_sale=a%20b%2Bc&" in web.sent[0].url


def test_credentials_that_last_send_no_session_token(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed(monkeypatch, session(token=None), ApiUrl=API)
    web.answers = [page()]
    assert run("list").status == 0
    assert "X-Amz-Security-Token" not in web.sent[0].headers
    check_signature(web.sent[0])


def test_credentials_are_taken_once_in_a_command(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what a profile refreshes half-way, or asks a second factor for, does not change hands."""
    temporary, taken = session(), []
    real = temporary.get_credentials()

    class Counted:
        region_name = REGION

        def get_credentials(self) -> Any:
            taken.append(1)
            return real

    deployed(monkeypatch, Counted(), ApiUrl=API)
    web.answers = [page(FREE, after="MDA="), page(FREE, after="MDE="), page(FREE)]
    assert run("list").status == 0
    assert len(taken) == 1


def test_no_credentials_are_said_to_be_missing(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody(botocore.session.Session):
        def get_credentials(self, *args: Any) -> Any:
            return None

    deployed(monkeypatch, boto3.session.Session(botocore_session=Nobody(), region_name=REGION), ApiUrl=API)
    ended = run("list")
    assert ended.status == 1
    assert "there are no AWS credentials" in ended.err
    assert web.sent == []


def test_netrc_does_not_take_the_signatures_place(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {urlsplit(API).netloc} login someone password something\n")
    monkeypatch.setenv("NETRC", str(netrc))
    web.answers = [page()]
    run("list")
    assert web.sent[0].headers["Authorization"].startswith("AWS4-HMAC-SHA256 ")


# ---------------------------------------------------------------- how it is sent


def test_a_call_has_time_limits_and_follows_no_redirect(web: Web) -> None:
    web.answers = [Answer(b"", 307, {"Location": "https://elsewhere.example/"})]
    ended = run("list")
    assert ended.status == 1
    assert "answered 307, and no JSON object" in ended.err
    assert len(web.sent) == 1
    assert web.sent_with[0]["timeout"] == (5, 35)


def test_the_environments_proxy_stands_before_aws_and_not_before_the_sandbox(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    web.answers = [page(), page()]
    run("list")
    run("list", stage="local")
    assert [dict(how["proxies"]).get("https") for how in web.sent_with] == ["http://proxy.example:3128", None]


def test_authorities_are_those_that_the_aws_command_trusts(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.answers = [page(), page(), page()]
    run("list")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/for/requests.pem")
    run("list")
    monkeypatch.setenv("AWS_CA_BUNDLE", "/for/aws.pem")
    run("list")
    assert [how["verify"] for how in web.sent_with] == [True, "/for/requests.pem", "/for/aws.pem"]


def test_an_api_that_asks_for_a_certificate_is_shown_the_one_that_was_passed(
    web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, developer: Issued
) -> None:
    passed, variable = tmp_path / "passed.pem", tmp_path / "variable.pem"
    for file in (passed, variable):
        file.write_text(developer.certificate_pem + developer.key_pem)
    web.answers = [page(), page(), page()]
    run("list")
    run("list", "--client-certificate", str(passed))
    monkeypatch.setenv("SOFTPOS_CLIENT_CERTIFICATE", str(variable))
    run("list")
    assert [how["cert"] for how in web.sent_with] == [None, str(passed), str(variable)]


def test_a_client_certificate_of_no_use_is_named_and_nothing_is_sent_or_asked(
    web: Web, tmp_path: Path, developer: Issued
) -> None:
    encrypted = developer.key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase")
    ).decode()
    file = tmp_path / "client.pem"
    for text in ("", developer.certificate_pem, developer.certificate_pem + encrypted, "not PEM"):
        file.write_text(text)
        ended = run("list", "--client-certificate", str(file))
        assert ended.status == 1
        assert "client.pem is no certificate with its key" in ended.err.replace("\n", "")
        assert "passphrase" not in ended.err
    assert web.sent == []


def test_a_client_certificate_that_is_not_there_is_a_mistake_before_anything_is_sent(web: Web, tmp_path: Path) -> None:
    ended = run("list", "--client-certificate", str(tmp_path / "none.pem"))
    assert ended.status == 2
    assert "does not exist" in ended.err
    assert web.sent == []


# ---------------------------------------------------------------- what is made of an answer

REFUSALS: dict[str, tuple[Answer, str, str]] = {
    "a problem": (
        problem(409, "terminal_held"),
        "A title. A detail. (terminal_held, request request-1)",
        "softpos terminals release, first",
    ),
    "a problem with errors": (
        problem(400, "invalid_request", ("operator", "is not an e-mail"), ("tid", "is missing")),
        "A title (invalid_request, request request-1)\n  operator: is not an e-mail\n  tid: is missing\n",
        "",
    ),
    "an operator who holds another": (
        problem(409, "operator_holds_terminal"),
        "(operator_holds_terminal, ",
        "softpos terminals move",
    ),
    "no free pair": (problem(409, "no_terminal_free"), "(no_terminal_free, ", "or import more"),
    "an unknown TID": (problem(404, "terminal_unknown"), "(terminal_unknown, ", "softpos terminals list"),
    "an operator without a pair": (problem(409, "terminal_not_assigned"), "(terminal_", "softpos terminals assign"),
    "a busy registry": (
        problem(503, "registry_busy", **{"Retry-After": "7"}),
        "(registry_busy, ",
        "try again after 7 s",
    ),
    "a failure": (
        problem(500, "internal_error"),
        "(internal_error, request request-1)",
        "the function's log for this request",
    ),
    "a code of another version": (problem(418, "teapot"), "A title. A detail. (teapot, ", ""),
    "no permission": (
        Answer({"message": "Forbidden"}, 403),
        "API Gateway answered 403 (Forbidden, request request-1)",
        f"attach the policy {POLICY} to the identity",
    ),
    "no signature": (Answer({"message": "Unauthorized"}, 401), "answered 401 (Unauthorized", f"the policy {POLICY}"),
    "no such route": (Answer({"message": "Not Found"}, 404), "answered 404 (Not Found", "deploy the template"),
    "a throttle": (Answer({"message": "Too Many Requests"}, 429), "answered 429 (Too Many", "for all callers"),
    "a throttle that says when": (
        Answer({"message": "Too Many Requests"}, 429, {"Retry-After": "30"}),
        "answered 429",
        "try again after 30 s",
    ),
    "a function that does not answer": (Answer({"message": "Service Unavailable"}, 503), "answered 503", "in a minute"),
    "a message that is none": (Answer({}, 502), "answered 502 (without a word", ""),
    "a web page": (Answer(b"<html>Sign in</html>", 200), "answered 200, and no JSON object", "proxy"),
    "JSON that is no object": (Answer(["<html>"], 200), "answered 200, and no JSON object", "proxy"),
    "JSON that is too deep": (Answer(b"[" * 100_000, 200), "answered 200, and no JSON object", "proxy"),
    "nothing": (Answer(b"", 204), "answered 204, and no JSON object", "proxy"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_refusal_is_told_with_what_to_do(what: str, web: Web) -> None:
    answer, said, remedy = REFUSALS[what]
    web.answers = [answer]
    ended = run("release", "30000001")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("softpos: ")
    assert said in ended.err
    assert remedy in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("error", [requests.ReadTimeout(), requests.ConnectionError(), OSError("no such CA bundle")])
def test_no_answer_is_told_with_what_may_have_been_done(error: Exception, web: Web) -> None:
    web.answers = [error]
    ended = run("release", "30000001")
    assert ended.status == 1
    assert f"{API} did not answer ({type(error).__name__})" in ended.err
    assert "what is asked for twice is done once" in ended.err


def test_a_stack_that_names_no_policy_is_refused_all_the_same(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed(monkeypatch, ApiUrl=API)
    web.answers = [Answer({"message": "Forbidden"}, 403)]
    ended = run("list")
    assert "API Gateway answered 403" in ended.err
    assert "attach the policy that lets the back office in to" in ended.err


# ---------------------------------------------------------------- pairs and operators

CALLS: list[tuple[tuple[str, ...], str, str, Any]] = [
    (("assign", "a@b.it", "31"), "PUT", "/v1/terminals/31/operator", {"operator": "a@b.it"}),
    (("assign", "a@b.it"), "POST", "/v1/terminals/assignments", {"operator": "a@b.it", "point_of_sale": None}),
    (
        ("assign", "a@b.it", "--point-of-sale", "7"),
        "POST",
        "/v1/terminals/assignments",
        {"operator": "a@b.it", "point_of_sale": "7"},
    ),
    (("release", "a.b_c-9"), "DELETE", "/v1/terminals/a.b_c-9/operator", None),
    (("move", "a@b.it", "31"), "POST", "/v1/terminals/moves", {"operator": "a@b.it", "tid": "31"}),
    (
        ("move", "a@b.it", "--point-of-sale", "7"),
        "POST",
        "/v1/terminals/moves",
        {"operator": "a@b.it", "point_of_sale": "7"},
    ),
]


@pytest.mark.parametrize(("arguments", "method", "path", "body"), CALLS, ids=[" ".join(each[0]) for each in CALLS])
def test_each_command_asks_for_what_it_says_and_shows_the_pair(
    arguments: tuple[str, ...], method: str, path: str, body: Any, web: Web
) -> None:
    web.answers = [Answer(FIRST), Answer(FIRST)]
    ended = run(*arguments)
    assert ended == Run(0, f"{HEADINGS}\n00012345       30000001     40000001  m.r@example.com\n", "")
    assert run(*arguments, "--json").json == FIRST
    for request in web.sent:
        assert (request.method, request.url) == (method, API + path)
        assert json.loads(request.body or "null") == body


USAGES = [
    ("move", "a@b.it"),
    ("move", "a@b.it", "31", "--point-of-sale", "7"),
    ("assign", "a@b.it", "31", "--point-of-sale", "7"),
    ("list", "--operator", "a@b.it", "--state", "held"),
    ("list", "--operator", "a@b.it", "--point-of-sale", "7"),
    ("list", "--limit", "0"),
    ("list", "--state", "lost"),
    # Each would be another path.
    ("release", ".."),
    ("release", "."),
    ("release", "31/operator"),
    ("assign", "a@b.it", "31?x"),
    ("move", "a@b.it", "x" * 33),
]


@pytest.mark.parametrize("arguments", USAGES, ids=" ".join)
def test_what_makes_no_sense_is_not_asked(arguments: tuple[str, ...], web: Web) -> None:
    ended = run(*arguments)
    assert ended.status == 2
    assert ended.err.startswith("Usage: softpos terminals ")
    assert web.sent == []


# ---------------------------------------------------------------- the list


def queries(web: Web) -> list[dict[str, str]]:
    return [{name: value for name, (value,) in parse_qs(urlsplit(each.url).query).items()} for each in web.sent]


def test_a_list_goes_on_to_its_end(web: Web) -> None:
    web.answers = [page(FIRST, after="MDA="), page(after="MDE="), page(FREE)]
    ended = run("list", "--state", "held", "--point-of-sale", "00012345", "--json")
    assert ended.json == [FIRST, FREE]
    asked = {"point_of_sale": "00012345", "state": "held", "limit": "500"}
    assert queries(web) == [asked, {**asked, "after": "MDA="}, {**asked, "after": "MDE="}]


def test_a_list_is_a_table_that_says_who_is_free(web: Web) -> None:
    web.answers = [page(FIRST, FREE)]
    assert run("list").out == (
        f"{HEADINGS}\n"
        "00012345       30000001     40000001  m.r@example.com\n"
        "00012345       30000003               free\n"
    )


def test_a_list_ends_at_its_limit_and_says_that_there_is_more(web: Web) -> None:
    web.answers = [page(*[FREE] * 500, after="MDA="), page(*[FREE] * 3, after="MDE=")]
    ended = run("list", "--limit", "503", "--json")
    assert len(ended.json) == 503
    assert [each["limit"] for each in queries(web)] == ["500", "3"]
    assert ended.err == "There are more than these 503.\n"


def test_a_list_that_is_within_its_limit_says_nothing_of_more(web: Web) -> None:
    web.answers = [page(FREE)]
    assert run("list", "--limit", "1").err == ""


def test_an_operators_pair_is_asked_for_without_a_limit(web: Web) -> None:
    """The API takes no other parameter with `operator`."""
    web.answers = [page(FIRST)]
    assert run("list", "--operator", "m.r+x@example.com", "--limit", "5", "--json").json == [FIRST]
    assert queries(web) == [{"operator": "m.r+x@example.com"}]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "The pool is empty\n"),
        (("--state", "free"), "The pool has no such pair\n"),
        (("--operator", "a@b.it"), "The pool has no such pair\n"),
        (("--json",), "[]\n"),
    ],
    ids=" ".join,
)
def test_an_empty_list_says_so(arguments: tuple[str, ...], said: str, web: Web) -> None:
    web.answers = [page()]
    assert run("list", *arguments) == Run(0, said, "")


# ---------------------------------------------------------------- imports


@pytest.mark.parametrize(
    ("given", "kind", "sent"),
    [
        (CSV, "text/csv", CSV),
        ("\ufeff" + CSV, "text/csv", CSV),
        (' \n{"pairs": [], "x": 1}', "application/json", ' \n{"pairs": [], "x": 1}'),
        ('[{"mpos_tid": "1" }]\n', "application/json", '{"pairs": [{"mpos_tid": "1" }]\n}'),
        ('\ufeff{"pairs": 1}', "application/json", '{"pairs": 1}'),
        ("", "text/csv", ""),
    ],
    ids=["CSV", "CSV with a byte order mark", "an object", "a bare list", "no list", "nothing"],
)
def test_what_the_api_takes_at_once_is_sent_as_it_is(given: str, kind: str, sent: str, web: Web) -> None:
    web.answers = [imported(2, 1)]
    assert run("import", "-", stdin=given) == Run(0, "New in the pool: 2. There already: 1\n", "")
    (request,) = web.sent
    assert (request.method, request.url) == ("POST", f"{API}/v1/terminals")
    assert request.headers["Content-Type"] == kind
    assert (request.body or b"").decode() == sent


def test_a_file_is_imported_and_told_to_machines(web: Web, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(CSV)
    web.answers = [imported(1, 1)]
    assert run("import", str(tmp_path / "pairs.csv"), "--json").json == {"imported": 1, "unchanged": 1}
    assert web.sent[0].body == CSV.encode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (CSV.encode("utf-16"), "the list is not text in UTF-8"),
        (b'[{"point_of_sale": }]', "the list is not JSON (Expecting value: line 1 column 20"),
        (b"[" * 100_000, "the list is not JSON ("),
        (CSV.encode() + b'1,"13"x,\n', "line 4 is not CSV"),
    ],
    ids=["UTF-16", "half JSON", "deep JSON", "half CSV"],
)
def test_what_is_no_list_is_not_sent(data: bytes, said: str, web: Web) -> None:
    ended = run("import", "-", stdin=data)
    assert ended.status == 1
    assert said in ended.err
    assert web.sent == []


def test_every_refused_pair_is_told_with_its_place(web: Web) -> None:
    refused = [(f"line {at}, mpos_tid", "is the softpos_tid") for at in range(2, 1002)]
    web.answers = [problem(422, "pairs_refused", *refused)]
    ended = run("import", "-", stdin=CSV)
    assert ended.status == 1
    assert [line for line in ended.err.splitlines() if line.startswith("  line")] == [
        f"  {place}: {reason}" for place, reason in refused
    ]
    assert ended.err.endswith("correct these, and send the import again\n")


# ---------------------------------------------------------------- imports that are too long for one call


def test_a_thousand_pairs_are_one_call_and_one_more_is_two(web: Web) -> None:
    thousand = lines(*(f"1,{at}," for at in range(1000)))
    web.answers = [imported(1000)]
    run("import", "-", stdin=thousand)
    web.answers = [imported(999, 1), imported(1)]
    ended = run("import", "-", stdin=thousand + "1,1000,\n")
    assert ended == Run(0, "New in the pool: 1000. There already: 1\n", ""), "and no progress in a pipe"
    whole, first, second = (pairs.from_csv(each.body.decode()) for each in web.sent)
    assert first == whole
    assert list(second.pairs) == ["line 1002"]


def as_whole(data: bytes, monkeypatch: pytest.MonkeyPatch, at_once: int) -> tuple[list[Batch], pairs.PairList]:
    """The batches, and the list as the API would read it if it took any number of pairs."""
    with monkeypatch.context() as patch:
        patch.setattr(terminals, "MAX_PAIRS", at_once)
        made = batches(data)
        patch.setattr(pairs, "MAX_PAIRS", 10_000)
        text = data.decode("utf-8-sig")
        return made, pairs.from_json(json.loads(text)) if text.startswith("{") else pairs.from_csv(text)


def joined(made: list[Batch]) -> tuple[dict[str, Any], dict[str, str]]:
    """Pairs and problems of all batches, in the places of the whole."""
    listed = [(each, each.read()) for each in made]
    return (
        {each.in_file(place): pair for each, read in listed for place, pair in read.pairs.items()},
        {each.in_file(place): reason for each, read in listed for place, reason in read.problems.items()},
    )


HEADS = ["point_of_sale,softpos_tid,mpos_tid", "Point_of_sale, mpos_tid ,softpos_tid", '"point_of_sale","softpos_tid"']
ROWS = ["1,{},", "1,,{}", '"1","{}"', '1,"{}\n",', '"1\r\n",{},', "", " ", ",,", "1", "1,{},,,", "x y,{}"]


@given(
    st.sampled_from(HEADS),
    st.lists(st.sampled_from(ROWS), min_size=1),
    st.sampled_from([",", ";"]),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 4),
)
def test_csv_in_batches_is_the_same_pairs_in_the_same_lines(
    head: str, rows: list[str], delimiter: str, end: str, at_once: int
) -> None:
    text = lines(*(row.format(at) for at, row in enumerate(rows)), head=head, end=end).replace(",", delimiter)
    assume(any(row.strip(" ,") for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        made, whole = as_whole(text.encode(), patch, at_once)
        found, wrong = joined(made)
    assert (found, wrong) == (whole.pairs, whole.problems)
    assert all(each.count <= at_once for each in made)
    assert sum(each.count for each in made) == len({place.partition(",")[0] for place in {*found, *wrong}})


CSVS = {
    "semicolons": lines("1;11;", "1;12;", "1;13;", "1;14;", "1;15;", head="point_of_sale;softpos_tid;mpos_tid"),
    "CRLF": lines("1,11", "1,12", "1,13", "1,14", "1,15", head="point_of_sale,softpos_tid", end="\r\n"),
    "CR": lines("1,11", "1,12", "1,13", "1,14", "1,15", head="point_of_sale,softpos_tid", end="\r"),
    "no last line break": lines("1,11,", "1,12,", "1,13,", "1,14,").rstrip(),
    "empty lines": lines("", "1,11,", ",,", "", "1,12,", "", "1,13,", "1,14,", "", ""),
    "a byte order mark": "\ufeff" + lines("1,11,", "1,12,", "1,13,", "1,14,"),
    "cells of two lines": lines('"1",11,', '"1\n",12,', "1,13,", '1,"14\n\n",', "1,15,"),
    "a head of two lines": lines("1,11", "1,12", "1,13", "1,14", head='"point_of_sale\n",softpos_tid'),
    "what is wrong": lines("1,11,", "1,,", "1,1 3,", "1,14,14", "1,15,", "1,15,", "1,2,3,4,5", "1,16,"),
}


@pytest.mark.parametrize("what", CSVS)
def test_csv_keeps_its_lines_with(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for at_once in (1, 2, 3):
        made, whole = as_whole(CSVS[what].encode(), monkeypatch, at_once)
        assert len(made) > 1
        found, wrong = joined(made)
        assert found == whole.pairs
        # A TID that is there twice is found by `check`, across batches.
        assert wrong == {each: why for each, why in whole.problems.items() if each in wrong}
        assert {each for each in whole.problems if "too" not in whole.problems[each]} <= set(wrong)


def test_json_keeps_its_places(monkeypatch: pytest.MonkeyPatch) -> None:
    row: list[Any] = [{"point_of_sale": "1", "mpos_tid": str(at)} for at in range(8)]
    row[4] = {"point_of_sale": "1", "tid": "x"}
    row[6] = "no pair"
    made, whole = as_whole(json.dumps({"pairs": row}).encode(), monkeypatch, 3)
    assert [each.count for each in made] == [3, 3, 2]
    assert joined(made) == (whole.pairs, whole.problems)
    assert "pairs[6]" in whole.problems


@pytest.mark.usefixtures("three_at_once")
def test_a_refusal_of_a_later_call_is_told_in_the_files_own_places(web: Web) -> None:
    listed = [{"point_of_sale": "1", "softpos_tid": str(at)} for at in range(8)]
    errors = [("pairs[1], softpos_tid", "is in pairs[0], too"), ("pairs[2]", "has 5, which the pool has")]
    web.answers = [imported(2, 1), problem(422, "pairs_refused", *errors)]
    ended = run("import", "-", stdin=json.dumps(listed))
    assert (ended.status, ended.out) == (1, "")
    assert "softpos: 3 of 8 pairs are in the pool, 2 of them new; then it ended. A title (pairs_refused" in ended.err
    assert "\n  pairs[4], softpos_tid: is in pairs[3], too\n  pairs[5]: has 5, which the pool has\n" in ended.err
    assert "the import may be sent again, all of it: pairs that are there stay as they are" in ended.err
    assert "Nothing was imported" not in ended.err


@pytest.mark.usefixtures("three_at_once")
@pytest.mark.parametrize("before", [0, 1])
def test_an_import_that_breaks_off_says_how_far_it_came(before: int, web: Web) -> None:
    web.answers = [*[imported(3)] * before, requests.ReadTimeout()]
    ended = run("import", "-", stdin=lines("1,11,", "1,12,", "1,13,", "1,14,"))
    assert ended.status == 1
    assert f"{3 * before} of 4 pairs are in the pool, {3 * before} of them new; then it ended. " in ended.err
    assert "did not answer (ReadTimeout)" in ended.err
    assert "the import may be sent again" in ended.err


@pytest.mark.usefixtures("three_at_once")
@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (
            lines("1,11,", "1,12,", "1,13,", "", "1,14,21", "1,,", "1,21,12", "1,15,"),
            [
                "line 7: has neither a softpos_tid nor an mpos_tid",
                "line 8, softpos_tid: is in line 6, too",
                "line 8, mpos_tid: is in line 3, too",
            ],
        ),
        (
            json.dumps({"pairs": [{"point_of_sale": "1", "mpos_tid": str(at % 4)} for at in range(5)]}),
            ["pairs[4], mpos_tid: is in pairs[0], too"],
        ),
        (
            lines("1,11,", "1,12,", "1,13,", "1,14,", head="point_of_sale,tid,mpos_tid"),
            ["line 1: does not name the columns point_of_sale, softpos_tid, mpos_tid, and no other"],
        ),
        (json.dumps({"pairs": [0] * 4, "more": 1}), ["more: is not known here"]),
    ],
    ids=["CSV", "JSON", "other columns", "other members"],
)
def test_what_is_wrong_in_a_long_list_is_told_before_any_of_it_is_sent(text: str, wrong: list[str], web: Web) -> None:
    ended = run("import", "-", stdin=text)
    assert ended.status == 1
    assert [line[2:] for line in ended.err.splitlines() if re.match("  [^ ]", line)] == wrong
    assert "nothing was sent" in ended.err
    assert web.sent == []
