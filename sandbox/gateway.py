"""API Gateway's HTTP API on this machine: template.yaml's routes, authorizers, payload 2.0, the functions' handlers.

Where API Gateway answers by itself (401, 403, 404, 413, 500), so does this, with the same bodies.
"""

import base64
import json
import re
import time
import urllib.request
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from werkzeug import Request, Response

from sandbox.aws import API_ID, CREDENTIALS, Aws
from sandbox.environments import Environments, FunctionError
from sandbox.server import Server
from sandbox.sigv4 import ForbiddenError, verify
from sandbox.template import REGION, Route, Template

IAM = "AWS_IAM"
SIGNER = {
    "access_key": CREDENTIALS["AWS_ACCESS_KEY_ID"],
    "secret_key": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    "region": REGION,
}
"""Whom the sandbox's IAM knows: one caller, who may do everything."""

MAX_BODY_BYTES = 10 * 1024 * 1024


class Gateway(Server):
    """A running HTTP API on 127.0.0.1."""

    def __init__(self, template: Template, aws: Aws, log: Callable[[str, str], None], port: int = 0) -> None:
        """Raises OSError when the port is in use."""
        functions = template.functions()
        self._account = aws.account
        self._environments = {
            name: Environments(function, aws.environment, log) for name, function in functions.items()
        }
        self._routes = template.routes()
        self._authorizers = {
            name: JwtAuthorizer(*template.authorizer(name), aws.url)
            for name in {route.authorizer for route in self._routes if route.authorizer} - {IAM}
        }
        super().__init__(self._serve, port)

    def stop(self) -> None:
        """Close the port, and end every execution environment."""
        super().stop()
        self.cool()

    def invoke(self, function: str, event: Any, lines: list[str] | None = None) -> Any:
        """What this function's handler returns. What it logs is added to `lines`, if given. Raises FunctionError."""
        return self._environments[function].invoke(event, lines)

    def cool(self) -> None:
        """End every execution environment: the next invocation is a cold start."""
        for environments in self._environments.values():
            environments.stop()

    def _serve(self, environ: Any, start_response: Any) -> Any:
        request_id = base64.b64encode(uuid.uuid4().bytes[:10]).decode().rstrip("=") + "="
        response = self._respond(Request(environ), request_id)
        response.headers["apigw-requestid"] = request_id
        return response(environ, start_response)

    def _respond(self, request: Request, request_id: str) -> Response:
        matched = self._match(request.method, request.path)
        if matched is None:
            return _message(404, "Not Found")
        route, parameters = matched
        if (request.content_length or 0) > MAX_BODY_BYTES:
            return _message(413, "Request Entity Too Large")
        try:
            authorizer = self._authorize(request, route)
        except UnauthorizedError as error:
            return _message(401, "Unauthorized", {"www-authenticate": error.challenge})
        except ForbiddenError:
            return _message(403, "Forbidden")
        event = _event(request, route, parameters, authorizer, request_id, self._account)
        try:
            return _response(self.invoke(route.function, event))
        except (FunctionError, KeyError, TypeError, ValueError):
            return _message(500, "Internal Server Error")

    def _authorize(self, request: Request, route: Route) -> dict[str, Any] | None:
        """What the event says of the caller. Raises UnauthorizedError or ForbiddenError."""
        if route.authorizer is None:
            return None
        if route.authorizer == IAM:
            verify(request, request.get_data(), **SIGNER)
            identity = {"accessKey": SIGNER["access_key"], "accountId": self._account, "callerId": "AIDASANDBOX"}
            arn = f"arn:aws:iam::{self._account}:user/back-office"
            nobody = {"cognitoIdentity": None, "principalOrgId": None}
            return {"iam": {**identity, **nobody, "userArn": arn, "userId": "AIDASANDBOX"}}
        claims = self._authorizers[route.authorizer].claims(request.headers.get("Authorization", ""))
        return {"jwt": {"claims": claims, "scopes": None}}

    def _match(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        # The most specific route wins: more literal segments first, then a greedy one last.
        for route in sorted(self._routes, key=lambda each: (each.path.count("{"), "+}" in each.path)):
            pattern = re.sub(r"\\{(\w+)\\\+\\}", r"(?P<\1>.+)", re.escape(route.path))
            pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", pattern)
            found = re.fullmatch(pattern, path)
            if found and route.method in (method, "ANY"):
                return route, found.groupdict()
        return None


class UnauthorizedError(Exception):
    """When a bearer token is not accepted; `challenge` is for WWW-Authenticate."""

    def __init__(self, found: str = "") -> None:
        super().__init__(found)
        self.challenge = f'Bearer scope="" error="invalid_token" error_description="{found}"' if found else "Bearer"


class JwtAuthorizer:
    """What an HTTP API's JWT authorizer checks: signature, issuer, audience or client id, and times."""

    def __init__(self, issuer: str, audience: list[str], aws_url: str) -> None:
        self._issuer = issuer
        self._audience = audience
        self._aws_url = aws_url
        self._keys: KeySet | None = None

    def claims(self, authorization: str) -> dict[str, str]:
        """The verified claims, as strings. Raises UnauthorizedError."""
        token = re.sub(r"^bearer +", "", authorization, flags=re.IGNORECASE).strip()
        if not token:
            raise UnauthorizedError
        try:
            claims = jwt.decode(token, self._key_set(), algorithms=["RS256", "RS384", "RS512"]).claims
        except (JoseError, ValueError, TypeError):
            raise UnauthorizedError("the token has an invalid signature") from None
        if claims.get("iss") != self._issuer:
            raise UnauthorizedError("the token has an invalid issuer")
        audience = claims.get("aud", claims.get("client_id"))
        if not set(self._audience) & set(audience if isinstance(audience, list) else [audience]):
            raise UnauthorizedError("the token does not have a valid audience")
        now = time.time()
        if not isinstance(claims.get("exp"), int) or claims["exp"] <= now:
            raise UnauthorizedError("the token has expired")
        if claims.get("nbf", 0) > now or claims.get("iat", 0) > now + 1:
            raise UnauthorizedError("the token is not valid yet")
        return {name: _claim(value) for name, value in claims.items()}

    def _key_set(self) -> KeySet:
        if self._keys is None:
            # The issuer's own address, looked up at the sandbox's AWS.
            issuer = urlsplit(self._issuer)
            request = urllib.request.Request(
                f"{self._aws_url}{issuer.path}/.well-known/jwks.json", headers={"Host": issuer.netloc}
            )
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
                self._keys = KeySet.import_key_set(json.load(answer))
        return self._keys


def _event(
    request: Request,
    route: Route,
    parameters: dict[str, str],
    authorizer: dict[str, Any] | None,
    request_id: str,
    account: str,
) -> dict[str, Any]:
    now = datetime.now(UTC)
    query = request.query_string.decode("ascii", "replace")
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": route.key,
        "rawPath": request.path,
        "rawQueryString": query,
        "headers": {
            name.lower(): ",".join(request.headers.getlist(name))
            for name in {each.lower() for each, _ in request.headers}
        },
        "requestContext": {
            "accountId": account,
            "apiId": API_ID,
            "domainName": request.host,
            "domainPrefix": "sandbox",
            "http": {
                "method": request.method,
                "path": request.path,
                "protocol": "HTTP/1.1",
                "sourceIp": request.remote_addr,
                "userAgent": request.headers.get("User-Agent", ""),
            },
            "requestId": request_id,
            "routeKey": route.key,
            "stage": "$default",
            "time": now.strftime("%d/%b/%Y:%H:%M:%S +0000"),
            "timeEpoch": int(now.timestamp() * 1000),
        },
        "isBase64Encoded": False,
    }
    if authorizer is not None:
        event["requestContext"]["authorizer"] = authorizer
    if query:
        event["queryStringParameters"] = {name: ",".join(request.args.getlist(name)) for name in request.args}
    if parameters:
        event["pathParameters"] = parameters
    body = request.get_data()
    if body:
        event["body"], event["isBase64Encoded"] = _body(body, request.mimetype)
    return event


def _body(body: bytes, mimetype: str) -> tuple[str, bool]:
    """As API Gateway hands it over: text as it is, everything else in base64."""
    if mimetype.startswith("text/") or mimetype in ("application/json", "application/javascript", "application/xml"):
        try:
            return body.decode(), False
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode(), True


def _response(result: dict[str, Any]) -> Response:
    body = result.get("body", "")
    payload = base64.b64decode(body) if result.get("isBase64Encoded") else body.encode()
    return Response(payload, status=int(result["statusCode"]), headers=result.get("headers", {}))


def _message(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps({"message": message})
    return Response(body, status=status, headers={"content-type": "application/json", **(headers or {})})


def _claim(value: Any) -> str:
    if isinstance(value, list):
        return "[" + " ".join(_claim(each) for each in value) + "]"
    return json.dumps(value) if isinstance(value, bool | dict) else str(value)
