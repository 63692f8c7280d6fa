"""A stack of ours, as the AWS credentials of this machine see it."""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from softpos.aws import error_code
from softpos.errors import SoftposError
from softpos.settings import Settings, forget_key_log

if TYPE_CHECKING:
    from boto3.session import Session

Stage = Literal["staging", "production", "local"]

STAGES: tuple[Stage, ...] = ("staging", "production", "local")

FUNCTION = "EnrollmentFunction"
"""The function whose environment says what the stack is configured with. All have that, and some a little more."""

# What `make run` starts: the sandbox's own names.
LOCAL_STACK = "softpos"
LOCAL_REGION = "eu-south-1"
LOCAL_CREDENTIALS = ("sandbox", "sandbox")
LOCAL_AWS_PORT = "4566"


class CommandError(SoftposError):
    """When a command cannot do what it was asked to. The message says what was found, the remedy what to do."""


class AwsError(CommandError):
    """When AWS refuses a call or cannot be reached."""


ALIAS = "live"
"""What is called: the alias of the version that a deployment has arrived at."""


@dataclass(frozen=True, slots=True)
class Function:
    """A deployed function: its name, and what Lambda says of its state and of its last update."""

    name: str
    state: str
    last_update: str
    stale: bool = False
    """Whether its alias has other code, layers or environment than the stack gave it last."""


class Deployment:
    """One stage's stack. Nothing is asked of AWS before it is needed, and nothing twice."""

    def __init__(
        self, stage: Stage, stack: str | None = None, profile: str | None = None, region: str | None = None
    ) -> None:
        self.stage: Stage = stage
        self.stack = stack or (LOCAL_STACK if stage == "local" else f"softpos-{stage}")
        self._profile = profile
        self._region = region
        self._clients: dict[str, Any] = {}

    @property
    def nexi_stage(self) -> Literal["staging", "production"]:
        """Which of Nexi's environments: the sandbox plays staging."""
        return "production" if self.stage == "production" else "staging"

    @functools.cached_property
    def session(self) -> "Session":
        """Credentials and region. Raises AwsError when the profile does not exist or no region is set."""
        import boto3

        forget_key_log()
        if self.stage == "local":
            return boto3.session.Session(*LOCAL_CREDENTIALS, region_name=LOCAL_REGION)
        with translated():
            session = boto3.session.Session(profile_name=self._profile, region_name=self._region)
        if not session.region_name:
            raise AwsError("no AWS region is set", "pass --region, set AWS_REGION, or configure one in the profile")
        return session

    def client(self, service: str) -> Any:
        """A boto3 client for this account and region, or for the sandbox's AWS."""
        if service not in self._clients:
            self._clients[service] = self._new_client(service)
        return self._clients[service]

    def _new_client(self, service: str) -> Any:
        from botocore.config import Config

        # Its stubs know each service by a signature of its own.
        session: Any = self.session
        if self.stage != "local":
            with translated():
                return session.client(service, config=Config(connect_timeout=5, read_timeout=30))
        endpoint = f"http://127.0.0.1:{os.environ.get('AWS_PORT') or LOCAL_AWS_PORT}"
        # No proxy stands between this machine and itself.
        config = Config(connect_timeout=5, read_timeout=30, proxies={}, retries={"total_max_attempts": 1})
        return session.client(service, endpoint_url=endpoint, config=config)

    @functools.cached_property
    def description(self) -> dict[str, Any]:
        """What CloudFormation says of the stack. Raises AwsError."""
        with translated():
            try:
                answer = self.client("cloudformation").describe_stacks(StackName=self.stack)
            except Exception as error:
                if error_code(error) != "ValidationError":
                    raise
                raise AwsError(
                    f"there is no stack {self.stack} in {self.session.region_name}", self._stack_remedy
                ) from error
        description: dict[str, Any] = answer["Stacks"][0]
        return description

    @property
    def _stack_remedy(self) -> str:
        if self.stage == "local":
            return "start it: make run"
        return "deploy it, or pass its name with --stack, and check --profile and --region"

    @functools.cached_property
    def parameters(self) -> dict[str, str]:
        """The stack's parameters, by name."""
        return {each["ParameterKey"]: each["ParameterValue"] for each in self.description.get("Parameters", [])}

    @functools.cached_property
    def outputs(self) -> dict[str, str]:
        """The stack's outputs, by name."""
        return {each["OutputKey"]: each["OutputValue"] for each in self.description.get("Outputs", [])}

    def output(self, name: str) -> str:
        """One of them. Raises CommandError when this stack has none of that name."""
        if name not in self.outputs:
            raise CommandError(
                f"the stack {self.stack} has no output {name}", "deploy the template of this version of softpos"
            )
        return self.outputs[name]

    @functools.cached_property
    def resources(self) -> dict[str, tuple[str, str]]:
        """The stack's resources: type and physical id, by logical id."""
        with translated():
            pages = self.client("cloudformation").get_paginator("list_stack_resources")
            return {
                each["LogicalResourceId"]: (each["ResourceType"], each.get("PhysicalResourceId", ""))
                for page in pages.paginate(StackName=self.stack)
                for each in page["StackResourceSummaries"]
            }

    def named(self, kind: str) -> list[str]:
        """Physical ids of the resources of this type."""
        return [name for each, name in self.resources.values() if each == kind]

    def physical(self, logical_id: str) -> str:
        """The physical id of a resource. Raises CommandError when this stack does not have it."""
        if logical_id not in self.resources:
            raise CommandError(
                f"the stack {self.stack} has no {logical_id}", "deploy the template of this version of softpos"
            )
        return self.resources[logical_id][1]

    @functools.cached_property
    def functions(self) -> list[Function]:
        """The deployed functions, as Lambda has them."""
        found = []
        for name in self.named("AWS::Lambda::Function"):
            live, latest = self._configuration(name), self._configuration(name, "$LATEST")
            stale = any(live.get(each) != latest.get(each) for each in ("Environment", "CodeSha256", "Layers"))
            state, update = live.get("State", "Active"), latest.get("LastUpdateStatus", "Successful")
            found.append(Function(name, state, update, stale))
        return found

    @functools.cached_property
    def settings(self) -> Settings:
        """What the functions are configured with. Raises MisconfiguredError, or AwsError."""
        variables = self._configuration(self.physical(FUNCTION)).get("Environment", {}).get("Variables", {})
        return Settings.from_environment(variables)

    def settings_here(self, ca_bundle: Path | None) -> Settings:
        """The same, for calling Nexi from this machine, which may have Nexi's authorities in another file."""
        settings = self.settings
        if ca_bundle is not None:
            return replace(settings, nexi_ca_bundle=str(ca_bundle))
        if settings.nexi_ca_bundle and not Path(settings.nexi_ca_bundle).is_file():
            raise CommandError(
                f"the functions trust the authorities in {settings.nexi_ca_bundle}, which is not on this machine",
                "pass a copy of that file with --ca-bundle",
            )
        return settings

    def _configuration(self, name: str, qualifier: str = ALIAS) -> dict[str, Any]:
        with translated():
            answer: dict[str, Any] = self.client("lambda").get_function_configuration(
                FunctionName=name, Qualifier=qualifier
            )
        return answer


@contextmanager
def translated() -> Iterator[None]:
    """Turns what boto3 raises into AwsError, with what to do about it."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code, operation = error_code(error), error.operation_name
        raise AwsError(f"AWS refused {operation} ({code})", _remedy(code, operation)) from error
    except BotoCoreError as error:
        name = type(error).__name__
        raise AwsError(f"AWS was not asked, or did not answer ({name})", _remedy(name, "")) from error


def _remedy(code: str, operation: str) -> str:
    for codes, remedy in _REMEDIES.items():
        if code in codes:
            return remedy.format(operation=operation)
    return "see what AWS's documentation says of that code"


_REMEDIES = {
    (
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "TokenRetrievalError",
    ): "sign in as for the aws command, or pass --profile",
    (
        "ExpiredToken",
        "ExpiredTokenException",
        "UnauthorizedSSOTokenError",
        "SSOTokenLoadError",
    ): "the session has ended: sign in again, for instance with `aws sso login`",
    ("ProfileNotFound",): "pass one of `aws configure list-profiles` with --profile",
    (
        "AccessDenied",
        "AccessDeniedException",
        "UnauthorizedOperation",
    ): "let the signed-in identity call {operation}, or choose another with --profile",
    (
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "SignatureDoesNotMatch",
    ): "these credentials are not of this account or stage: check --profile",
    (
        "EndpointConnectionError",
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "ReadTimeoutError",
    ): "check the network and --region; for --stage local, that `make run` runs, with the same AWS_PORT",
}
