"""What the local launcher makes of a job's lines and of how it ends, and which launcher it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
from conftest import ROOT
from launching import descendants, launch, until
from tiny_models import tiny_job

from resources.launcher import (
    LAUNCHERS,
    LocalLauncher,
    RayLauncher,
    TorchrunLauncher,
    load_launcher,
)
from symtune_pipeline.errors import UserError
from symtune_pipeline.tuning.config import JobConfig

pytestmark = pytest.mark.slow

LAUNCH = """
import sys
from launching import launch
from resources.launcher import LocalLauncher
from symtune_pipeline.tuning.config import JobConfig

launch(LocalLauncher(), JobConfig.model_validate_json(open(sys.argv[1]).read()))
"""


def test_the_lines_of_a_job_are_passed_on_and_its_result_is_returned(tmp_path: Path) -> None:
    ended = launch(LocalLauncher(), tiny_job(tmp_path))
    assert ended.result == tmp_path / "job" / "model"
    assert (ended.result / "model.safetensors").is_file()
    assert [line for line in ended.lines if line.startswith("tuning: 100% of ")]


def test_the_sentence_of_a_job_becomes_a_user_error(tmp_path: Path) -> None:
    ended = launch(LocalLauncher(), tiny_job(tmp_path, learning_rate=1e30, warmup_steps=0))
    assert ended.error and ended.error.startswith("Tuning stopped ")
    assert "lower tuning.learning_rate" in ended.error


def test_a_killed_job_is_a_user_error_that_names_the_way_out(tmp_path: Path) -> None:
    config = tiny_job(tmp_path, epochs=500)

    def kill() -> None:
        until(lambda: at_work(config))
        (job,) = descendants(os.getpid(), "symtune_pipeline.tuning --config")
        os.kill(job, signal.SIGKILL)

    Thread(target=kill).start()
    error = launch(LocalLauncher(), config).error
    assert error and "code -9" in error and "goes on from the last checkpoint" in error


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_job_outlives_its_launcher(ending: signal.Signals, tmp_path: Path) -> None:
    config = tiny_job(tmp_path, epochs=500)
    path = tmp_path / "job.json"
    path.write_text(config.model_dump_json(), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCH, str(path)], env=environment)
    try:
        until(lambda: at_work(config))
        (job,) = descendants(launcher.pid)
        launcher.send_signal(ending)
        launcher.wait(60)
    finally:
        launcher.kill()
    until(lambda: not Path(f"/proc/{job}/cmdline").exists(), seconds=20)
    assert not (config.output_folder / "model").exists()


def at_work(config: JobConfig) -> bool:
    """Whether a job has written its first checkpoint."""
    return any((config.output_folder / "checkpoints").glob("step-*/state.json"))


# --- which launcher -----------------------------------------------------------------------------


def test_every_file_of_launchers_is_one() -> None:
    kinds = {path.stem: load_launcher(path.stem).kind for path in LAUNCHERS.glob("*.yaml")}  # type: ignore[attr-defined]
    assert kinds == {name: name for name in kinds}
    assert set(kinds) == {"local", "torchrun", "ray", "ecs", "slurm", "folder"}


def test_a_launcher_of_the_users_own_is_a_file_anywhere(tmp_path: Path) -> None:
    assert load_launcher(written(tmp_path, "kind: torchrun\nprocesses: 4")) == TorchrunLauncher(
        processes=4
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: kubernetes", r"setting 'kind': .*'local', 'torchrun', 'ray', 'ecs', 'slurm'"),
        ("workers: 2", r"setting 'kind': a required setting is missing;"),
        ("knd: ray", r"setting 'kind': .* 'knd' is unknown \(did you mean 'kind'\?\)"),
        ("kind: ecs\nstagin: x", r"setting 'stagin': unknown setting \(did you mean 'staging'\?\)"),
        ("kind: torchrun\nprocesses: 0", r"setting 'processes.*': .* greater than 0"),
        ("kind: ray\nworkers: two", r"setting 'workers': .*integer"),
        (
            "kind: local\nprocesses: 2",
            r"setting 'processes': unknown setting \(known: kind\); launchers/",
        ),
        ("kind: ray\nworker: 2", r"setting 'worker': unknown setting \(did you mean 'workers'\?\)"),
        (
            "kind: ray\naddress: http://me:secret@head:8265",  # pragma: allowlist secret
            r"setting 'address': .*holds a user, a password or a query; (?!.*secret)",
        ),
        ("- local", r"setting 'kind': "),
        ("kind: [", r"is not valid YAML"),
        ("kind: ray\nworkers: 1\nworkers: 2", r"line 3: 'workers' comes a second time"),
    ],
)
def test_a_wrong_launcher_file_is_one_sentence(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UserError, match=rf"^Launcher file \S*mine\.yaml\S* ?{told}") as error:
        load_launcher(written(tmp_path, text))
    assert "\n" not in str(error.value)


def test_an_unknown_launcher_names_those_there_are() -> None:
    with pytest.raises(
        UserError,
        match=r"SYMTUNE_LAUNCHER to one of ecs, folder, local, ray, slurm, torchrun or to",
    ):
        load_launcher("kubernetes")


def test_without_ray_the_ray_launcher_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    error = launch(RayLauncher(), tiny_job(tmp_path)).error
    assert error and "pip install 'symtune-pipeline[ray]'" in error


def written(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)
