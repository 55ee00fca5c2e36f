"""deploy/aws/ on a server of this machine: what each role may do, a run and a job as tasks, failed runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import moto.settings
import pytest
import yaml
from aws_stack import ACCOUNT, FOLDER, Agent, Stack, administrator
from conftest import ROOT, Ended, Home
from launching import Launched, launch
from moto.events.models import EventPattern
from moto.iam.access_control import IAMPolicy, PermissionResult
from tiny_models import tiny_job

from assets.location import CONSOLE
from resources import console
from resources.launcher import load_launcher
from symtune_pipeline.store.bucket import Bucket, BucketStore
from symtune_pipeline.tuning.job import run_job

BUCKET = f"arn:aws:s3:::symtune-{ACCOUNT}-us-east-1"
ECS = f"arn:aws:ecs:us-east-1:{ACCOUNT}"
ROLE = f"arn:aws:iam::{ACCOUNT}:role"
PATIENCE = 1_800  # seconds that a run may take


@pytest.fixture(scope="module")
def stack(s3: str) -> Iterator[Stack]:
    """The stack; from then on every request is checked against the policies of who sends it."""
    made = Stack()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in administrator().items():
            patch.setenv(name, value)
        patch.setattr(boto3, "DEFAULT_SESSION", None)  # it has the keys of before
        patch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
        yield made


@pytest.fixture(scope="module")
def agent(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with Agent(stack, tmp_path_factory.mktemp("tasks")) as running:
        yield running


# --- the files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "may", "action", "resource"),
    [
        ("JobRole", True, "s3:GetObject", f"{BUCKET}/home/.jobs/1/job.json"),
        ("JobRole", True, "s3:PutObject", f"{BUCKET}/home/.jobs/1/checkpoints/0"),
        ("JobRole", False, "s3:GetObject", f"{BUCKET}/home/quickstart/eval/manifest.json"),
        ("JobRole", False, "s3:PutObject", f"{BUCKET}/logs/storage/1"),
        ("JobRole", False, "ecs:RunTask", f"{ECS}:task-definition/symtune-job:1"),
        ("JobRole", False, "secretsmanager:GetSecretValue", "DatabasePassword"),
        ("RunRole", True, "s3:PutObject", f"{BUCKET}/home/quickstart/eval/manifest.json"),
        ("RunRole", True, "ecs:RunTask", f"{ECS}:task-definition/symtune-job:1"),
        ("RunRole", True, "ecs:StopTask", f"{ECS}:task/symtune/1"),
        ("RunRole", True, "iam:PassRole", f"{ROLE}/JobRole"),
        ("RunRole", False, "iam:PassRole", f"{ROLE}/DagsterRole"),
        ("RunRole", False, "ecs:RunTask", f"{ECS}:task-definition/symtune-run:1"),
        ("RunRole", False, "ecs:RegisterTaskDefinition", "*"),
        ("RunRole", False, "s3:PutObject", f"{BUCKET}/mirror/datasets/x"),
        ("RunRole", False, "s3:GetObject", "arn:aws:s3:::another/home/x"),
        ("RunRole", False, "s3:DeleteBucket", BUCKET),
        ("DagsterRole", True, "ecs:RunTask", f"{ECS}:task-definition/symtune-run:7"),
        ("DagsterRole", True, "s3:GetObject", f"{BUCKET}/logs/storage/1"),
        ("DagsterRole", True, "iam:PassRole", f"{ROLE}/RunRole"),
        ("DagsterRole", False, "iam:PassRole", f"{ROLE}/InstanceRole"),
        ("DagsterRole", False, "ecs:RunTask", f"{ECS}:task-definition/another:1"),
        ("DagsterRole", False, "ecs:StopTask", f"{ECS}:task/another/1"),
        ("DagsterRole", False, "s3:GetObject", f"{BUCKET}/home/quickstart/eval/manifest.json"),
        ("DagsterRole", False, "secretsmanager:GetSecretValue", "DatabasePassword"),
        ("ExecutionRole", True, "secretsmanager:GetSecretValue", "DatabasePassword"),
        ("ExecutionRole", False, "secretsmanager:GetSecretValue", "arn:aws:secretsmanager:x"),
        ("ExecutionRole", False, "s3:GetObject", f"{BUCKET}/home/x"),
    ],
)
def test_a_role_may_do_what_it_is_for_and_no_more(
    stack: Stack, role: str, may: bool, action: str, resource: str
) -> None:
    statements = [
        {name: value for name, value in each.items() if name != "Condition"}
        for each in stack.policy(role)
    ]
    policy = IAMPolicy(json.dumps({"Statement": statements}))
    asked = policy.is_action_permitted(action, stack.names.get(resource, resource))
    assert (asked == PermissionResult.PERMITTED) == may


def test_only_what_has_no_resource_is_allowed_everywhere(stack: Stack) -> None:
    allowed: set[str] = set()
    for role in ("ExecutionRole", "DagsterRole", "RunRole", "JobRole"):
        for each in stack.policy(role):
            actions = each["Action"] if isinstance(each["Action"], list) else [each["Action"]]
            assert not [action for action in actions if "*" in action]
            if each["Resource"] == "*":
                allowed |= {a for a in actions if not a.startswith("ssmmessages:")}
    assert allowed == {
        "ecr:GetAuthorizationToken",
        "ecs:DescribeTaskDefinition",
        "ec2:DescribeNetworkInterfaces",
    }


def containers(stack: Stack) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, resource in stack.template["Resources"].items():
        if resource["Type"] == "AWS::ECS::TaskDefinition":
            for container in resource["Properties"]["ContainerDefinitions"]:
                yield name, container


def test_no_file_holds_an_account_a_secret_or_an_image_by_its_tag(stack: Stack) -> None:
    for path in FOLDER.iterdir():
        assert not re.search(r"\b\d{12}\b|AKIA", path.read_text(encoding="utf-8")), path
    for _, container in containers(stack):
        assert container["Image"] == {"Ref": "Image"}
        for variable in container.get("Environment", ()):
            assert not re.search("PASSWORD|TOKEN|KEY", variable["Name"])
    assert not re.fullmatch(
        stack.template["Parameters"]["Image"]["AllowedPattern"], "symtune:latest"
    )


def test_nothing_can_be_connected_to_but_the_database_and_that_by_dagster_only(
    stack: Stack,
) -> None:
    open_ports = []
    for name, resource in stack.template["Resources"].items():
        for rule in resource.get("Properties", {}).get("SecurityGroupIngress", ()):
            open_ports.append((name, rule["FromPort"], rule["SourceSecurityGroupId"]))
    assert open_ports == [("DatabaseAccess", 5432, {"Ref": "DagsterAccess"})]
    for _, container in containers(stack):
        assert "PortMappings" not in container
        command = container.get("Command", [])
        if "-p" in command:
            assert command[command.index("-h") + 1] == "127.0.0.1"


def test_every_container_has_what_dagsters_settings_take_from_the_environment(
    stack: Stack,
) -> None:
    text = (FOLDER / "dagster.yaml").read_text(encoding="utf-8")
    wanted = set(re.findall(r"\{env: (\w+)\}", text))
    assert len(wanted) == 6
    for task, container in containers(stack):
        if task != "JobTask":
            given = container["Environment"] + container["Secrets"]
            assert wanted <= {each["Name"] for each in given if "Name" in each}


def task_ended(**detail: object) -> dict[str, Any]:
    """What ECS says of a task that has ended; of its containers one, as the server looks in no list."""
    common = {"clusterArn": f"{ECS}:cluster/symtune", "lastStatus": "STOPPED"}
    return {
        "source": "aws.ecs",
        "detail-type": "ECS Task State Change",
        "detail": common | {"stopCode": "EssentialContainerExited"} | detail,
    }


@pytest.mark.parametrize(
    ("rule", "tells", "detail"),
    [
        ("DeadTask", True, {"group": "family:symtune-run", "containers": {"exitCode": 137}}),
        ("DeadTask", True, {"group": "family:symtune-job", "containers": {"exitCode": 1}}),
        ("DeadTask", False, {"group": "family:symtune-run", "containers": {"exitCode": 0}}),
        ("DeadTask", False, {"group": "family:another", "containers": {"exitCode": 1}}),
        ("TaskWithoutStart", True, {"stopCode": "TaskFailedToStart", "containers": {}}),
        ("TaskWithoutStart", False, {"containers": {"exitCode": 1}}),
    ],
)
def test_a_task_that_died_or_could_not_start_is_told(
    stack: Stack, rule: str, tells: bool, detail: dict[str, Any]
) -> None:
    properties = stack.value(stack.template["Resources"][rule]["Properties"])
    assert [each["Arn"] for each in properties["Targets"]] == [stack.names["Alarms"]]
    pattern = EventPattern.load(json.dumps(properties["EventPattern"]))
    assert pattern.matches_event(task_ended(**detail)) == tells


@pytest.mark.parametrize("config", [CONSOLE, None], ids=["our log", "Dagster's log"])
def test_a_failed_run_prints_what_the_alarm_looks_for(
    stack: Stack, config: dict[str, Any] | None, capfd: pytest.CaptureFixture[str]
) -> None:
    @dg.asset
    def failing() -> None:
        raise dg.Failure("so it goes")

    job = dg.define_asset_job("jobs", config=config)
    definitions = dg.Definitions(
        [failing], jobs=[job], loggers={"console": console} if config else {}
    )
    definitions.resolve_job_def("jobs").execute_in_process(raise_on_error=False)
    properties = stack.value(stack.template["Resources"]["FailedRuns"]["Properties"])
    assert properties["LogGroupName"] == stack.names["LogGroup"]
    # A pattern of phrases means a line with all of them; the server compares no more than one.
    phrases = re.findall('"([^"]+)"', properties["FilterPattern"])
    lines = capfd.readouterr().err.splitlines()
    assert phrases and len([line for line in lines if all(p in line for p in phrases)]) == 1


# --- runs and jobs --------------------------------------------------------------------------------


class Metadata(BaseHTTPRequestHandler):
    """What ECS tells a container of the task that it is in."""

    task: dict[str, str]

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(self.task).encode())

    def log_message(self, *_: object) -> None:
        pass


class Dagster:
    """The container `daemon`, which starts runs; they are kept in SQLite, as Postgres is not there."""

    def __init__(self, stack: Stack, agent: Agent, folder: Path, metadata: str) -> None:
        text = (FOLDER / "dagster.yaml").read_text(encoding="utf-8")
        settings = yaml.safe_load(text.replace("/data", str(agent.folder)))
        assert settings.pop("storage")
        settings["run_coordinator"] = {
            "module": "dagster.core.run_coordinator",
            "class": "DefaultRunCoordinator",  # without a daemon nobody takes runs from a queue
        }
        (folder / "dagster.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        self.agent, self.stack = agent, stack
        self.environment = agent.environment("symtune-dagster", "daemon") | {
            "DAGSTER_HOME": str(folder),
            "ECS_CONTAINER_METADATA_URI_V4": metadata,
            "SYMTUNE_EXPERIMENT": "smoke",
        }

    def run(self, *arguments: str) -> tuple[int, list[str]]:
        """Start a run and wait for its end; returns how its task ended and what it printed."""
        before = len(self.agent.ended)
        command = [
            sys.executable,
            "-m",
            "dagster",
            "job",
            "launch",
            "-m",
            "definitions",
            *arguments,
        ]
        started = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )
        assert started.returncode == 0, started.stdout + started.stderr
        end = time.monotonic() + PATIENCE
        while "symtune-run" not in (ended := dict(self.agent.ended[before:])):
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.2)
        return ended["symtune-run"], self.lines()

    def lines(self) -> list[str]:
        """All that tasks have printed, as the log group has it."""
        found = boto3.client("logs").filter_log_events(logGroupName=self.stack.names["LogGroup"])
        return [event["message"] for event in found["events"]]


@pytest.fixture(scope="module")
def dagster(
    stack: Stack, agent: Agent, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Dagster]:
    ec2 = boto3.client("ec2")
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    group = ec2.create_security_group(GroupName="dagster", Description="dagster")["GroupId"]
    network = {"awsvpcConfiguration": {"subnets": [subnet], "securityGroups": [group]}}
    (task,) = boto3.client("ecs").run_task(
        cluster="symtune", taskDefinition="symtune-dagster", launchType="FARGATE",
        networkConfiguration=network,
    )["tasks"]  # fmt: skip
    Metadata.task = {"Cluster": "symtune", "TaskARN": task["taskArn"]}
    server = HTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever).start()
    address = f"http://127.0.0.1:{server.server_port}"
    yield Dagster(stack, agent, tmp_path_factory.mktemp("dagster"), address)
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.long
def test_a_run_on_ecs_makes_every_asset_in_the_version_that_it_has_on_this_machine(
    smoke_run: tuple[Home, Ended],
    dagster: Dagster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, _ = smoke_run
    # Asking ECS and CloudWatch takes longer than these jobs, of which another test runs one there.
    monkeypatch.setattr(dagster.agent, "instead", {"SYMTUNE_LAUNCHER": "local"})
    code, lines = dagster.run("-j", "symbol_tuning", "--tags", '{"dagster/partition": "micro"}')
    assert code == 0, "\n".join(lines)
    home = f"s3://{dagster.stack.names['Bucket']}/home"
    store = BucketStore(tmp_path / "another machine", Bucket(f"{home}/smoke"))
    artifacts = list(whole.store.artifacts())
    assert len(artifacts) > 40
    for name, partition in artifacts:
        if name != "tuning_log":  # it holds times
            assert store.manifest(name, partition) == whole.store.manifest(name, partition), name
    report = store.folder("eval_report")
    assert {name: (report / name).read_bytes() for name in whole.report()} == whole.report()
    logs = Bucket(f"s3://{dagster.stack.names['Bucket']}/logs").keys()
    assert [key for key in logs if key.endswith(".err")], "what steps print is shown in the UI"


@pytest.mark.slow
def test_a_job_on_ecs_has_the_result_that_it_has_here_and_leaves_nothing(
    stack: Stack, agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in agent.environment("symtune-run", "run").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    for name in ("there", "here"):
        (tmp_path / name).mkdir()
    launcher = load_launcher(os.environ["SYMTUNE_LAUNCHER"])
    ended = launch(launcher, tiny_job(tmp_path / "there"))
    here = Launched(run_job(tiny_job(tmp_path / "here"), print), None, [])
    assert ended.losses() == here.losses()
    assert agent.ended[-1] == ("symtune-job", 0)
    assert not Bucket(f"s3://{stack.names['Bucket']}/home/.jobs").keys()
    shutil.rmtree(tmp_path / "there")
