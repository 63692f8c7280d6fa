"""A PAR over a connection of its own, with a resumed and with a full TLS handshake, against a kept connection."""

import os
import ssl

from benchmarks.bare import BareEnrollment
from benchmarks.measure import MEDIANS, Row, Spread, Verdict, medians, ratio, take_turns
from benchmarks.standins import StandIns
from softpos.credentials import parse_certificate
from softpos.deadline import Deadline
from softpos.nexi.client import PAR_PATH
from softpos.nexi.session import MutualTlsSession

ROUNDS = {"smallest": 5, "usual": 400}
KEPT, RESUMED, FULL = "kept connection", "own connection, resumed", "own connection, full handshake"
ASSERTION = "a" * 1800


def run(size: str) -> Row:
    """Return the row of a PAR by how it is connected."""
    with StandIns() as standins:
        os.environ.update(standins.environment)
        kept = BareEnrollment(ssl.SSLSocket)
        secret = kept.ask_aws("secretsmanager.GetSecretValue", {"SecretId": "certificate"})["SecretString"]
        session = MutualTlsSession(parse_certificate(secret), os.environ["NEXI_CA_BUNDLE"])
        url = os.environ["NEXI_BASE_URL"] + PAR_PATH
        fields = {"client_assertion": ASSERTION, "client_id": "benchmark-app", "scope": "oidc"}

        def push() -> None:
            assert session.send("POST", url, Deadline(10), form=fields).status == 201

        def push_after_a_full_handshake() -> None:
            for key in session._adapter.poolmanager.pools.keys():  # noqa: SIM118 - urllib3's container
                session._adapter.poolmanager.pools[key].session = None
            push()

        contestants = {KEPT: lambda: kept.push(ASSERTION), RESUMED: push, FULL: push_after_a_full_handshake}
        samples = take_turns(contestants, ROUNDS[size])
    pairs = zip(samples[RESUMED], samples[KEPT], strict=True)
    extra, saved = Spread.of([ours - theirs for ours, theirs in pairs]), ratio(samples, RESUMED, FULL)
    return Row(
        "connection",
        "A PAR over a connection of its own",
        "Nexi's stand-in is another process on this machine, with TLS 1.3, so both sides' work is measured, and no "
        "network. A network adds two round trips to each connection. The kept one is http.client's, with nothing "
        "around it (`benchmarks/bare.py`).",
        MEDIANS,
        medians(samples, "ms", KEPT),
        [
            Verdict("a resumed handshake against a full one", saved.median, saved.low, saved.high),
            Verdict("what an own connection adds to a kept one", extra.median, extra.low, extra.high, "ms"),
        ],
        raw={"samples": samples},
    )
