"""The control port of the sandbox's Nexi, and the specification of its faults."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from sandbox.authority import Authority
from sandbox.control import Control
from sandbox.faults import KINDS, Faults
from sandbox.nexi import Nexi
from sandbox.portal import Portal
from sandbox.rules import App


@pytest.fixture(scope="module")
def nexi() -> Iterator[Nexi]:
    running = Nexi(Authority(), [App("app", "secret")])
    running.start()
    yield running
    running.stop()


@pytest.fixture
def url(nexi: Nexi) -> Iterator[str]:
    control = Control(nexi, Portal(Authority(), nexi.apps[0]))
    control.start()
    yield control.url
    control.stop()
    nexi.faults.clear()
    nexi.clock_offset = 0.0


def ask(method: str, url: str, body: str = "", **headers: str) -> tuple[int, Any]:
    with requests.Session() as session:
        session.trust_env = False
        answer = session.request(method, url, data=body, headers=headers, timeout=5)
    return answer.status_code, answer.json() if answer.ok else answer.text


def test_it_tells_what_was_counted_and_what_is_waiting(url: str, nexi: Nexi) -> None:
    nexi.counts["call par"] += 3
    status, told = ask("GET", f"{url}/")
    assert status == 200
    assert told["counts"]["call par"] == nexi.counts["call par"]
    assert (told["faults"], told["clock_offset_seconds"]) == ([], 0.0)


def test_faults_are_lined_up_and_cleared(url: str) -> None:
    assert ask("POST", f"{url}/faults", "par:status=503*2, token:stall")[1]["faults"] == [
        "par:status=503*2",
        "token:stall*1",
    ]
    assert ask("DELETE", f"{url}/faults")[1]["faults"] == []


def test_nexis_clock_is_set(url: str, nexi: Nexi) -> None:
    before = nexi.now()
    assert ask("POST", f"{url}/clock", "-30")[1]["clock_offset_seconds"] == -30
    assert nexi.now() < before - 29


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("POST", "/faults", "par", "ENDPOINT:KIND"),
        ("POST", "/faults", "pair:status", "none of the endpoints"),
        ("POST", "/faults", "par:explode", "none of the faults"),
        ("POST", "/faults", "par:status*0", "no times"),
        ("POST", "/clock", "soon", "soon"),
        ("POST", "/clock", "nan", "no number"),
        ("GET", "/elsewhere", "", "POST /faults"),
    ],
    ids=["no-kind", "no-such-endpoint", "no-such-kind", "no-times", "no-number", "nan", "no-such-path"],
)
def test_what_it_does_not_understand_gets_a_sentence(url: str, method: str, path: str, body: str, said: str) -> None:
    status, told = ask(method, url + path, body)
    assert status == 400
    assert said in told


@pytest.mark.parametrize("headers", [{"Host": "attacker.example"}, {"Origin": "http://attacker.example"}])
def test_a_page_in_a_browser_cannot_use_it(url: str, nexi: Nexi, headers: dict[str, str]) -> None:
    assert ask("POST", f"{url}/faults", "par:status", **headers)[0] == 403
    assert json.dumps([str(fault) for fault in nexi.faults]) == "[]"


def test_faults_are_played_in_order_where_they_belong_and_as_often_as_asked() -> None:
    faults = Faults()
    faults.add("par:html*2,any:empty,token:close")
    taken = [faults.take(endpoint) for endpoint in ("par", "par", "token", "token", "keys", "par")]
    assert [fault and fault.kind for fault in taken] == ["html", "html", "empty", "close", None, None]


def test_every_kind_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()
    assert [kind for kind in KINDS if f"`{kind}" not in text] == []
