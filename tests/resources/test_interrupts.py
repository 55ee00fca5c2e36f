"""What somebody stops stays stopped: a run, a fine-tune job by every launcher, a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM
from threading import Thread

import dagster as dg
import psutil
import pytest
import yaml
from conftest import ROOT, SYMTUNE, Ended, Home
from launching import descendants, launch, until
from tiny_models import tiny_job

from resources.launcher import Launcher, LocalLauncher, RayLauncher, TorchrunLauncher

pytestmark = pytest.mark.slow

TUNE = (SYMTUNE, "run", "--select", "key:symbol_tuned_model")
DAGSTER = (sys.executable, "-m", "dagster", "asset", "materialize", "-m", "definitions")


@pytest.fixture
def home(smoke_run: tuple[Home, Ended], tmp_path: Path) -> Home:
    """A finished run of the smoke experiment, whose fine-tune now takes far longer than a test."""
    home = smoke_run[0].copy(tmp_path / "copy")
    settings = yaml.safe_load((ROOT / "experiments" / "smoke.yaml").read_text(encoding="utf-8"))
    settings["tuning"] |= {"epochs": 10_000, "checkpoint_seconds": 0.2}
    (home.folder / "smoke.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return home


@pytest.fixture
def start(home: Home) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a program in the repository, in a group of processes of its own as a shell does."""
    started: list[subprocess.Popen[str]] = []

    def run(*command: str, **environment: str) -> subprocess.Popen[str]:
        env = home.environment | {"SYMTUNE_EXPERIMENT": str(home.folder / "smoke.yaml")}
        process = subprocess.Popen(
            command, cwd=ROOT, env=env | environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        for each in [process.pid, *(descendants(process.pid) if process.poll() is None else [])]:
            if psutil.pid_exists(each):
                os.kill(each, SIGKILL)


def checkpoints(home: Home) -> list[Path]:
    folder = home.store.root / "work" / "symbol_tuned_model" / "micro" / "checkpoints"
    return list(folder.glob("step-*/state.json"))


def tuning(home: Home, process: subprocess.Popen[str]) -> list[int]:
    """The processes below one that tunes, when it has written a checkpoint."""
    until(lambda: bool(checkpoints(home)) or process.poll() is not None, seconds=120)
    assert process.poll() is None, process.communicate()[0]
    return descendants(process.pid)


def ended(process: subprocess.Popen[str]) -> str:
    """What a program has printed that has just been asked to end, and does so."""
    printed, _ = process.communicate(timeout=60)
    assert "Traceback" not in printed
    return printed


def newest_run(home: Home) -> dg.DagsterRun:
    with dg.DagsterInstance.from_config(str(home.history)) as instance:
        return instance.get_runs(limit=1)[0]


@pytest.mark.parametrize(
    ("ending", "to_all", "status"),
    [(SIGINT, True, 130), (SIGTERM, False, 143), (SIGTERM, True, 143)],
)
def test_a_run_that_is_stopped_while_it_tunes_is_cancelled_and_goes_on_later(
    home: Home,
    start: Callable[..., subprocess.Popen[str]],
    ending: signal.Signals,
    to_all: bool,
    status: int,
) -> None:
    run = start(*TUNE)
    jobs = tuning(home, run)
    (os.killpg if to_all else os.kill)(run.pid, ending)  # a terminal's Ctrl-C reaches the job, too
    printed = ended(run)
    assert run.returncode == status
    last = printed.splitlines()[-1]
    assert last.startswith("The run was interrupted; ") and last.endswith("the last checkpoint.")
    assert newest_run(home).status == dg.DagsterRunStatus.CANCELED
    assert not [job for job in jobs if psutil.pid_exists(job)]
    assert checkpoints(home)

    again = start(*TUNE)
    assert again.stdout
    assert any("tuning: going on from step " in line for line in again.stdout)


@pytest.mark.parametrize("asked", [False, True])
def test_a_run_of_dagsters_own_command_is_not_tried_again(
    home: Home, start: Callable[..., subprocess.Popen[str]], asked: bool
) -> None:
    run = start(*DAGSTER, "--select", "symbol_tuned_model", "--partition", "micro")
    jobs = tuning(home, run)
    if asked:  # what *Terminate* in the UI does before it sends the signal
        with dg.DagsterInstance.from_config(str(home.history)) as instance:
            instance.report_run_canceling(instance.get_runs(limit=1)[0])
    run.send_signal(SIGINT)
    printed, _ = run.communicate(timeout=60)
    assert run.returncode == 1  # Dagster knows no other
    assert "STEP_UP_FOR_RETRY" not in printed
    status = newest_run(home).status
    assert status == (dg.DagsterRunStatus.CANCELED if asked else dg.DagsterRunStatus.FAILURE)
    assert not [job for job in jobs if psutil.pid_exists(job)]
    assert checkpoints(home)


@pytest.mark.parametrize(
    ("launcher", "ending"),
    [
        (LocalLauncher(), SIGINT),
        (LocalLauncher(), SIGTERM),
        (TorchrunLauncher(processes=2), SIGINT),
        (RayLauncher(), SIGTERM),
    ],
    ids=lambda x: getattr(x, "kind", None),
)
def test_a_job_that_is_stopped_ends_whole_and_is_not_taken_for_lost(
    launcher: Launcher, ending: signal.Signals, tmp_path: Path
) -> None:
    config = tiny_job(tmp_path, epochs=5_000)
    stopped: list[int] = []

    def stop() -> None:
        until(lambda: any((config.output_folder / "checkpoints").glob("step-*/state.json")))
        # A program and its ranks all name the job's file; the first is the one that was launched.
        stopped.extend(descendants(os.getpid(), str(config.output_folder / "job.json")))
        os.kill(min(stopped), ending)

    thread = Thread(target=stop)
    thread.start()
    with pytest.raises(dg.DagsterExecutionInterruptedError):
        launch(launcher, config)
    thread.join()
    assert stopped
    until(lambda: not [job for job in stopped if psutil.pid_exists(job)], seconds=30)
    assert not (config.output_folder / "model").exists()


@pytest.mark.parametrize(
    ("launcher", "program"),
    [
        (LocalLauncher(), "symtune_pipeline.tuning"),
        (TorchrunLauncher(processes=2), "symtune_pipeline.jobs.on_torchrun"),
        (RayLauncher(), "symtune_pipeline.jobs.on_ray"),
    ],
    ids=lambda x: getattr(x, "kind", None),
)
def test_a_signal_while_a_jobs_interpreter_starts_is_heard_once_it_runs(
    launcher: Launcher,
    program: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, sys\nif {program!r} == sys.orig_argv[2]: os.kill(os.getpid(), {int(SIGINT)})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    config = tiny_job(tmp_path)
    with pytest.raises(dg.DagsterExecutionInterruptedError):
        launch(launcher, config)
    assert "Traceback" not in "".join(capfd.readouterr())
    assert not (config.output_folder / "model").exists()


def test_a_signal_while_the_interpreters_of_ranks_start_is_heard_once_they_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Their launcher gets it from the first of them, and passes it on at once."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\n"
        "if 'LOCAL_RANK' in os.environ:\n"
        "    if os.environ['LOCAL_RANK'] == '0':\n"
        f"        os.kill(os.getppid(), {int(SIGINT)})\n"
        "    time.sleep(1)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    config = tiny_job(tmp_path)
    with pytest.raises(dg.DagsterExecutionInterruptedError):
        launch(TorchrunLauncher(processes=2), config)
    assert "Traceback" not in "".join(capfd.readouterr())
    assert not (config.output_folder / "model").exists()


def test_a_run_that_is_stopped_in_another_stage_is_cancelled(
    home: Home, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    run = start(SYMTUNE, "run", SYMTUNE_HOME=str(tmp_path / "empty"))
    until(
        lambda: (
            any((tmp_path / "empty").glob("smoke/raw_*/manifest.json")) or run.poll() is not None
        )
    )
    os.killpg(run.pid, SIGINT)
    assert ended(run).splitlines()[-1].startswith("The run was interrupted; ")
    assert run.returncode == 130
    assert newest_run(home).status == dg.DagsterRunStatus.CANCELED


@pytest.mark.parametrize(("ending", "status"), [(SIGINT, 130), (SIGTERM, 143)])
def test_a_command_that_is_stopped_says_so(
    start: Callable[..., subprocess.Popen[str]], ending: signal.Signals, status: int
) -> None:
    program = "from symtune_pipeline.commands.main import main; main()"
    slow = "SELECT sum(a.range * b.range % 7) FROM range(3000) a, range(100000) b"
    command = start(sys.executable, "-c", program, "query", slow)
    maps = Path(f"/proc/{command.pid}/maps")
    until(lambda: "duckdb" in maps.read_text() or command.poll() is not None)
    command.send_signal(ending)
    assert ended(command).splitlines() == ["The command was interrupted."]
    assert command.returncode == status


@pytest.mark.parametrize("sign", [SIGINT, SIGTERM], ids=str)
def test_a_signal_while_the_second_program_of_a_run_starts_is_heard_once_it_runs(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, sign: signal.Signals
) -> None:
    """`symtune run` gives way to a program with Dagster; its interpreter sends itself the signal."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, sys\nif 'assets.run' in sys.orig_argv: os.kill(os.getpid(), {int(sign)})\n"
    )
    process = start(SYMTUNE, "run", PYTHONPATH=str(tmp_path))
    assert ended(process).splitlines() == [
        "The run was interrupted; start it again to resume, a fine-tune from the last checkpoint."
    ]
    assert process.returncode == 128 + sign


@pytest.mark.parametrize(
    "program",
    [
        ("symtune_pipeline.tuning",),
        ("symtune_pipeline.evaluation",),
        ("symtune_pipeline.jobs.on_torchrun", "-m", "symtune_pipeline.tuning"),
        ("symtune_pipeline.jobs.on_ray", "-m", "symtune_pipeline.tuning"),
    ],
    ids=lambda program: program[0],
)
def test_a_signal_while_a_job_imports_is_no_traceback(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, program: tuple[str, ...]
) -> None:
    """The program sends itself the signal at the first of the imports that take long."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "class Hook:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'pydantic':\n"
        "            sys.meta_path.remove(self)\n"
        f"            os.kill(os.getpid(), {int(SIGINT)})\n"
        "sys.meta_path.insert(0, Hook())\n"
    )
    process = start(
        sys.executable, "-m", *program, "--config", "nowhere.json", PYTHONPATH=str(tmp_path)
    )
    assert "Traceback" not in ended(process)
    assert process.returncode == 128 + SIGINT


@pytest.mark.parametrize(
    "reading",
    [
        "from assets.versions import imported as read",
        "from resources.wheels import _imported as read",
    ],
)
def test_a_signal_while_imports_are_read_waits_for_the_end(reading: str) -> None:
    """The extension module that reads them panics where an exception comes to it."""
    program = f"""
import os, signal
import grimp
from symtune_pipeline.errors.interrupts import run_command
{reading}

build, built = grimp.build_graph, []

def interrupted(*packages, **options):
    os.kill(os.getpid(), signal.SIGINT)
    built.append(build(*packages, **options))
    return built[0]

grimp.build_graph = interrupted
status = run_command(lambda: read("symtune_pipeline.tuning") and 0, "")
raise SystemExit(f"{{status}}, {{len(built)}} built")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == "130, 1 built\n"


def test_a_second_signal_that_comes_at_a_commands_end_prints_nothing() -> None:
    """A launcher passes on a signal that the terminal has sent already."""
    program = """
import atexit, os, signal, sys
from symtune_pipeline.errors.interrupts import run_command, status

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

def work():  # as a job does that tells its launcher how it ended
    try:
        interrupt()
    except KeyboardInterrupt:
        return status()

atexit.register(interrupt)
sys.exit(run_command(work, "Stopped."))
"""
    command = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (command.returncode, command.stdout, command.stderr) == (130, "", "")


LOGS = """
import logging, os, signal, sys
from symtune_pipeline.errors.interrupts import run_command

def work():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        logging.getLogger("library.pool").error("while closing", exc_info=True)
        logging.getLogger("library.pool").error("something else")
        raise

sys.exit(run_command(work, "It was interrupted."))
"""


def test_a_library_that_logs_the_exception_of_a_signal_prints_no_traceback() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LOGS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (143, "something else\nIt was interrupted.\n")
