"""The limit of a warm enrollment: a script that makes the same three calls with the standard library and cryptography.

It checks nothing, mends nothing, and tries nothing twice: token, keys and table are as they were on the first day.
Signature Version 4 is written out for DynamoDB, with the day's key at hand.
"""

import hashlib
import hmac
import http.client
import json
import os
import ssl
import tempfile
import time
import urllib.parse
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.assertion import bare
from softpos.credentials import parse_certificate
from softpos.nexi.jwks import usable_keys

_FORM = "application/x-www-form-urlencoded"


class BareEnrollment:
    """Ready to enroll: secrets, token and keys are in hand, and two connections are open."""

    def __init__(self, socket_class: type[ssl.SSLSocket]) -> None:
        """`socket_class` is what Nexi's connection is to be made of: one that tells how long it waited."""
        self._host = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
        self._aws = http.client.HTTPConnection(self._host)
        day = f"{datetime.now(UTC):%Y%m%d}"
        self._scope = f"{day}/{os.environ['AWS_REGION']}/dynamodb/aws4_request"
        key = b"AWS4" + os.environ["AWS_SECRET_ACCESS_KEY"].encode()
        for part in self._scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        self._signing_key = key
        application = self._secret("application")
        self._client_id, self._redirect_uri = application["client_id"], application["redirect_uri"]
        certificate = parse_certificate(json.dumps(self._secret("certificate")))
        self._private_key = certificate.private_key
        context = ssl.create_default_context(cafile=os.environ["NEXI_CA_BUNDLE"])
        context.sslsocket_class = socket_class
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            Path(file.name).write_bytes(certificate.chain_pem + certificate.key_pem)
            context.load_cert_chain(file.name)
        self._base_url = os.environ["NEXI_BASE_URL"]
        self._nexi = http.client.HTTPSConnection(self._base_url.removeprefix("https://"), context=context)
        grant = {"grant_type": "client_credentials", "client_id": self._client_id}
        token = self._ask_nexi("POST", "/softpos/appenrollment/token", {**grant, "client_secret": "secret"})
        self._bearer = {"Authorization": f"Bearer {json.loads(token)['access_token']}"}
        (self._key,) = usable_keys(self._ask_nexi("GET", "/softpos/par/jwks.json"))

    def enroll(self, event: dict[str, Any]) -> dict[str, Any]:
        """What the handler answers to the event."""
        operator = event["requestContext"]["authorizer"]["jwt"]["claims"]["email"]
        device_id = json.loads(event["body"])["device_id"]
        key = {"pk": {"S": "operators"}, "sk": {"S": operator}}
        asked = {"TableName": os.environ["TERMINALS_TABLE"], "Key": key, "ConsistentRead": True}
        held = self.ask_aws("DynamoDB_20120810.GetItem", asked)["Item"]
        minute = int(time.time()) // 60
        self.ask_aws(
            "DynamoDB_20120810.UpdateItem",
            {
                "TableName": os.environ["CACHE_TABLE"],
                "Key": {"id": {"S": f"limit#{operator}#{minute}"}},
                "UpdateExpression": "SET expires_at = :expires ADD admitted :one",
                "ConditionExpression": "attribute_not_exists(admitted) OR admitted < :limit",
                "ExpressionAttributeValues": {
                    ":expires": {"N": str(60 * minute + 120)},
                    ":one": {"N": "1"},
                    ":limit": {"N": "1000000"},
                },
            },
        )
        pushed = json.loads(self.push(self.assertion(held, operator, device_id)))
        print(json.dumps({"level": "INFO", "message": "enrollment pushed", "operator": operator}))
        body = {"request_uri": pushed["request_uri"], "expires_in": pushed["expires_in"]}
        return {"statusCode": 201, "headers": {"content-type": "application/json"}, "body": json.dumps(body)}

    def assertion(self, held: dict[str, Any], operator: str, device_id: str) -> str:
        now = int(time.time()) - 5
        claims = {
            "appId": self._client_id,
            "pointOfSale": held["point_of_sale"]["S"],
            "terminal_ids": [held["softpos_tid"]["S"], held["mpos_tid"]["S"]],
            "app_username_merchant": operator,
            "app_deviceid": device_id,
            "iss": self._client_id,
            "sub": self._client_id,
            "aud": self._base_url,
            "iat": now,
            "exp": now + 300,
            "jti": str(uuid.uuid4()),
        }
        return bare(claims, self._private_key, self._key)

    def push(self, assertion: str) -> bytes:
        fields = {"client_assertion": assertion, "client_id": self._client_id, "scope": "oidc"}
        return self._ask_nexi("POST", "/softpos/as/par", {**fields, "redirect_uri": self._redirect_uri}, self._bearer)

    def ask_aws(self, target: str, body: dict[str, Any]) -> Any:
        payload = json.dumps(body)
        at = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        digest = hashlib.sha256(payload.encode()).hexdigest()
        signed = "host;x-amz-date;x-amz-target"
        canonical = f"POST\n/\n\nhost:{self._host}\nx-amz-date:{at}\nx-amz-target:{target}\n\n{signed}\n{digest}"
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{at}\n{self._scope}\n{hashed}"
        signature = hmac.digest(self._signing_key, to_sign.encode(), "sha256").hex()
        credential = f"{os.environ['AWS_ACCESS_KEY_ID']}/{self._scope}"
        headers = {
            "Content-Type": "application/x-amz-json-1.0",
            "X-Amz-Date": at,
            "X-Amz-Target": target,
            "Authorization": f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={signed}, Signature={signature}",
        }
        self._aws.request("POST", "/", payload, headers)
        return json.loads(self._aws.getresponse().read())

    def _secret(self, name: str) -> dict[str, str]:
        answer = self.ask_aws("secretsmanager.GetSecretValue", {"SecretId": name})
        secret: dict[str, str] = json.loads(answer["SecretString"])
        return secret

    def _ask_nexi(
        self, method: str, path: str, form: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> bytes:
        body = urllib.parse.urlencode(form) if form else None
        self._nexi.request(method, path, body, {"Content-Type": _FORM, **(headers or {})})
        return self._nexi.getresponse().read()
