"""What one would write in an afternoon: everything imported and made at module level, everything asked for in place.

Same libraries as softpos, same answers, same rules of Nexi's; secrets, token and keys are kept for as long as the
execution environment lives. No shared cache, no retries, no deadline.
"""

import json
import os
import tempfile
import time
import uuid
from typing import Any

import boto3
import requests
from aws_lambda_powertools import Logger, Metrics
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from jose import jwe, jwt

logger = Logger(service="naive")
metrics = Metrics(namespace="naive", service="naive")
dynamodb = boto3.resource("dynamodb")
terminals = dynamodb.Table(os.environ["TERMINALS_TABLE"])
counts = dynamodb.Table(os.environ["CACHE_TABLE"])
secrets = boto3.client("secretsmanager")
session = requests.Session()
session.verify = os.environ["NEXI_CA_BUNDLE"]
BASE_URL = os.environ["NEXI_BASE_URL"]
held: dict[str, Any] = {}


def _secret(name: str) -> dict[str, str]:
    secret: dict[str, str] = json.loads(secrets.get_secret_value(SecretId=os.environ[name])["SecretString"])
    return secret


def _prepare() -> None:
    application, certificate = _secret("APPLICATION_SECRET_ID"), _secret("CERTIFICATE_SECRET_ID")
    x509.load_pem_x509_certificates(certificate["certificate"].encode())
    serialization.load_pem_private_key(certificate["private_key"].encode(), None)
    with tempfile.NamedTemporaryFile("w", suffix=".pem", delete=False) as file:
        file.write(certificate["certificate"] + certificate["private_key"])
    session.cert = file.name
    grant = {"grant_type": "client_credentials", "client_id": application["client_id"]}
    answer = session.post(
        f"{BASE_URL}/softpos/appenrollment/token",
        data={**grant, "client_secret": application["client_secret"]},
        timeout=10,
    )
    answer.raise_for_status()
    keys = session.get(f"{BASE_URL}/softpos/par/jwks.json", timeout=10).json()["keys"]
    key = next(each for each in keys if each["use"] == "enc")
    held.update(
        application=application, private=certificate["private_key"], token=answer.json()["access_token"], key=key
    )


@logger.inject_lambda_context
@metrics.log_metrics
def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """What softpos's handler answers."""
    operator = event["requestContext"]["authorizer"]["jwt"]["claims"]["email"]
    pair = terminals.get_item(Key={"pk": "operators", "sk": operator}, ConsistentRead=True)["Item"]
    counts.update_item(
        Key={"id": f"naive#{operator}#{int(time.time()) // 60}"},
        UpdateExpression="ADD admitted :one",
        ExpressionAttributeValues={":one": 1},
    )
    if not held:
        _prepare()
    application, now = held["application"], int(time.time()) - 5
    claims = {
        "appId": application["client_id"],
        "pointOfSale": pair["point_of_sale"],
        "terminal_ids": [pair[tid] for tid in ("softpos_tid", "mpos_tid") if tid in pair],
        "app_username_merchant": operator,
        "app_deviceid": json.loads(event["body"])["device_id"],
        "iss": application["client_id"],
        "sub": application["client_id"],
        "aud": BASE_URL,
        "iat": now,
        "exp": now + 300,
        "jti": str(uuid.uuid4()),
    }
    signed = jwt.encode(claims, held["private"], algorithm="RS256")
    sealed = jwe.encrypt(
        signed, held["key"], algorithm="RSA-OAEP-256", encryption="A128CBC-HS256", kid=held["key"]["kid"]
    ).decode()
    answer = session.post(
        f"{BASE_URL}/softpos/as/par",
        data={
            "client_assertion": sealed,
            "client_id": application["client_id"],
            "scope": application["scope"],
            "redirect_uri": application["redirect_uri"],
        },
        headers={"Authorization": f"Bearer {held['token']}"},
        timeout=10,
    )
    answer.raise_for_status()
    metrics.add_metric("Enrolled", "Count", 1)
    logger.info("enrolled")
    return {"statusCode": 201, "headers": {"content-type": "application/json"}, "body": json.dumps(answer.json())}
