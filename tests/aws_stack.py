"""The stack of deploy/aws/ on a server of this machine, and an agent that runs its tasks here.

The server (moto) keeps buckets, secrets, roles, logs and tasks, but runs no container. The agent does
what ECS's own does: it runs a task's command as the role of its task definition, with its secrets, and
puts what it prints into the log group. Every request is signed, and the server refuses what a role's
policies do not allow: all actions, and for S3 the bucket and the key. It knows no condition and no
other resource, so these are left out of what it is told; tests/test_aws.py asks the policies themselves.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import yaml
from conftest import ROOT

FOLDER = ROOT / "deploy" / "aws"
ACCOUNT = "123456789012"  # the server's own
PARAMETERS = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::StackName": "symtune",
    "Image": f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/symtune@sha256:{'0' * 64}",
    "Experiment": "smoke",
    "GpuImage": "ami-0",
    "GpuMemory": "4096",
}
NOTHING = "AWS::NoValue"


class _Tags(yaml.SafeLoader):
    """Reads CloudFormation's short forms, `!Ref name`, as its long ones."""


def _long_form(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    else:
        assert isinstance(node, yaml.SequenceNode)
        value = loader.construct_sequence(node, deep=True)
    return {tag if tag == "Ref" else f"Fn::{tag}": value}


_Tags.add_multi_constructor("!", _long_form)


class Stack:
    """The resources of the template, each made on the server when another one needs it."""

    def __init__(self, **parameters: str) -> None:
        text = (FOLDER / "template.yaml").read_text(encoding="utf-8")
        self.template: dict[str, Any] = yaml.load(text, _Tags)
        given = PARAMETERS | parameters
        described = self.template["Parameters"]
        self.parameters = {n: str(p.get("Default", n)) for n, p in described.items()} | given
        self.names: dict[str, str] = {}  # what Ref means
        self.arns: dict[str, str] = {}  # what GetAtt means
        for name, resource in self.template["Resources"].items():
            if "Condition" not in resource or self._holds(resource["Condition"]):
                self.name_of(name)

    def name_of(self, name: str) -> str:
        """What `Ref` means: a parameter, or a resource, which is made now if it is not there."""
        if name in self.parameters or name == NOTHING:
            return self.parameters.get(name, NOTHING)
        if name not in self.names:
            resource = self.template["Resources"][name]
            properties = self.value(resource.get("Properties", {}))
            kind = resource["Type"].removeprefix("AWS::").replace("::", "_").lower()
            make = getattr(self, f"_{kind}", None)
            self.names[name] = make(name, properties) if make else name
        return self.names[name]

    def value(self, value: Any) -> Any:
        """A value of the template, in which every function is worked out."""
        if isinstance(value, list):
            worked_out = [self.value(each) for each in value]
            return [each for each in worked_out if each != NOTHING]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((function, argument),) = value.items()
            if function == "Ref":
                return self.name_of(argument)
            if function == "Fn::GetAtt":
                return self._attribute(argument)
            if function == "Fn::Sub":
                return re.sub(r"\$\{([\w.:]+)\}", lambda found: self._named(found[1]), argument)
            if function == "Fn::If":
                return self.value(argument[1 if self._holds(argument[0]) else 2])
        return {name: self.value(each) for name, each in value.items()}

    def policy(self, role: str) -> list[dict[str, Any]]:
        """All statements of a role's policies, as the template has them."""
        properties = self.template["Resources"][role]["Properties"]
        documents = [each["PolicyDocument"] for each in properties.get("Policies", ())]
        for resource in self.template["Resources"].values():
            shared = resource["Type"] == "AWS::IAM::ManagedPolicy"
            if shared and {"Ref": role} in resource["Properties"]["Roles"]:
                documents.append(resource["Properties"]["PolicyDocument"])
        return [self.value(each) for document in documents for each in document["Statement"]]

    def _named(self, name: str) -> str:
        return self._attribute(name) if re.search(r"\w\.\w", name) else self.name_of(name)

    def _attribute(self, path: str) -> str:
        name, _, attribute = path.partition(".")
        made = self.name_of(name)
        return self.arns.get(name, made) if attribute == "Arn" else "127.0.0.1"

    def _holds(self, condition: str) -> bool:
        ((function, argument),) = self.template["Conditions"][condition].items()
        denied = function == "Fn::Not"
        first, second = argument[0]["Fn::Equals"] if denied else argument
        return (self.value(first) == second) != denied

    # --- a method for each kind of resource that the server has; others are but a name ---------------

    def _s3_bucket(self, name: str, properties: Any) -> str:
        bucket: str = properties["BucketName"]
        boto3.client("s3").create_bucket(Bucket=bucket)
        self.arns[name] = f"arn:aws:s3:::{bucket}"
        return bucket

    def _secretsmanager_secret(self, name: str, properties: Any) -> str:
        client = boto3.client("secretsmanager")
        made = client.create_secret(Name=name, SecretString=secrets.token_hex(20))
        return str(made["ARN"])

    def _logs_loggroup(self, name: str, properties: Any) -> str:
        group: str = properties["LogGroupName"]
        boto3.client("logs").create_log_group(logGroupName=group)
        self.arns[name] = f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:{group}:*"
        return group

    def _iam_role(self, name: str, properties: Any) -> str:
        client = boto3.client("iam")
        # The server knows no services, for whom the agent takes on the role.
        anyone = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
        trusted = json.dumps({"Version": "2012-10-17", "Statement": [anyone]})
        role = client.create_role(RoleName=name, AssumeRolePolicyDocument=trusted)
        self.arns[name] = role["Role"]["Arn"]
        for policy in properties.get("Policies", ()):
            document = json.dumps(_for_the_server(policy["PolicyDocument"]))
            client.put_role_policy(
                RoleName=name, PolicyName=policy["PolicyName"], PolicyDocument=document
            )
        return name

    def _iam_managedpolicy(self, name: str, properties: Any) -> str:
        client = boto3.client("iam")
        document = json.dumps(_for_the_server(properties["PolicyDocument"]))
        policy = client.create_policy(PolicyName=name, PolicyDocument=document)
        for role in properties["Roles"]:
            client.attach_role_policy(RoleName=role, PolicyArn=policy["Policy"]["Arn"])
        return name

    def _ecs_cluster(self, name: str, properties: Any) -> str:
        made = boto3.client("ecs").create_cluster(clusterName=properties["ClusterName"])
        self.arns[name] = made["cluster"]["clusterArn"]
        return str(properties["ClusterName"])

    def _ecs_taskdefinition(self, name: str, properties: Any) -> str:
        lower = _lower(properties)
        for container in lower["containerDefinitions"]:
            container.setdefault("memory", 512)  # which the server adds up on Fargate, too
        made = boto3.client("ecs").register_task_definition(**lower)
        return str(made["taskDefinition"]["taskDefinitionArn"])

    def _autoscaling_autoscalinggroup(self, name: str, properties: Any) -> str:
        """One instance, which a job finds running."""
        started = boto3.client("ec2").run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1)
        document = json.dumps({"instanceId": started["Instances"][0]["InstanceId"]})
        boto3.client("ecs").register_container_instance(
            cluster=self.name_of("Cluster"), instanceIdentityDocument=document
        )
        return name

    def _sns_topic(self, name: str, properties: Any) -> str:
        return str(boto3.client("sns").create_topic(Name=name)["TopicArn"])


def _for_the_server(document: Any) -> Any:
    """A policy with what the server understands of it."""
    statements = [
        {
            "Effect": each["Effect"],
            "Action": each["Action"],
            "Resource": each["Resource"] if "s3" in str(each["Action"]) else "*",
        }
        for each in document["Statement"]
    ]
    return document | {"Statement": statements}


def _lower(value: Any) -> Any:
    """CloudFormation's names, which begin with a capital, as those of ECS's own requests."""
    if isinstance(value, list):
        return [_lower(each) for each in value]
    if not isinstance(value, dict):
        return value
    lower = {name[0].lower() + name[1:]: _lower(each) for name, each in value.items()}
    # CloudFormation takes texts for numbers; the memory of a task is a text, of a container a number.
    numbers = ("sizeInGiB", "memory" if "name" in lower else "sizeInGiB")
    return lower | {name: int(lower[name]) for name in numbers if name in lower}


class Agent:
    """Runs the tasks of the cluster on this machine, one thread for all; `end` waits for none."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        from moto.ecs.models import ecs_backends
        from moto.moto_api import state_manager

        # Otherwise a task stops by itself when it has been asked for a few times.
        forever = {"progression": "manual", "times": 10**9}
        state_manager.set_transition("ecs::task", forever)
        self.stack, self.folder = stack, folder
        # Made now: a test may take on a role later.
        self._clients = {name: boto3.client(name) for name in ("ecs", "logs", "sts")}
        self._tasks = ecs_backends[ACCOUNT]["us-east-1"].tasks
        self._running: dict[str, subprocess.Popen[str]] = {}
        self.ended: list[tuple[str, int]] = []  # the family and the exit code of each task
        self.instead: dict[str, str] = {}  # variables that have another value here
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Agent:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        from moto.moto_api import state_manager

        self._over.set()
        self._thread.join()
        state_manager.unset_transition("ecs::task")
        for process in self._running.values():
            process.kill()

    def environment(self, family: str, container: str) -> dict[str, str]:
        """What a container's program finds in its environment; paths of the image are those of here."""
        described = self._clients["ecs"].describe_task_definition(taskDefinition=family)
        definition = described["taskDefinition"]
        (found,) = [c for c in definition["containerDefinitions"] if c["name"] == container]
        outside = {n: v for n, v in os.environ.items() if not n.startswith(("AWS_", "SYMTUNE_"))}
        kept = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")
        variables = outside | {name: os.environ[name] for name in kept}
        # The image has the project's programs on its path.
        variables["PATH"] = f"{Path(sys.executable).parent}:{outside['PATH']}"
        for each in found.get("environment", ()):
            path = each["value"].replace("/app/", f"{ROOT}/")
            variables[each["name"]] = re.sub("^/data", str(self.folder), path)
        for each in found.get("secrets", ()):
            variables[each["name"]] = self._secret(
                definition["executionRoleArn"], each["valueFrom"]
            )
        return variables | self.instead | self._credentials(definition["taskRoleArn"])

    def _credentials(self, role: str) -> dict[str, str]:
        assumed = self._clients["sts"].assume_role(RoleArn=role, RoleSessionName="task")
        given = assumed["Credentials"]
        return {
            "AWS_ACCESS_KEY_ID": given["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
            "AWS_SESSION_TOKEN": given["SessionToken"],
        }

    def _secret(self, role: str, arn: str) -> str:
        given = {name.lower(): value for name, value in self._credentials(role).items()}
        client = boto3.client("secretsmanager", **given)
        return str(client.get_secret_value(SecretId=arn)["SecretString"])

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            for arn, task in dict(self._tasks.get("symtune", {})).items():
                if arn not in self._running and task.overrides.get("containerOverrides"):
                    self._running[arn] = self._start(task)
                elif arn in self._running and task.desired_status == "STOPPED":
                    self._running[arn].terminate()  # with what StopTask sends
                if arn in self._running and task.status == "RUNNING":
                    self._end(task, self._running[arn])

    def _start(self, task: Any) -> subprocess.Popen[str]:
        (override,) = task.overrides["containerOverrides"]
        family = task.task_definition_arn.split("/")[-1]
        variables = self.environment(family, override["name"])
        variables |= {each["name"]: each["value"] for each in override.get("environment", ())}
        with (self.folder / f"{task.id}.log").open("w") as log:
            return subprocess.Popen(
                override["command"],
                cwd=ROOT, env=variables, stdout=log, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip

    def _end(self, task: Any, process: subprocess.Popen[str]) -> None:
        """Take a task whose program has ended as stopped, when its lines are in the log group."""
        if (code := process.poll()) is None:
            return
        family = task.task_definition_arn.split("/")[-1].split(":")[0]
        container = "job" if family.endswith("job") else "run"
        lines = self.printed(task.id)
        group, stream = self.stack.names["LogGroup"], f"symtune/{container}/{task.id}"
        client, now = self._clients["logs"], int(time.time() * 1000)
        client.create_log_stream(logGroupName=group, logStreamName=stream)
        for start in range(0, len(lines), 1_000):
            events = [{"timestamp": now, "message": x or " "} for x in lines[start : start + 1_000]]
            client.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)
        task.containers[0].exitCode, task.containers[0].runtimeId = code, task.id
        task.desired_status = task.status = "STOPPED"
        self.ended.append((family, code))

    def printed(self, task: str) -> list[str]:
        """What a task's program has printed so far."""
        with suppress(FileNotFoundError):
            return (self.folder / f"{task}.log").read_text(encoding="utf-8").splitlines()
        return []


def administrator() -> Mapping[str, str]:
    """Credentials of somebody who may do everything, without whom no request would be signed rightly."""
    client = boto3.client("iam")
    client.create_user(UserName="admin")
    statement = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    all_of_it = {"Version": "2012-10-17", "Statement": [statement]}
    client.put_user_policy(UserName="admin", PolicyName="all", PolicyDocument=json.dumps(all_of_it))
    key = client.create_access_key(UserName="admin")["AccessKey"]
    return {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }
