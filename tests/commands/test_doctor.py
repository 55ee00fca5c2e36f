"""What `symtune doctor` finds on machines in good and in bad order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from fake_hub import FakeHub

from symtune_pipeline.catalog.models import find_model
from symtune_pipeline.commands import doctor
from symtune_pipeline.commands.doctor import Finding, findings


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The smoke experiment in an empty home, without a mirror, and with a hub that is not there."""
    monkeypatch.setenv("SYMTUNE_EXPERIMENT", "smoke")
    monkeypatch.setenv("SYMTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SYMTUNE_MIRROR", raising=False)
    monkeypatch.delenv("SYMTUNE_LAUNCHER", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def found() -> dict[str, Finding]:
    return {finding.name: finding for finding in findings()}


def public_experiment(folder: Path, monkeypatch: pytest.MonkeyPatch, **data: object) -> None:
    """Two public sets and no generated ones."""
    settings = {
        "models": ["micro"],
        "data": {"source": "hub", "datasets": ["rte", "subj"]} | data,
        "mixture": {"prompts": 10},
    }
    path = folder / "public.yaml"
    path.write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("SYMTUNE_EXPERIMENT", str(path))


def test_a_machine_in_order_has_no_problem(machine: Path) -> None:
    lines = found()
    assert not [str(line) for line in lines.values() if line.remedy]
    assert lines["weights of micro"].found == "made here"
    assert lines["home"].found == f"{machine / 'home'} can be written"
    assert "torch 2." in lines["packages"].found
    assert not list((machine / "home").iterdir())


def test_a_home_that_is_a_file_is_a_problem(machine: Path) -> None:
    (machine / "home").write_text("")
    line = found()["home"]
    assert str(line).startswith(f"problem  home: {machine / 'home'} cannot be written (")
    assert line.remedy == "set SYMTUNE_HOME to a folder that can be written"


def test_an_experiment_that_cannot_be_read_ends_the_look(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMTUNE_EXPERIMENT", "nope")
    *_, last = findings()
    assert last.name == "experiment" and last.remedy
    assert "nope.yaml cannot be read" in last.found


def test_public_sets_need_the_hub_or_a_mirror(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public_experiment(machine, monkeypatch)
    line = found()["data"]
    assert line.found == "the hub cannot be reached, for 2 public datasets"
    assert line.remedy and "SYMTUNE_MIRROR" in line.remedy


def test_sets_that_a_mirror_lacks_are_named(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMTUNE_MIRROR", str(machine))
    public_experiment(machine, monkeypatch)
    assert found()["data"].found == "of 2 datasets, these lack files: rte, subj"
    public_experiment(machine, monkeypatch, missing="leave_out")
    line = found()["data"]
    assert line.remedy is None and line.found.endswith("without 2 that are missing")


def test_weights_that_nobody_has_are_a_problem(machine: Path) -> None:
    alone = find_model("smollm2-135m").model_copy(update={"package": None})
    for line in (doctor.weights(alone), doctor.parent_weights(alone)):
        assert line.found.startswith("The hub cannot be reached, and of HuggingFaceTB/SmolLM2-135M")
        assert line.remedy == "connect, or bring it into the cache"


class Card:
    total_memory = 85e9


@pytest.fixture
def eight_gpus(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "H100")
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: Card)
    settings = yaml.safe_load((ROOT / "experiments" / "paper.yaml").read_text(encoding="utf-8"))
    path = machine / "large.yaml"
    path.write_text(yaml.safe_dump(settings | {"models": ["olmo2-7b"]}), encoding="utf-8")
    monkeypatch.setenv("SYMTUNE_EXPERIMENT", str(path))


@pytest.mark.usefixtures("eight_gpus")
def test_the_memory_is_that_of_all_gpus_that_the_launcher_uses(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = found()["memory"]
    assert line.found.startswith("85 GB on the GPU") and line.remedy, "one process has one GPU"
    assert "SYMTUNE_LAUNCHER=torchrun, which uses all 8 GPUs" in line.remedy
    monkeypatch.setenv("SYMTUNE_LAUNCHER", "torchrun")
    line = found()["memory"]
    assert line.found.startswith("680 GB on 8 GPUs") and line.remedy is None

    monkeypatch.delenv("SYMTUNE_LAUNCHER")
    path = machine / "large.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["tuning"] = settings.get("tuning", {}) | {"lora": {"rank": 8}}
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert "memory" not in found(), "adapters take far less"


@pytest.mark.parametrize("name", ["slurm", "ecs", "folder"])
def test_the_memory_of_other_machines_is_not_judged(
    machine: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("SYMTUNE_LAUNCHER", name)
    lines = found()
    assert lines["launcher"].found.startswith(name) and "memory" not in lines


def test_a_launcher_file_that_cannot_be_read_is_a_problem(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine / "mine.yaml").write_text("kind: slurm\nnods: 2\n")
    monkeypatch.chdir(machine)
    monkeypatch.setenv("SYMTUNE_LAUNCHER", "mine.yaml")
    line = found()["launcher"]
    assert "mine.yaml, setting 'nods': unknown setting (did you mean 'nodes'?)" in line.found
    assert line.remedy


def test_a_torch_for_cpus_beside_an_nvidia_driver_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.__version__", "2.13.0+cpu")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(doctor, "DRIVER", tmp_path / "nothing")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.gpu().remedy is None
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    line = doctor.gpu()
    assert "`make setup` has taken torch 2.13.0+cpu" in line.found
    assert line.remedy and "requirements/gpu.lock" in line.remedy


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((403, "GatedRepo"), "has a licence to accept (status 403); accept it"),
        ((404, "RevisionNotFound"), "is not there (RevisionNotFoundError"),
    ],
)
def test_weights_that_the_hub_refuses_are_a_problem(
    answer: tuple[int, str], says: str, tmp_path: Path
) -> None:
    model = find_model("smollm2-135m")
    assert model.instruct
    with FakeHub(model.instruct, {}, kind="models", answers={"/SmolLM2": answer}).serving() as hub:
        look = (
            "from symtune_pipeline.commands import doctor; model = doctor.find_model('smollm2-135m');"
            "print(doctor.weights(model)); print(doctor.parent_weights(model))"
        )
        ended = subprocess.run(
            [sys.executable, "-c", look],
            env=os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    base, parent = ended.stdout.splitlines()
    assert base.startswith("problem  weights of smollm2-135m: HuggingFaceTB/SmolLM2-135M-Instruct")
    assert parent.startswith(
        "problem  weights of smollm2-135m's parent: HuggingFaceTB/SmolLM2-135M"
    )
    assert says in base and says in parent


def test_a_model_too_large_for_the_machine_is_a_problem(machine: Path) -> None:
    giant = find_model("micro").model_copy(update={"parameters": 10**15})
    for line in (doctor.memory([giant]), doctor.disk([giant])):
        assert line.remedy and "tuning micro takes about" in line.found


def test_a_full_disk_is_that_of_the_cache_where_the_home_is_on_s3(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    giant = find_model("micro").model_copy(update={"parameters": 10**15})
    assert "set SYMTUNE_HOME to a folder" in str(doctor.disk([giant]))
    monkeypatch.setenv("SYMTUNE_HOME", "s3://bucket/prefix")
    monkeypatch.setenv("SYMTUNE_CACHE", str(machine))
    assert "set SYMTUNE_CACHE to a folder" in str(doctor.disk([giant]))


def test_the_command_ends_with_1_where_there_is_a_problem(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine / "home").write_text("")
    command = [
        sys.executable,
        "-c",
        "from symtune_pipeline.commands.main import main; main()",
        "doctor",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "")
    states = {line.split()[0] for line in ended.stdout.splitlines()}
    assert states == {"ok", "problem"}
