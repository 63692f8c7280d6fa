"""AWS on this machine: moto's server, one request at a time, with the resources that template.yaml declares."""

import functools
import io
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from sandbox.template import REGION, STACK, Template

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "sandbox", "AWS_SECRET_ACCESS_KEY": "sandbox"}


class Aws:
    """A running moto server on 127.0.0.1."""

    def __init__(self, port: int = 0) -> None:
        """Raises OSError when the port is in use."""
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        application = one_at_a_time(DomainDispatcherApplication(create_backend_app))
        self._server = bound(port, application)
        self.port: int = self._server.port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def start(self) -> None:
        """Serve, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port. Everything that was stored is gone."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

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
        for kind, make in _MAKERS.items():
            for logical_id, properties in template.resources(kind).items():
                make(self, template, logical_id, template.resolve(properties))


@functools.cache
def client(service: str, url: str) -> Any:
    """A boto3 client of the sandbox's AWS at `url`."""
    session = boto3.session.Session(
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=REGION,
    )
    return session.client(service, endpoint_url=url)


def bound(port: int, application: Any) -> Any:
    """A threaded WSGI server on 127.0.0.1 that says OSError when the port is in use, as werkzeug's own does not."""
    with socket.create_server(("127.0.0.1", port), backlog=256) as listener:
        chosen = listener.getsockname()[1]
        return make_server(
            "127.0.0.1", chosen, application, threaded=True, request_handler=_QuietHandler, fd=listener.fileno()
        )


class _QuietHandler(WSGIRequestHandler):
    def log_request(self, *args: Any) -> None:
        """Nothing."""


def one_at_a_time(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """The WSGI application behind a lock: in moto's threads, DynamoDB's conditional writes race."""
    lock = threading.Lock()

    def locked(environ: Any, start_response: Any) -> Iterable[bytes]:
        # Read before the lock is taken, lest a client that is slow to send holds up everyone.
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        with lock:
            return list(application(environ, start_response))

    return locked


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
    pool = aws.client("cognito-idp").create_user_pool(PoolName=f"{STACK}-{logical_id}", **properties)["UserPool"]
    template.exists(logical_id, pool["Id"], Arn=pool["Arn"])


def _user_pool_client(aws: Aws, template: Template, logical_id: str, properties: dict[str, Any]) -> None:
    made = aws.client("cognito-idp").create_user_pool_client(ClientName=f"{STACK}-{logical_id}", **properties)
    template.exists(logical_id, made["UserPoolClient"]["ClientId"])


# In the order in which they refer to one another.
_MAKERS: dict[str, Callable[[Aws, Template, str, dict[str, Any]], None]] = {
    "AWS::DynamoDB::Table": _table,
    "AWS::SecretsManager::Secret": _secret,
    "AWS::Cognito::UserPool": _user_pool,
    "AWS::Cognito::UserPoolClient": _user_pool_client,
}
