"""template.yaml, read: what is deployed is what runs here, and nothing that it says is said a second time.

CloudFormation's intrinsic functions are resolved as far as this project's template uses them; another one is an error.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samtranslator.yaml_helper import yaml_parse

REGION = "eu-south-1"
STACK = "softpos"

_EXPANDED = {
    "AWS::Serverless::Function": "AWS::Lambda::Function",
    "AWS::Serverless::HttpApi": "AWS::ApiGatewayV2::Api",
}
"""What SAM makes of its own types."""

NO_VALUE = object()
"""What takes a member away: CloudFormation's AWS::NoValue."""

PSEUDO_PARAMETERS = {
    "AWS::NoValue": NO_VALUE,
    "AWS::Region": REGION,
    "AWS::StackName": STACK,
    "AWS::Partition": "aws",
    "AWS::URLSuffix": "amazonaws.com",
}


@dataclass(frozen=True)
class Route:
    """One of a function's HTTP events."""

    method: str
    path: str
    function: str
    authorizer: str | None
    """One of the API's JWT authorizers, or `AWS_IAM`."""

    @property
    def key(self) -> str:
        """API Gateway's route key, such as `POST /v1/enrollments`."""
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Function:
    """A Lambda function as the template has it, its environment resolved."""

    name: str
    """The template's logical id, and not what Lambda knows it by: that is the ARN's last part."""
    arn: str
    folder: Path
    runtime: str
    handler: str
    timeout: int
    memory: int
    environment: dict[str, str]

    @property
    def deployed_name(self) -> str:
        """What Lambda knows it by."""
        return self.arn.rpartition(":")[2]


class Template:
    """template.yaml, with parameters given and, one by one, the names of the resources that exist.

    Raises ValueError for a parameter that it does not have or allow, and for parameters that break one of its rules.
    """

    def __init__(self, path: Path, parameters: Mapping[str, str], account: str = "123456789012") -> None:
        self._root = path.parent
        self._body = yaml_parse(path.read_text())
        declared = self._body["Parameters"]
        unknown = set(parameters) - set(declared)
        if unknown:
            raise ValueError(f"template.yaml has no parameters {sorted(unknown)}")
        given = {name: _parameter(name, each, parameters) for name, each in declared.items()}
        self._values: dict[str, Any] = {**PSEUDO_PARAMETERS, "AWS::AccountId": account, **given}
        self._attributes: dict[tuple[str, str], Any] = {}
        self._check_rules()

    def resources(self, kind: str) -> dict[str, dict[str, Any]]:
        """Properties of the resources of this type that the parameters ask for, by logical id, not yet resolved."""
        return {
            name: each.get("Properties", {})
            for name, each in self._body["Resources"].items()
            if each["Type"] == kind and self._wanted(each)
        }

    def exists(self, logical_id: str, ref: str, **attributes: str) -> None:
        """Say what `Ref` and `GetAtt` give for a resource from now on."""
        self._values[logical_id] = ref
        for name, value in attributes.items():
            self._attributes[(logical_id, name)] = value

    def existing(self) -> dict[str, tuple[str, str]]:
        """Type, as CloudFormation has it, and physical id of the resources that exist here, by logical id."""
        return {
            name: (_EXPANDED.get(each["Type"], each["Type"]), self._values[name])
            for name, each in self._body["Resources"].items()
            if name in self._values
        }

    def parameters(self) -> dict[str, str]:
        """The parameters' values, given or not, as CloudFormation writes them."""
        values = {name: self._values[name] for name in self._body["Parameters"]}
        return {name: ",".join(each) if isinstance(each, list) else str(each) for name, each in values.items()}

    def function_arn(self, logical_id: str) -> str:
        """What a function of this template is called, once it exists."""
        return f"arn:aws:lambda:{REGION}:{self._values['AWS::AccountId']}:function:{STACK}-{logical_id}"

    def functions(self) -> dict[str, Function]:
        """Every function, globals merged in."""
        shared = self._body["Globals"]["Function"]
        functions = {}
        for name, properties in self.resources("AWS::Serverless::Function").items():
            variables = {
                **shared["Environment"]["Variables"],
                **properties.get("Environment", {}).get("Variables", {}),
            }
            merged = {**shared, **properties}
            functions[name] = Function(
                name=name,
                arn=self.function_arn(name),
                folder=self._root / merged["CodeUri"],
                runtime=merged["Runtime"],
                handler=merged["Handler"],
                timeout=merged["Timeout"],
                memory=merged["MemorySize"],
                environment={each: str(value) for each, value in self.resolve(variables).items()},
            )
        return functions

    def routes(self) -> list[Route]:
        """The HTTP API's routes, with the authorizer that guards each."""
        default = self._only("AWS::Serverless::HttpApi")["Auth"].get("DefaultAuthorizer")
        routes = []
        for function, properties in self.resources("AWS::Serverless::Function").items():
            for event in properties.get("Events", {}).values():
                if event["Type"] == "HttpApi":
                    http = event["Properties"]
                    authorizer = http.get("Auth", {}).get("Authorizer", default)
                    authorizer = None if authorizer == "NONE" else authorizer
                    routes.append(Route(http["Method"].upper(), http["Path"], function, authorizer))
        return routes

    def authorizer(self, name: str) -> tuple[str, list[str]]:
        """A JWT authorizer's issuer and audiences."""
        jwt = self._only("AWS::Serverless::HttpApi")["Auth"]["Authorizers"][name]["JwtConfiguration"]
        return self.resolve(jwt["issuer"]), self.resolve(jwt["audience"])

    def outputs(self) -> dict[str, str]:
        """The outputs that can be resolved here."""
        resolved = {}
        for name, output in self._body["Outputs"].items():
            if not self._wanted(output):
                continue
            try:
                resolved[name] = self.resolve(output["Value"])
            except UnresolvedError:
                continue
        return resolved

    def resolve(self, value: Any) -> Any:
        """`value` with its intrinsic functions evaluated. Raises UnresolvedError."""
        if isinstance(value, list):
            return [each for each in map(self.resolve, value) if each is not NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((name, argument),) = value.items()
            if name == "Ref":
                return self._ref(argument)
            if name == "Condition" and isinstance(argument, str):
                return self.resolve(self._body["Conditions"][argument])
            if name.startswith("Fn::"):
                return self._function(name, argument)
        resolved = {name: self.resolve(each) for name, each in value.items()}
        return {name: each for name, each in resolved.items() if each is not NO_VALUE}

    def _wanted(self, declared: dict[str, Any]) -> bool:
        return bool(self.resolve({"Condition": declared["Condition"]})) if "Condition" in declared else True

    def _check_rules(self) -> None:
        for rule in self._body.get("Rules", {}).values():
            if self.resolve(rule.get("RuleCondition", True)):
                for each in rule["Assertions"]:
                    if not self.resolve(each["Assert"]):
                        raise ValueError(each["AssertDescription"])

    def _function(self, name: str, argument: Any) -> Any:
        match name, argument:
            case "Fn::Sub", str():
                return re.sub(r"\$\{([^!}][^}]*)\}", lambda found: str(self._substitute(found[1])), argument)
            case "Fn::GetAtt", [logical_id, attribute]:
                return self._attribute(logical_id, attribute)
            case "Fn::GetAtt", str():
                return self._attribute(*argument.split(".", 1))
            case "Fn::If", [condition, then, otherwise]:
                return self.resolve(then if self.resolve({"Condition": condition}) else otherwise)
            case "Fn::Equals", [left, right]:
                return self.resolve(left) == self.resolve(right)
            case "Fn::Not", [condition]:
                return not self.resolve(condition)
            case "Fn::And", [*conditions]:
                return all(self.resolve(each) for each in conditions)
            case "Fn::Or", [*conditions]:
                return any(self.resolve(each) for each in conditions)
            case "Fn::Contains", [texts, text]:
                return self.resolve(text) in self.resolve(texts)
            case "Fn::FindInMap", [mapping, first, second]:
                return self._body["Mappings"][mapping][self.resolve(first)][self.resolve(second)]
            case "Fn::Join", [separator, parts]:
                return separator.join(str(self.resolve(each)) for each in parts)
        raise UnresolvedError(f"the sandbox does not know {name} as template.yaml uses it")

    def _substitute(self, name: str) -> Any:
        return self._attribute(*name.split(".", 1)) if "." in name else self._ref(name)

    def _ref(self, name: str) -> Any:
        if name not in self._values:
            raise UnresolvedError(f"{name} does not exist here")
        return self._values[name]

    def _attribute(self, logical_id: str, attribute: str) -> Any:
        if (logical_id, attribute) not in self._attributes:
            raise UnresolvedError(f"{logical_id}.{attribute} does not exist here")
        return self._attributes[(logical_id, attribute)]

    def _only(self, kind: str) -> dict[str, Any]:
        (properties,) = self.resources(kind).values()
        return properties


def _parameter(name: str, declared: dict[str, Any], given: Mapping[str, str]) -> Any:
    value = given.get(name, declared.get("Default"))
    if value not in declared.get("AllowedValues", [value]) or not re.search(
        declared.get("AllowedPattern", ""), str(value)
    ):
        raise ValueError(f"parameter {name} cannot be {value!r}")
    if "MinValue" in declared and float(value) < declared["MinValue"]:
        raise ValueError(f"parameter {name} cannot be below {declared['MinValue']}")
    return str(value).split(",") if declared["Type"] == "CommaDelimitedList" else value


class UnresolvedError(LookupError):
    """When the template refers to what the sandbox does not have."""
