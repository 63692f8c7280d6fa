"""Nexi and AWS that answer at once, or after a while, and look at nothing: what is left is the client's own work.

The strict Nexi and moto cost more than what is measured. These run in a process of their own: `StandIns` starts it,
`python -m benchmarks.standins` is it.
"""

import argparse
import asyncio
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from email.utils import formatdate
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from sandbox.authority import Authority
from sandbox.aws import CREDENTIALS
from sandbox.template import REGION
from softpos.nexi.jwks import EncryptionKey

ROOT = Path(__file__).parents[1]
OPERATOR = "mario.rossi@example.com"
TERMINALS, CACHE = "terminals", "cache"
PATH = os.pathsep.join([str(ROOT), str(ROOT / "layers" / "softpos")])


class StandIns:
    """A context manager: inside it both answer. `environment` is what a function needs to find them."""

    def __init__(self, nexi_ms: float = 0, aws_ms: float = 0) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="softpos-benchmarks-")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.standins", self._folder.name, str(nexi_ms), str(aws_ms)],
            env={"PATH": os.defpath, "PYTHONPATH": PATH, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._ports: dict[str, int] = json.loads(self._process.stdout.readline())
        self.environment = {
            **CREDENTIALS,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._ports['aws']}",
            "AWS_EC2_METADATA_DISABLED": "true",
            # On Lambda it is not there, and botocore signs without it.
            "BOTO_DISABLE_CRT": "true",
            "AWS_LAMBDA_FUNCTION_NAME": "benchmark",
            "POWERTOOLS_SERVICE_NAME": "softpos",
            "STAGE": "staging",
            "NEXI_BASE_URL": f"https://127.0.0.1:{self._ports['nexi']}",
            "NEXI_CA_BUNDLE": str(Path(self._folder.name) / "ca.pem"),
            "APPLICATION_SECRET_ID": "application",
            "CERTIFICATE_SECRET_ID": "certificate",
            "TERMINALS_TABLE": TERMINALS,
            "CACHE_TABLE": CACHE,
            "ENROLLMENTS_PER_MINUTE": "1000000",
        }

    def __enter__(self) -> "StandIns":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def counts(self) -> Counter[str]:
        """Calls so far, by what they were."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self._ports['aws']}/counts", timeout=10) as answer:
            return Counter(json.loads(answer.read()))


class _Server:
    def __init__(self, folder: Path, nexi_ms: float, aws_ms: float) -> None:
        self._nexi_seconds, self._aws_seconds = nexi_ms / 1000, aws_ms / 1000
        self._counts: Counter[str] = Counter()
        self._authority = Authority()
        developer = self._authority.developer("BENCHMARKS")
        (folder / "ca.pem").write_text(self._authority.certificate_pem)
        key = EncryptionKey("enc-1", rsa.generate_private_key(65537, 2048).public_key()).jwk()
        self._keys = json.dumps({"keys": [key]})
        application = {"client_id": "benchmark-app", "client_secret": "secret-of-the-benchmark"}
        self._secrets = {
            "application": {**application, "redirect_uri": "https://merchant.example/softpos"},
            "certificate": {
                "certificate": developer.certificate_pem + self._authority.certificate_pem,
                "private_key": developer.key_pem,
            },
        }
        held = {"pk": "operators", "sk": OPERATOR, "point_of_sale": "00012345", "softpos_tid": "30000001"}
        held |= {"mpos_tid": "40000001", "operator": OPERATOR, "imported": "1", "pair": "00012345#30000001"}
        self._held = json.dumps({"Item": {name: {"S": value} for name, value in held.items()}})

    async def serve(self) -> None:
        issued = self._authority.server("127.0.0.1")
        context = issued.context(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self._authority.certificate_pem)
        nexi = await asyncio.start_server(self._nexi, "127.0.0.1", 0, ssl=context, backlog=256)
        aws = await asyncio.start_server(self._aws, "127.0.0.1", 0, backlog=256)
        ports = {"nexi": nexi.sockets[0].getsockname()[1], "aws": aws.sockets[0].getsockname()[1]}
        print(json.dumps(ports), flush=True)
        await asyncio.gather(nexi.serve_forever(), aws.serve_forever())

    async def _nexi(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._counts["connection"] += 1
        await self._converse(reader, writer, self._nexi_answer, self._nexi_seconds)

    async def _aws(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._converse(reader, writer, self._aws_answer, self._aws_seconds)

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Any, seconds: float
    ) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b""
                status, payload = answer(head, body)
                if seconds:
                    await asyncio.sleep(seconds)
                writer.write(
                    f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
                    f"Date: {formatdate(usegmt=True)}\r\n\r\n{payload}".encode()
                )
        except (OSError, EOFError):
            writer.close()

    def _nexi_answer(self, head: bytes, _body: bytes) -> tuple[int, str]:
        path = head.split(b" ", 2)[1].decode()
        name = {"token": "token", "jwks.json": "keys", "par": "par"}[path.rpartition("/")[2]]
        self._counts[name] += 1
        if name == "keys":
            return 200, self._keys
        if name == "token":
            token = {"access_token": "t" * 64, "token_type": "Bearer", "expires_in": 3600}
            return 200, json.dumps(token)
        uri = f"urn:softpos_{os.urandom(16).hex()}"
        return 201, json.dumps({"request_uri": uri, "expires_in": 90})

    def _aws_answer(self, head: bytes, body: bytes) -> tuple[int, str]:
        target = re.search(rb"(?i)x-amz-target: \w+\.(\w+)", head)
        if target is None:
            return 200, json.dumps(self._counts)
        operation = target[1].decode()
        self._counts[operation] += 1
        asked = json.loads(body)
        if operation == "GetSecretValue":
            secret = self._secrets[asked["SecretId"]]
            return 200, json.dumps({"SecretString": json.dumps(secret), "VersionId": "v" * 32})
        return 200, self._held if asked["TableName"] == TERMINALS and operation == "GetItem" else "{}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("nexi_ms", type=float)
    parser.add_argument("aws_ms", type=float)
    given = parser.parse_args()
    asyncio.run(_Server(given.folder, given.nexi_ms, given.aws_ms).serve())
