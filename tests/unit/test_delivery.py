"""What the workflows, samconfig.toml and the delivery role promise to each other and to the Makefile."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from delivery.parameters import parameters

ROOT = Path(__file__).parent.parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.y*ml"))
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
SAMCONFIG = ROOT / "samconfig.toml"
DELIVERED = [*WORKFLOWS, SAMCONFIG, ROOT / ".github/dependabot.yml", *sorted((ROOT / "delivery").glob("*.*"))]

STAGES = ("staging", "production")


def workflow(name: str) -> dict[str, Any]:
    # BaseLoader: `on` is a word, and not true.
    loaded: dict[str, Any] = yaml.load((ROOT / f".github/workflows/{name}.yaml").read_text("utf-8"), yaml.BaseLoader)
    return loaded


def jobs() -> list[tuple[str, dict[str, Any]]]:
    return [(f"{each.stem}/{name}", job) for each in WORKFLOWS for name, job in workflow(each.stem)["jobs"].items()]


def steps(job: dict[str, Any]) -> list[dict[str, Any]]:
    return job.get("steps", [])


def action(step: dict[str, Any]) -> str:
    return step.get("uses", "").partition("@")[0]


every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
every_job = pytest.mark.parametrize("job", [pytest.param(job, id=name) for name, job in jobs()])


def test_there_are_workflows():
    assert {each.stem for each in WORKFLOWS} >= {"test", "audit", "deliver", "deploy"}


@every_workflow
def test_every_action_is_pinned_by_commit_with_its_version_beside_it(path):
    for line in path.read_text("utf-8").splitlines():
        if "uses:" in line and "uses: ./" not in line:
            assert re.search(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


@every_workflow
def test_one_action_has_one_pin(path):
    pins = set(re.findall(r"uses: ([^\s@]+)@(\S+)", "".join(each.read_text("utf-8") for each in WORKFLOWS)))
    assert len({name for name, _ in pins}) == len(pins)


@every_workflow
def test_a_workflow_is_given_nothing(path):
    assert workflow(path.stem)["permissions"] == {}


@every_job
def test_a_job_writes_nothing_but_an_identity(job):
    assert job["permissions"].items() <= {"contents": "read", "id-token": "write"}.items()


@every_job
def test_a_job_ends(job):
    assert "timeout-minutes" in job or job["uses"].startswith("./")


@every_job
def test_no_job_keeps_githubs_token(job):
    for step in steps(job):
        if action(step) == "actions/checkout":
            assert step["with"]["persist-credentials"] == "false"


@every_job
def test_scripts_get_what_they_are_given_by_their_environment(job):
    for step in steps(job):
        assert "${{" not in step.get("run", "")


@every_job
def test_an_identity_goes_with_a_stage(job):
    if job["permissions"].get("id-token"):
        assert "environment" in job or "stage" in job["with"]


@pytest.mark.parametrize("path", DELIVERED, ids=lambda path: path.name)
def test_nothing_names_an_account_or_a_registry(path):
    text = path.read_text("utf-8")
    assert not re.search(r"(?<![0-9a-f])\d{12}(?![0-9a-f])", text)
    assert not re.search(r"pypi\.org|pythonhosted\.org|npmjs|proxy\.golang|index-url", text)


@every_job
def test_every_target_that_is_called_exists(job):
    for step in steps(job):
        for target in re.findall(r"\bmake (\S+)", step.get("run", "")):
            if target == ".venv/ready":
                assert re.search(r"^READY := \.venv/ready$", MAKEFILE, re.MULTILINE)
            else:
                assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_pull_requests_run_what_the_readme_says():
    assert "pull_request" in workflow("test")["on"]
    assert {"run": "make test"} in workflow("test")["jobs"]["test"]["steps"]
    assert workflow("test")["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert "pull_request_target" not in "".join(each.read_text("utf-8") for each in WORKFLOWS)


def test_the_audit_is_weekly():
    assert re.fullmatch(r"\d+ \d+ \* \* \d", workflow("audit")["on"]["schedule"][0]["cron"])
    assert re.search(r"^AUDIT := .* --strict ", MAKEFILE, re.MULTILINE), "an index that does not answer would be a pass"


# ---------------------------------------------------------------- from the tests to production


def test_production_comes_after_staging_after_the_build_after_the_tests():
    delivered = workflow("deliver")["jobs"]
    assert workflow("deliver")["on"] == {"push": {"branches": ["main"]}}
    assert delivered["test"]["uses"] == "./.github/workflows/test.yaml"
    assert delivered["build"]["needs"] == "test"
    assert delivered["staging"]["needs"] == "build"
    assert delivered["production"]["needs"] == ["build", "staging"]


def test_it_is_built_once_and_without_what_others_left():
    built = [
        name for name, job in jobs() for step in steps(job) if re.search(r"make (artefact|build)", step.get("run", ""))
    ]
    assert built == ["deliver/build"]
    assert "actions/cache" not in {action(step) for step in workflow("deliver")["jobs"]["build"]["steps"]}


def test_what_is_deployed_is_what_was_built():
    build = workflow("deliver")["jobs"]["build"]
    (upload,) = [step["with"] for step in build["steps"] if action(step) == "actions/upload-artifact"]
    deploy = workflow("deploy")["jobs"]["deploy"]["steps"]
    (download,) = [step["with"] for step in deploy if action(step) == "actions/download-artifact"]
    assert download["name"] == upload["name"]
    assert "dist/softpos.tar.gz" in upload["path"].split()

    assert build["outputs"] == {"sha256": "${{ steps.sum.outputs.sha256 }}"}
    for stage in STAGES:
        call = workflow("deliver")["jobs"][stage]
        assert call["uses"] == "./.github/workflows/deploy.yaml"
        assert call["with"]["stage"] == stage
        assert call["with"]["sha256"] == "${{ needs.build.outputs.sha256 }}"

    runs = [step.get("run", "") for step in deploy]
    (compared,) = [at for at, run in enumerate(runs) if "sha256sum --check --strict" in run and "tar -x" in run]
    assert deploy[compared]["env"] == {"SHA256": "${{ inputs.sha256 }}"}
    (deployed,) = [at for at, run in enumerate(runs) if "sam deploy" in run]
    assert compared < deployed
    # sam deploys what was built by itself; beside a template that it is given, it would look for samconfig.toml.
    assert "--config-env" in runs[deployed]
    assert "--template-file" not in runs[deployed].replace("# Not --template-file", "")


def test_credentials_come_after_all_that_is_installed():
    deploy = workflow("deploy")["jobs"]["deploy"]["steps"]
    first = next(at for at, step in enumerate(deploy) if action(step) == "aws-actions/configure-aws-credentials")
    assert not [
        step for step in deploy[first:] if re.search(r"\bmake ", step.get("run", "")) or "artifact" in action(step)
    ]


def test_no_two_deployments_of_a_stage_overlap():
    job = workflow("deploy")["jobs"]["deploy"]
    assert job["concurrency"] == {"group": "deploy-${{ inputs.stage }}", "cancel-in-progress": "false"}
    assert job["environment"] == "${{ inputs.stage }}"


def test_staging_enrolls():
    assert workflow("deliver")["jobs"]["staging"]["with"]["enrolls"] == "true"
    (look,) = [
        s["run"] for s in workflow("deploy")["jobs"]["deploy"]["steps"] if "softpos doctor --" in s.get("run", "")
    ]
    assert '--stage "$STAGE" --no-secrets ${OPERATOR:+--enroll "$OPERATOR"}' in look


# ---------------------------------------------------------------- samconfig.toml


def test_each_stage_has_its_stack():
    config = tomllib.loads(SAMCONFIG.read_text("utf-8"))
    for stage in STAGES:
        assert config[stage]["global"]["parameters"]["stack_name"] == f"softpos-{stage}"
        deploy = config[stage]["deploy"]["parameters"]
        assert f"Stage={stage}" in deploy["parameter_overrides"]
        # What delivery/github-role.yaml grants is told by these two.
        assert deploy["s3_prefix"] == f"softpos-{stage}"
        assert deploy["tags"] == f"project=softpos stage={stage}"
        assert not deploy["confirm_changeset"]
        assert not deploy["fail_on_empty_changeset"]


def test_the_environments_own_parameters_come_before_samconfigs():
    told = parameters("staging", "c0ffee", 'DomainName=softpos.shop.example Stage=production JwtAudience="a b" Empty=')
    assert 'Stage="production"' in told
    assert 'DomainName="softpos.shop.example" JwtAudience="a b" Empty="" Release=' in told


def test_a_release_is_of_the_commit_and_of_every_parameter():
    def release(*arguments: str) -> str:
        return parameters(*arguments).rpartition("Release=")[2]

    # As the template's parameter wants it.
    assert re.fullmatch(r'"[0-9A-Za-z]{10,64}"', release("staging", "c0ffee"))
    assert release("staging", "c0ffee") == release("staging", "c0ffee")
    others = {
        release("staging", "c0ffee"),
        release("staging", "decade"),
        release("production", "c0ffee"),
        release("staging", "c0ffee", "SigningKeyId=1"),
        release("staging", "c0ffee", "SigningKeyId=2"),
    }
    assert len({each[:11] for each in others}) == len(others)
