"""AWS on this machine: moto's server, one request at a time, with the resources that template.yaml declares."""

import copy
import functools
import io
import json
import random
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any

import boto3
from moto.dynamodb.models.dynamo_type import Item, LimitedSizeDict
from moto.dynamodb.models.table import Table
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.secretsmanager.models import SecretsManagerBackend
from werkzeug import Request, Response

from sandbox.server import Server
from sandbox.template import REGION, STACK, Template

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "sandbox", "AWS_SECRET_ACCESS_KEY": "sandbox"}
API_ID = "sandbox"
"""Of the HTTP API, which is not moto's but the gateway's."""

_SIGNED_FOR = re.compile(r"Credential=[^/,\s]+/\d{8}/[^/,\s]+/([^/,\s]+)/aws4_request")


class Aws(Server):
    """A running moto server."""

    def __init__(self, port: int = 0) -> None:
        """Raises OSError when the port is in use."""
        # An account of its own: moto keeps one store for the whole process, by account.
        self.account = f"{random.SystemRandom().randrange(10**12):012}"
        self.services: dict[str, Callable[[Request], Response]] = {}
        """Who answers in moto's place, and not behind its lock, by the service that a request is signed for."""
        self._moto = one_at_a_time(DomainDispatcherApplication(create_backend_app), self.account)
        super().__init__(self._serve, port)

    @property
    def environment(self) -> dict[str, str]:
        """What makes an AWS client talk to this server and to nothing else."""
        return {
            **CREDENTIALS,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str) -> Any:
        """A boto3 client of this server, whatever the environment says."""
        return client(service, self.url)

    def create(self, template: Template) -> None:
        """Create what the template declares, and tell it the names."""
        # What moto has no part in has its names before the alarms that watch it.
        for logical_id in template.resources("AWS::Serverless::Function"):
            arn = template.function_arn(logical_id)
            template.exists(logical_id, arn.rpartition(":")[2], Arn=arn)
        for logical_id in template.resources("AWS::Serverless::HttpApi"):
            template.exists(logical_id, API_ID)
        for kind, make in _MAKERS.items():
            for logical_id, properties in template.resources(kind).items():
                make(self, template, logical_id, template.resolve(properties))

    def _serve(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        signed_for = _SIGNED_FOR.search(environ.get("HTTP_AUTHORIZATION", ""))
        answer = self.services.get(signed_for[1]) if signed_for else None
        if answer is None:
            return self._moto(environ, start_response)
        return answer(Request(environ))(environ, start_response)


@functools.cache
def client(service: str, url: str) -> Any:
    """A boto3 client of the sandbox's AWS at `url`."""
    session = boto3.session.Session(
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=REGION,
    )
    return session.client(service, endpoint_url=url)


def one_at_a_time(application: Callable[..., Iterable[bytes]], account: str) -> Callable[..., Iterable[bytes]]:
    """moto, as this account, behind a lock: in its threads, DynamoDB's conditional writes race."""
    lock = threading.Lock()

    def locked(environ: Any, start_response: Any) -> Iterable[bytes]:
        # Read before the lock is taken, lest a client that is slow to send holds up everyone.
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        environ["HTTP_X_MOTO_ACCOUNT_ID"] = account
        with lock:
            return list(application(environ, start_response))

    return locked


def _snapshot(table: Table, _memo: dict[int, Any]) -> Table:
    """What moto is to go back to when a transaction fails. It copies a table as deep as it goes, for every action of a
    transaction: with some hundred terminals, seconds. Items change in place, their attributes' values do not."""
    twin = copy.copy(table)
    twin.items = copy.copy(table.items)
    for key, found in table.items.items():
        twin.items[key] = (
            {each: _twin(item) for each, item in found.items()} if isinstance(found, dict) else _twin(found)
        )
    return twin


def _twin(item: Item) -> Item:
    twin = copy.copy(item)
    twin.attrs = LimitedSizeDict.__new__(LimitedSizeDict)
    # Past its own setter, which measures the whole item anew for every attribute.
    dict.update(twin.attrs, item.attrs)
    return twin


Table.__deepcopy__ = _snapshot


_move_label = SecretsManagerBackend.update_secret_version_stage


def _move_label_and_know_it(backend: SecretsManagerBackend, secret_id: str, *arguments: Any, **named: Any) -> Any:
    """moto goes on reading the version that was current before."""
    answer = _move_label(backend, secret_id, *arguments, **named)
    secret = backend.secrets[secret_id]
    for version_id, version in secret.versions.items():
        if "AWSCURRENT" in version["version_stages"]:
            secret.set_default_version_id(version_id)
    return answer


SecretsManagerBackend.update_secret_version_stage = _move_label_and_know_it


def _table(aws: Aws, template: Template, logical_id: str, properties: dict[str, Any]) -> None:
    dynamodb = aws.client("dynamodb")
    name = properties.get("TableName", f"{STACK}-{logical_id}")
    known = ("AttributeDefinitions", "KeySchema", "BillingMode", "GlobalSecondaryIndexes")
    table = dynamodb.create_table(TableName=name, **{each: properties[each] for each in known if each in properties})
    if "TimeToLiveSpecification" in properties:
        dynamodb.update_time_to_live(TableName=name, TimeToLiveSpecification=properties["TimeToLiveSpecification"])
    template.exists(logical_id, name, Arn=table["TableDescription"]["TableArn"])


def _secret(aws: Aws, template: Template, logical_id: str, properties: dict[str, Any]) -> None:
    arn = aws.client("secretsmanager").create_secret(Name=properties["Name"])["ARN"]
    template.exists(logical_id, arn)


def _user_pool(aws: Aws, template: Template, logical_id: str, properties: dict[str, Any]) -> None:
    # CloudFormation sets the second factors by a call of its own.
    known = {name: value for name, value in properties.items() if name != "EnabledMfas"}
    pool = aws.client("cognito-idp").create_user_pool(PoolName=f"{STACK}-{logical_id}", **known)["UserPool"]
    template.exists(logical_id, pool["Id"], Arn=pool["Arn"])


def _user_pool_client(aws: Aws, template: Template, logical_id: str, properties: dict[str, Any]) -> None:
    made = aws.client("cognito-idp").create_user_pool_client(ClientName=f"{STACK}-{logical_id}", **properties)
    template.exists(logical_id, made["UserPoolClient"]["ClientId"])


def _topic(aws: Aws, template: Template, logical_id: str, properties: dict[str, Any]) -> None:
    name = properties.get("TopicName", f"{STACK}-{logical_id}")
    arn = aws.client("sns").create_topic(Name=name)["TopicArn"]
    template.exists(logical_id, arn, TopicArn=arn, TopicName=name)


def _alarm(aws: Aws, template: Template, logical_id: str, properties: dict[str, Any]) -> None:
    name = properties.get("AlarmName", f"{STACK}-{logical_id}")
    aws.client("cloudwatch").put_metric_alarm(**{**properties, "AlarmName": name})
    template.exists(logical_id, name, Arn=f"arn:aws:cloudwatch:{REGION}:{aws.account}:alarm:{name}")


def _key(aws: Aws, template: Template, logical_id: str, properties: dict[str, Any]) -> None:
    kms = aws.client("kms")
    key = kms.create_key(Description=properties["Description"])["KeyMetadata"]
    template.exists(logical_id, key["KeyId"], Arn=key["Arn"])


def _log_group(aws: Aws, template: Template, logical_id: str, properties: dict[str, Any]) -> None:
    name = properties["LogGroupName"]
    aws.client("logs").create_log_group(logGroupName=name)
    template.exists(logical_id, name, Arn=f"arn:aws:logs:{REGION}:{aws.account}:log-group:{name}:*")


def _managed_policy(aws: Aws, template: Template, logical_id: str, properties: dict[str, Any]) -> None:
    document = json.dumps(properties["PolicyDocument"])
    policy = aws.client("iam").create_policy(PolicyName=f"{STACK}-{logical_id}", PolicyDocument=document)["Policy"]
    template.exists(logical_id, policy["Arn"])


# In the order in which they refer to one another.
_MAKERS: dict[str, Callable[[Aws, Template, str, dict[str, Any]], None]] = {
    "AWS::KMS::Key": _key,
    "AWS::Logs::LogGroup": _log_group,
    "AWS::IAM::ManagedPolicy": _managed_policy,
    "AWS::DynamoDB::Table": _table,
    "AWS::SecretsManager::Secret": _secret,
    "AWS::Cognito::UserPool": _user_pool,
    "AWS::Cognito::UserPoolClient": _user_pool_client,
    "AWS::SNS::Topic": _topic,
    "AWS::CloudWatch::Alarm": _alarm,
}
