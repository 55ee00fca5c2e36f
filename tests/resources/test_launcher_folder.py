"""A job that is carried to a machine without network, and its result back: to the end, and in pieces."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import polars as pl
import pytest
from conftest import Ended, Home
from graph import materialise
from launching import Launched, launch, until
from tiny_models import tiny_job
from typer.testing import CliRunner

from resources import wheels
from resources.folder import SCRIPT as RUN
from resources.launcher import FolderLauncher, load_launcher
from symtune_pipeline.commands.app import app
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.config import JobConfig as EvaluationJob
from symtune_pipeline.experiment import EXPERIMENTS, load_experiment
from symtune_pipeline.files import TABLE, sha256
from symtune_pipeline.jobs.collecting import AWAITED, awaited, collected
from symtune_pipeline.jobs.in_folder import bring_back, check_job, expect
from symtune_pipeline.jobs.job import Program
from symtune_pipeline.jobs.parcel import FACTS, LIST, Facts, seal
from symtune_pipeline.store.claim import claim
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tuning.job import run_job

PART = 0.00001  # GB: 10,000 bytes
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an empty virtual environment, with what a folder says that it needs, and pip.

    These are links to the packages that are installed here: no download, and nothing else.
    """
    folder = tmp_path_factory.mktemp("machine")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    packages = (f"symtune_pipeline.{name}" for name in ("tuning", "evaluation"))
    names = {name for package in packages for name in wheels.needed(package, HERE, "x86_64", set())}
    installed = Path(sysconfig.get_path("purelib"))
    for name in names | {"pip"}:
        with suppress(PackageNotFoundError):  # what only torch for GPUs requires
            for top in {file.parts[0] for file in distribution(name).files or ()} - {
                "..",
                "__pycache__",
            }:
                if not (site / top).exists():
                    (site / top).symlink_to(installed / top)
    return folder / "bin" / "python"


def on(machine: Path, folder: Path) -> subprocess.Popen[str]:
    """`bash run.sh` there, without a trace of this checkout and of this environment."""
    ours = ("SYMTUNE_", "PYTHON", "DAGSTER_", "VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return subprocess.Popen(
        ["bash", str(folder / "run.sh")],
        env=env | {"PYTHON": str(machine)},
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Its exit status and its lines."""
    said, _ = process.communicate(timeout=300)
    return process.returncode, said.splitlines()


def files(folder: Path, without: str = "") -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != without
    }


def collect(*folders: Path) -> str:
    """What `symtune collect` prints."""
    arguments = ["collect", *map(str, folders)]
    return CliRunner().invoke(app, arguments, catch_exceptions=False).output


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where unfinished work of the experiment `mine` lies."""
    monkeypatch.setenv("SYMTUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


# --- from the first step to the last ---------------------------------------------------------------


@pytest.mark.slow
def test_a_fine_tune_elsewhere_is_killed_goes_on_and_makes_the_model_that_it_makes_here(
    machine: Path, home: Path, tmp_path: Path
) -> None:
    work = home / "mine" / "work" / "model" / "micro"
    job = tiny_job(tmp_path, epochs=3, output_folder=work)
    launcher = FolderLauncher(folder=tmp_path / "sent", part_gb=PART, wheels=False)
    for _ in range(2):  # the second writes nothing
        waits = launch(launcher, job)
        assert waits.error and "\n" not in waits.error
        (sent,) = (tmp_path / "sent").iterdir()
        assert sent.name == f"tuned-{job.fingerprint()}"
        assert f"{sent} " in waits.error and "`symtune collect FOLDER`" in waits.error
    assert "was written before" in waits.error
    assert max(path.stat().st_size for path in sent.rglob("*")) <= 10_000
    assert list(sent.rglob("*.part-00001"))

    there = shutil.copytree(sent, tmp_path / "a b" / "elsewhere")  # and this is far away
    for name in ("base", "blocks.parquet", "sent"):
        os.rename(tmp_path / name, tmp_path / f"{name}-is-not-there")
    first = on(machine, there)
    until(lambda: any(there.glob("work/checkpoints/step-*/state.json")) or first.poll() is not None)
    os.killpg(first.pid, signal.SIGKILL)
    ended(first)
    assert not (there / "result").exists()
    status, lines = ended(on(machine, there))
    assert status == 0, lines
    assert [line for line in lines if line.startswith("tuning: going on from step ")]
    assert (
        f"bring back the folder {there / 'result'} (" in lines[-1]
        and "symtune collect" in lines[-1]
    )

    assert "symtune run --experiment mine --select model --model micro`" in collect(
        shutil.copytree(there / "result", home / "back")
    )
    done = launch(launcher, job)
    assert done.result == collected(job) and done.result
    for name in ("base", "blocks.parquet"):
        os.rename(tmp_path / f"{name}-is-not-there", tmp_path / name)
    here = run_job(job.model_copy(update={"output_folder": tmp_path / "here"}), print)
    assert files(done.result, "log.json") == files(here, "log.json")  # which holds times
    assert done.losses() == Launched(here, None, []).losses()


@pytest.mark.slow
def test_an_evaluation_elsewhere_ends_in_the_tables_of_a_local_process(
    machine: Path, smoke_run: tuple[Home, Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = smoke_run[0].store
    copy = smoke_run[0].copy(tmp_path / "copy")
    store, name = copy.store, "eval_algorithmic"
    shutil.rmtree(store.root / name)
    shutil.rmtree(store.root / f"predictions_{name}")
    (tmp_path / "mine.yaml").write_text(
        f"kind: folder\nfolder: {tmp_path / 'sent'}\nwheels: false\n"
    )
    monkeypatch.setenv("SYMTUNE_LAUNCHER", str(tmp_path / "mine.yaml"))
    monkeypatch.setenv("SYMTUNE_HOME", str(store.root.parent))
    smoke = load_experiment("smoke")

    waits = materialise(smoke, store.root, [name], "micro")
    (failure,) = waits.get_step_failure_events()
    said = failure.step_failure_data.user_failure_data
    assert said and said.description.startswith("The evaluation job waits to be run elsewhere: ")
    assert not [event for event in waits.all_events if event.is_step_restarted]  # nor tried again

    (sent,) = (tmp_path / "sent").iterdir()
    assert sent.name.startswith(f"{name}-micro-")
    status, lines = ended(on(machine, sent))
    assert status == 0, lines
    assert "--experiment smoke --select" in collect(sent)
    assert materialise(smoke, store.root, [name], "micro").success
    assert store.manifest(name, "micro") == local.manifest(name, "micro")
    assert not list((store.root / "work" / name).iterdir())


@pytest.mark.slow
def test_models_that_other_hardware_answered_for_are_sent_and_brought_back_once(
    machine: Path, smoke_run: tuple[Home, Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The untuned model's answers are a GPU's here, and the tuned model has none."""
    copy = smoke_run[0].copy(tmp_path / "copy")
    store, name = copy.store, "eval_algorithmic"
    expected = store.read_table(name, "micro")
    shutil.rmtree(store.root / name)
    shutil.rmtree(store.root / f"predictions_{name}" / "micro-tuned")
    key, untuned = f"predictions_{name}", "micro-untuned"
    path = pl.lit("in batches, beginnings shared, bf16 on cuda")
    elsewhere = store.read_table(key, untuned).with_columns(path=path)
    with store.writing(key, untuned, store.manifest(key, untuned).made_from) as folder:
        elsewhere.write_parquet(folder / TABLE)
    (tmp_path / "mine.yaml").write_text(
        f"kind: folder\nfolder: {tmp_path / 'sent'}\nwheels: false\n"
    )
    monkeypatch.setenv("SYMTUNE_LAUNCHER", str(tmp_path / "mine.yaml"))
    monkeypatch.setenv("SYMTUNE_HOME", str(store.root.parent))
    smoke = load_experiment("smoke")
    carried: set[Path] = set()
    for _ in ("tuned", "untuned"):
        assert not materialise(smoke, store.root, [name], "micro").success
        (sent,) = set((tmp_path / "sent").iterdir()) - carried
        status, lines = ended(on(machine, sent))
        assert status == 0, lines
        collect(sent)
        carried.add(sent)
    assert materialise(smoke, store.root, [name], "micro").success
    assert store.read_table(name, "micro").equals(expected)


# --- what comes back incomplete or changed ---------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """A folder in which a job has run, and the work folder of the run that waits for its result."""

    folder: Path
    work: Path

    @property
    def result(self) -> Path:
        return self.folder / "result"

    @property
    def part(self) -> Path:
        return self.result / "files" / "tuned.parquet.part-00001"

    @property
    def list(self) -> Path:
        return self.result / LIST

    def lines(self, change: Callable[[list[str]], list[str]]) -> None:
        """Change the lines of the result's list."""
        lines = change(self.list.read_text().splitlines())
        self.list.write_text("".join(f"{line}\n" for line in lines))


def sent(tmp_path: Path, home: Path, name: str = "one") -> Sent:
    """As if a job of that name had run: only its tables are made up."""
    folder, work = tmp_path / f"sent-{name}", home / "mine" / "work" / "eval_icl" / name
    job = EvaluationJob(
        output_folder="work", suite="classification", queries="inputs/0/suite.parquet",
        benchmarks=("icl",), variants={}, made_from={"name": name}, precision="fp32",
        chat_template=False,
    )  # fmt: skip
    (folder / "work" / "predictions").mkdir(parents=True)
    for variant, size in (("untuned", 5_000), ("tuned", 25_000)):
        (folder / "work" / "predictions" / f"{variant}.parquet").write_bytes(os.urandom(size))
    (folder / "job.json").write_text(job.model_dump_json())
    shutil.copy(RUN, folder)
    facts = Facts(package=job.package, fingerprint=job.fingerprint(), part_bytes=10_000)
    seal(folder, facts, {name: sha256(folder / name) for name in ("job.json", "run.sh")})
    work.mkdir(parents=True)
    (work / AWAITED).write_text(awaited(job))
    bring_back(folder, Program(job.package))
    return Sent(folder, work)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link_file(one: Sent) -> None:
    elsewhere = one.part.rename(one.folder.parent / "elsewhere")
    one.part.symlink_to(elsewhere)


def link_folder(one: Sent) -> None:
    elsewhere = one.part.parent.rename(one.folder.parent / "elsewhere")
    one.part.parent.symlink_to(elsewhere)


def pipe(one: Sent) -> None:
    one.part.unlink()
    os.mkfifo(one.part)


FAULTS: dict[str, tuple[Callable[[Sent], object], str]] = {
    "a part is missing": (lambda one: one.part.unlink(), "File {part} is missing; copy it again"),
    "a bit is another": (lambda one: flip(one.part), "File {part} was changed on the way; copy it"),
    "a part is cut off": (lambda one: os.truncate(one.part, 99), "File {part} was changed"),
    "a file too many": (
        lambda one: (one.result / "files" / "x").touch(), "File {result}/files/x is not on the list",
    ),
    "a link to a file": (link_file, "{part} is a symbolic link; put the file itself there"),
    "a link to a folder": (link_folder, "{result}/files is a symbolic link; put"),
    "a pipe": (pipe, "{part} is no ordinary file"),
    "no list": (lambda one: one.list.unlink(), "{result} has no SHA256SUMS; copy"),
    "no text": (lambda one: one.list.write_bytes(b"\xff"), "List {list} cannot be read; copy all of"),
    "an empty list": (lambda one: one.lines(lambda lines: []), "List {list} is not whole"),
    "a list without its end": (lambda one: one.lines(lambda ls: ls[:-1]), "List {list} is not whole"),
    "a list without a line, and no such file": (
        lambda one: (one.lines(lambda ls: ls[1:]), (one.result / "files/tuned.parquet.part-00000").unlink()),
        "List {list} has 4 lines instead of 5",
    ),
    "a line twice": (lambda one: one.lines(lambda ls: [ls[0], *ls]), "List {list} has a line 2 that"),
    "no line": (lambda one: one.lines(lambda ls: ["# all", *ls]), "List {list} has a line 1 that"),
    "a name that leads out": (
        lambda one: one.lines(lambda ls: [f"{ls[0][:66]}../../x", *ls]), "List {list} has a line 1 that",
    ),
    "a name from the root": (
        lambda one: one.lines(lambda ls: [f"{ls[0][:66]}/etc/passwd", *ls]), "List {list} has a line 1",
    ),
    "other facts": (lambda one: flip(one.result / FACTS), "File {result}/parcel.json was changed"),
    "no facts": (lambda one: (one.result / FACTS).unlink(), "File {result}/parcel.json is missing"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_came_back_incomplete_or_changed_is_one_sentence_and_nothing_is_lost(
    fault: str, tmp_path: Path, home: Path
) -> None:
    one = sent(tmp_path, home)
    collect(one.result)
    before = files(one.work)
    spoil, told = FAULTS[fault]
    spoil(one)
    for folder in (one.result, one.folder):
        with pytest.raises(UserError) as error:
            collect(folder)
        expected = told.format(part=one.part, result=one.result, list=one.list)
        assert expected in str(error.value) and "\n" not in str(error.value)
    assert files(one.work) == before
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("file", "option"),
    [
        ("mine/a b.yaml", "'{folder}/mine/a b.yaml'"),
        (str(EXPERIMENTS / "smoke.yaml"), "smoke"),
        (str(EXPERIMENTS / "ablations" / "steps.yaml"), "ablations/steps"),
    ],
)
def test_the_command_to_go_on_with_names_the_experiment_as_it_is_typed(
    file: str, option: str, tmp_path: Path, home: Path
) -> None:
    """The work of one that has another name than its file."""
    (tmp_path / "mine").mkdir()
    own = "models: [micro]\ndata: {source: generated}\nmixture: {prompts: 10}\n"
    (tmp_path / "mine" / "a b.yaml").write_text(own)
    owner = load_experiment(str(tmp_path / file)).owner
    assert owner
    claim(Store(home / "mine"), owner)
    said = collect(sent(tmp_path, home).folder)
    (command,) = re.findall("`(.*)`", said)
    assert f"symtune run --experiment {option.format(folder=tmp_path)} --select" in command
    assert load_experiment(shlex.split(command)[3]).owner == owner


def test_a_result_is_taken_as_it_is_from_the_folder_of_the_job_or_alone(
    tmp_path: Path, home: Path
) -> None:
    one, two = sent(tmp_path, home), sent(tmp_path, home, "two")
    said = collect(one.folder, two.result)
    assert "symtune run --experiment mine --select eval_icl --model one`" in said
    assert "--model two`" in said
    for each in (one, two):
        assert files(each.work / "collected") == files(each.folder / "work" / "predictions")
    largest = max(path.stat().st_size for path in one.result.rglob("*"))
    assert largest == 10_000 and len(list(one.result.rglob("*.part-*"))) == 3


def test_the_result_of_another_job_is_not_taken(tmp_path: Path, home: Path) -> None:
    one, two = sent(tmp_path, home), sent(tmp_path, home, "two")
    shutil.rmtree(one.result)
    shutil.copytree(two.result, one.result)
    with pytest.raises(
        UserError, match=r"^The result in \S+ is of another job than \S+sent-one; bring"
    ):
        collect(one.folder)
    (two.work / AWAITED).unlink()
    with pytest.raises(
        UserError, match=r"^Nothing in \S+home waits for the result in \S+result \(job"
    ):
        collect(two.result)
    assert not list(home.rglob("collected*"))


def test_a_folder_in_which_nothing_has_run_is_one_sentence(tmp_path: Path, home: Path) -> None:
    one = sent(tmp_path, home)
    shutil.rmtree(one.result)
    with pytest.raises(UserError, match=r"sent-one has no result yet; run `bash run\.sh` in it"):
        collect(one.folder)
    with pytest.raises(UserError, match=r"nowhere has no SHA256SUMS; copy all of it again"):
        collect(tmp_path / "nowhere")
    (one.folder / "run.sh").unlink()
    with pytest.raises(UserError, match=r"^File \S+run\.sh is missing"):
        collect(one.folder)
    one.result.symlink_to(sent(tmp_path, home, "two").result)
    with pytest.raises(UserError, match=r"result is a symbolic link"):
        collect(one.folder)


def test_a_result_that_is_changed_after_it_was_collected_is_not_used(
    tmp_path: Path, home: Path
) -> None:
    one = sent(tmp_path, home)
    collect(one.folder)
    job = EvaluationJob.model_validate_json((one.folder / "job.json").read_text())
    job = job.model_copy(update={"output_folder": one.work})
    assert collected(job) == one.work / "collected"
    assert collected(job.model_copy(update={"precision": "bf16"})) is None  # another job
    flip(one.work / "collected" / "tuned.parquet")
    with pytest.raises(
        UserError, match=r"collected was changed since; run `symtune collect` again"
    ):
        collected(job)


# --- what arrives incomplete or changed ------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda one: flip(one.folder / "job.json"), "File job.json is missing or was changed"),
        (lambda one: (one.folder / "job.json").unlink(), "File job.json is missing or was changed"),
        (lambda one: (one.folder / LIST).unlink(), "File SHA256SUMS is missing or was changed"),
        (lambda one: cut(one.folder / LIST), "List SHA256SUMS is not whole; copy it here again."),
        (lambda one: expecting(one, python="3.99"), "This folder needs Python 3.99 and "),
        (lambda one: expecting(one, machine="abacus"), "The wheels of this folder are for abacus"),
    ],
)
def test_a_folder_that_does_not_fit_the_machine_is_one_sentence_there(
    spoil: Callable[[Sent], object], told: str, tmp_path: Path, home: Path
) -> None:
    one = sent(tmp_path, home)
    spoil(one)
    status, lines = ended(on(Path(sys.executable), one.folder))
    assert (status, len(lines)) == (2, 2), lines
    assert lines[1].startswith(f"error: {told}")


def cut(path: Path) -> None:
    """Take the last line of a file away."""
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def expecting(one: Sent, **facts: str) -> None:
    told = Facts.model_validate_json((one.folder / FACTS).read_text())
    named = {name: sha256(one.folder / name) for name in ("job.json", "run.sh")}
    seal(one.folder, told.model_copy(update=facts), named)


def test_a_job_that_was_changed_there_does_not_run(tmp_path: Path, home: Path) -> None:
    one, program = sent(tmp_path, home), Program("symtune_pipeline.evaluation")
    check_job(one.folder, program)
    job = one.folder / "job.json"
    job.write_text(job.read_text().replace('"fp32"', '"bf16"'))
    with pytest.raises(UserError, match=r"^The job in \S+ is not the one that was sent; copy"):
        check_job(one.folder, program)


def test_a_package_that_the_machine_lacks_is_named_and_another_version_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    expect({"polars": version("polars"), "torch": "0.1"})
    assert capsys.readouterr().out.startswith("torch is ")
    with pytest.raises(
        UserError, match=r" lacks no-such-package, which this folder does not bring"
    ):
        expect({"no-such-package": "1"})


# --- what travels ----------------------------------------------------------------------------------


def test_a_job_needs_what_it_imports_and_neither_dagster_nor_a_bucket() -> None:
    tuning = wheels.needed("symtune_pipeline.tuning", "3.12", "x86_64", {"torch"})
    evaluation = wheels.needed("symtune_pipeline.evaluation", "3.12", "x86_64", {"torch"})
    for needed in (tuning, evaluation):
        assert {"torch", "transformers", "polars", "pyyaml", "dagster-pipes", "regex"} <= set(
            needed
        )
        assert not {"dagster", "boto3", "botocore", "sympy", "symtune-pipeline"} & set(needed)
        assert needed["polars"] == version("polars")
    assert "peft" in tuning and "tokenizers" in evaluation
    whole = wheels.needed("symtune_pipeline.tuning", "3.12", "x86_64", set())
    assert {"sympy", "triton", "nvidia-nccl-cu13"} <= set(whole) and "+" not in whole["torch"]
    assert "triton" in wheels.needed("symtune_pipeline.tuning", "3.12", "aarch64", set())


@pytest.mark.slow
def test_wheels_come_from_where_pip_finds_them_or_a_sentence_says_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, folder = tmp_path / "built", tmp_path / "wheels"
    built.mkdir()
    wheels.build_code(built)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(built))
    wheels.download({"symtune-pipeline": version("symtune-pipeline")}, folder, "3.12", "aarch64")
    assert [path.name for path in folder.iterdir()] == [path.name for path in built.iterdir()]
    with pytest.raises(
        UserError, match=r"^Wheels for Python 3\.12 on x86_64 cannot be downloaded \(No m"
    ):
        wheels.download({"symtune-pipeline": "99"}, folder, "3.12", "x86_64")


def test_python_is_named_as_one_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for text in ("3.12", '"3.12"'):
        path.write_text(f"kind: folder\nfolder: x\npython: {text}\n")
        assert load_launcher(str(path)) == FolderLauncher(folder=Path("x"), python="3.12")
    path.write_text("kind: folder\nfolder: x\npython: 3.1\n")
    with pytest.raises(UserError, match=r"setting 'python': is to be 3\.11 or newer"):
        load_launcher(str(path))
