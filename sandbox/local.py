"""The whole of it: Nexi, AWS and the API, wired together by template.yaml, with one app, a pool and two operators."""

import csv
import json
import os
import secrets
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from sandbox.authority import Authority
from sandbox.aws import Aws, client
from sandbox.control import Control
from sandbox.control_plane import ControlPlane
from sandbox.gateway import SIGNER, Gateway
from sandbox.nexi import Nexi
from sandbox.portal import Portal
from sandbox.rules import App
from sandbox.sigv4 import sign
from sandbox.template import Template

TEMPLATE = Path(__file__).parent.parent / "template.yaml"

OPERATOR = "mario.rossi@example.com"
"""Holds the first pair of the pool."""
SECOND_OPERATOR = "anna.bianchi@example.com"
"""Holds none."""
PASSWORD = "Sandbox-1234"  # noqa: S105 - of operators that exist on this machine alone
POINT_OF_SALE = "00012345"
SOFTPOS_TID = "30000001"
MPOS_TID = "40000001"
POOL = f"""\
point_of_sale,softpos_tid,mpos_tid
{POINT_OF_SALE},{SOFTPOS_TID},{MPOS_TID}
{POINT_OF_SALE},30000002,40000002
{POINT_OF_SALE},30000003,
00067890,30000004,
"""


class PortInUseError(Exception):
    """When a server cannot have its port."""


class LocalStack:
    """A context manager: inside it everything runs, outside nothing does. Port 0 means any free one."""

    def __init__(
        self,
        *,
        api_port: int = 0,
        nexi_port: int = 0,
        aws_port: int = 0,
        control_port: int = 0,
        parameters: Mapping[str, str] | None = None,
        signer: Literal["certificate", "kms"] = "certificate",
        log: Callable[[str, str], None] = lambda _source, _line: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`parameters` are template.yaml's; those that say where Nexi is and who signs are set here.

        With the signer `kms`, a key that was born there signs, and its certificate is registered beside the other.
        """
        self._signer = signer
        self._parameters = parameters or {}
        self._ports = {"API_PORT": api_port, "NEXI_PORT": nexi_port, "AWS_PORT": aws_port, "CONTROL_PORT": control_port}
        self._log = log
        self._now = now
        self._running = ExitStack()

    def __enter__(self) -> "LocalStack":
        with ExitStack() as starting:
            self._start(starting)
            self._running = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._running.close()

    def _start(self, running: ExitStack) -> None:
        self.authority = Authority()
        self.developer = self.authority.developer("SANDBOX")
        self.app = App(
            client_id="sandbox-app",
            client_secret=secrets.token_urlsafe(24),
            redirect_uri="https://merchant.example/softpos",
            points_of_sale=_points_of_sale(),
            operators={OPERATOR, SECOND_OPERATOR},
        )
        self.app.register(self.developer.certificate, self.developer.thumbprint)
        self.nexi: Nexi = self._serve(
            running, "NEXI_PORT", lambda port: Nexi(self.authority, [self.app], port, self._now)
        )
        self.portal = Portal(self.authority, self.app)
        self.control: Control = self._serve(running, "CONTROL_PORT", lambda port: Control(self.nexi, self.portal, port))
        self.aws: Aws = self._serve(running, "AWS_PORT", Aws)

        folder = running.enter_context(tempfile.TemporaryDirectory(prefix="softpos-"))
        self.authority_file = Path(folder) / "nexi-ca.pem"
        self.authority_file.write_text(self.authority.certificate_pem)
        parameters = {"NexiBaseUrl": self.nexi.base_url, "NexiCaBundle": str(self.authority_file)}
        self.signing_certificate: str | None = None
        if self._signer == "kms":
            parameters["SigningKeyId"] = self._create_signing_key()
        self.template = Template(TEMPLATE, {**self._parameters, **parameters}, self.aws.account)
        self.aws.create(self.template)
        self.outputs = self.template.outputs()
        self._store_secrets()
        self.gateway: Gateway = self._serve(
            running, "API_PORT", lambda port: Gateway(self.template, self.aws, self._log, port)
        )
        self.aws.services.update(ControlPlane(self.template, self.gateway, self.aws.account).services)
        self._fill()

    def _serve(self, running: ExitStack, variable: str, make: Callable[[int], Any]) -> Any:
        port = self._ports[variable]
        try:
            server = make(port)
        except OSError as error:
            # Not the next one: that may be another's default.
            other = port + 1000 if port < 60_000 else port - 1000
            raise PortInUseError(
                f"{variable}: port {port} on 127.0.0.1 cannot be had ({os.strerror(error.errno or 0).lower()}). "
                f"Stop what listens there, or choose another: make run {variable}={other}"
            ) from error
        server.start()
        running.callback(server.stop)
        return server

    def _create_signing_key(self) -> str:
        """The id of a new key in KMS, whose certificate Nexi has."""
        kms = self.aws.client("kms")
        key_id: str = kms.create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
        public_key = load_der_public_key(kms.get_public_key(KeyId=key_id)["PublicKey"])
        assert isinstance(public_key, rsa.RSAPublicKey)
        certificate = self.authority.certify("SANDBOX", public_key)
        self.app.register(certificate, certificate.fingerprint(hashes.SHA256()).hex())
        self.signing_certificate = certificate.public_bytes(serialization.Encoding.PEM).decode()
        return key_id

    def _store_secrets(self) -> None:
        self.put_secret(
            "ApplicationSecretId",
            {
                "client_id": self.app.client_id,
                "client_secret": self.app.client_secret,
                "redirect_uri": self.app.redirect_uri,
                "scope": "oidc",
            },
        )
        self.put_secret(
            "CertificateSecretId",
            {
                "certificate": self.developer.certificate_pem + self.authority.certificate_pem,
                "private_key": self.developer.key_pem,
                **({"signing_certificate": self.signing_certificate} if self.signing_certificate else {}),
            },
        )

    def _fill(self) -> None:
        """As the merchant does: the pool and its first holder by the back office's API, operators by the user pool, and
        someone to hear the alarms."""
        self.back_office("POST", "/v1/terminals", POOL.encode(), "text/csv")
        self.back_office("PUT", f"/v1/terminals/{SOFTPOS_TID}/operator", json.dumps({"operator": OPERATOR}).encode())
        self.aws.client("sns").subscribe(
            TopicArn=self.outputs["AlarmTopicArn"], Protocol="email", Endpoint="on-call@merchant.example"
        )
        if "OperatorsPoolId" in self.outputs:
            for operator in (OPERATOR, SECOND_OPERATOR):
                self.add_operator(operator)

    def back_office(self, method: str, path: str, body: bytes = b"", content_type: str = "application/json") -> Any:
        """What the terminals API answers to a signed request. Raises urllib's HTTPError for a problem."""
        url = self.gateway.url + path
        headers = sign(method, url, body, {"Content-Type": content_type}, **SIGNER)
        request = urllib.request.Request(url, body, headers, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return json.loads(answer.read() or "null")

    def put_secret(self, output: str, value: dict[str, str]) -> None:
        """Store a new version of the secret that this output of the stack names."""
        self.aws.client("secretsmanager").put_secret_value(
            SecretId=self.outputs[output], SecretString=json.dumps(value)
        )

    def add_operator(self, email: str) -> None:
        """Let someone sign in, as an administrator would."""
        cognito = self.aws.client("cognito-idp")
        pool = self.outputs["OperatorsPoolId"]
        attributes = [{"Name": "email", "Value": email}, {"Name": "email_verified", "Value": "true"}]
        cognito.admin_create_user(UserPoolId=pool, Username=email, UserAttributes=attributes, MessageAction="SUPPRESS")
        cognito.admin_set_user_password(UserPoolId=pool, Username=email, Password=PASSWORD, Permanent=True)

    def token(self, email: str = OPERATOR) -> str:
        """A bearer token: the ID token of an operator who signs in."""
        return bearer_token(self.aws.url, email)


def bearer_token(aws_url: str, email: str = OPERATOR) -> str:
    """Sign in at the sandbox's AWS, wherever it was started. Raises botocore's errors."""
    cognito = client("cognito-idp", aws_url)
    (pool,) = cognito.list_user_pools(MaxResults=10)["UserPools"]
    (app,) = cognito.list_user_pool_clients(UserPoolId=pool["Id"], MaxResults=10)["UserPoolClients"]
    answer = cognito.admin_initiate_auth(
        UserPoolId=pool["Id"],
        ClientId=app["ClientId"],
        AuthFlow="ADMIN_USER_PASSWORD_AUTH",
        AuthParameters={"USERNAME": email, "PASSWORD": PASSWORD},
    )
    token: str = answer["AuthenticationResult"]["IdToken"]
    return token


def _points_of_sale() -> dict[str, dict[str, str]]:
    """The pool as Nexi's portal has it."""
    known: dict[str, dict[str, str]] = {}
    for pair in csv.DictReader(POOL.splitlines()):
        terminals = {pair["softpos_tid"]: "softpos", pair["mpos_tid"]: "mpos"}
        known.setdefault(pair["point_of_sale"], {}).update({tid: kind for tid, kind in terminals.items() if tid})
    return known
