"""SnapStart: of one snapshot, no two environments make the same random number, or share a connection."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sandbox.aws import CREDENTIALS
from sandbox.environments import LAYER
from sandbox.template import REGION

CLONE = Path(__file__).parent / "snapshot_clone.py"
CHILDREN = 6


class Aws(BaseHTTPRequestHandler):
    """A DynamoDB without tables, that keeps connections open, as AWS does and moto's server does not."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "17")
        self.end_headers()
        self.wfile.write(b'{"TableNames":[]}')

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Aws) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def clones(aws: str, how: str) -> dict[str, Any]:
    """What the copies of one snapshot did, having been restored or just having gone on."""
    aws_environment = {**CREDENTIALS, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION, "AWS_ENDPOINT_URL": aws}
    run = subprocess.run(
        [sys.executable, CLONE, how, str(CHILDREN)],
        env={**aws_environment, "PYTHONPATH": str(LAYER), "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    told: dict[str, Any] = json.loads(run.stdout)
    return told


def segments(sealed: str) -> list[bytes]:
    return [base64.urlsafe_b64decode(each + "=" * (-len(each) % 4)) for each in sealed.split(".")]


def mask(seed: bytes, length: int) -> bytes:
    """MGF1 with SHA-256 (RFC 8017, appendix B.2.1)."""
    counters = range(-(-length // 32))
    return b"".join(hashlib.sha256(seed + each.to_bytes(4, "big")).digest() for each in counters)[:length]


def opened(encrypted_key: bytes, n: int, d: int) -> tuple[bytes, bytes]:
    """The seed and the content encryption key inside an RSA-OAEP-256 block (RFC 8017, section 7.1.2)."""
    block = pow(int.from_bytes(encrypted_key, "big"), d, n).to_bytes(256, "big")
    masked_seed, masked_data = block[1:33], block[33:]
    seed = bytes(a ^ b for a, b in zip(masked_seed, mask(masked_data, 32), strict=True))
    data = bytes(a ^ b for a, b in zip(masked_data, mask(seed, len(masked_data)), strict=True))
    return seed, data[32:].partition(b"\x01")[2]


def drawn(told: dict[str, Any]) -> dict[str, set[bytes]]:
    """Each kind of random number, as all copies have made it."""
    found: dict[str, set[bytes]] = {"jti": set(), "OAEP seed": set(), "CEK": set(), "IV": set()}
    for child in told["children"]:
        _, encrypted_key, iv, *_ = segments(child["sealed"])
        seed, cek = opened(encrypted_key, told["n"], told["d"])
        assert (len(seed), len(cek), len(iv)) == (32, 32, 16)
        for kind, value in (("jti", child["jti"].encode()), ("OAEP seed", seed), ("CEK", cek), ("IV", iv)):
            found[kind].add(value)
    return found


@pytest.fixture(scope="module")
def restored(aws: str) -> dict[str, Any]:
    return clones(aws, "restore")


@pytest.mark.parametrize("kind", ["jti", "OAEP seed", "CEK", "IV"])
def test_no_two_copies_draw_the_same(restored: dict[str, Any], kind: str) -> None:
    assert len(drawn(restored)[kind]) == CHILDREN


def test_without_a_new_seed_all_copies_would_have_one_oaep_seed(aws: str) -> None:
    """So the test above can fail: OpenSSL inside the wheel goes on as the snapshot left it."""
    found = drawn(clones(aws, "just go on"))
    assert {kind: len(values) for kind, values in found.items()} == {
        "jti": CHILDREN,
        "OAEP seed": 1,
        "CEK": CHILDREN,
        "IV": CHILDREN,
    }


def test_no_copy_has_a_connection_of_the_snapshots(restored: dict[str, Any]) -> None:
    assert restored["connected"], "there was one to drop"
    assert restored["frozen"] == []
    everyones = [set(child["sockets"]) for child in restored["children"]]
    assert all(everyones)
    assert len(set.union(*everyones)) == sum(len(each) for each in everyones)
