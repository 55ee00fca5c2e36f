"""What several test files share: the symbol pool, a small real tokenizer, small tables of examples."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from filelock import FileLock
from sockets import Watch

from symtune_pipeline.catalog.datasets import find_dataset
from symtune_pipeline.files import sha256
from symtune_pipeline.prompts.symbols import symbol_pool
from symtune_pipeline.sections import SymbolsConfig
from symtune_pipeline.sources.generated import generate
from symtune_pipeline.sources.normal import normal_form
from symtune_pipeline.store.claim import CLAIM
from symtune_pipeline.store.folder import Store

ROOT = Path(__file__).resolve().parents[1]
SYMTUNE = str(Path(sys.executable).with_name("symtune"))  # the command, as it is installed
DATA_SIDE = "+(kind:sql and not key:eval+)"  # as in the Makefile
TUNING_SETS = ("hotel_reviews", "news_topics", "hobby_posts", "opposites")
EVALUATION_SETS = ("phone_reviews", "magazine_topics", "life_events")
ROWS = 80  # of a set: 20 of each class of the largest

Ended = subprocess.CompletedProcess[str]

# Threads of tests that run beside each other would wait for each other. It is for the processes that
# tests start, too; torch reads it when it is imported, which no import above does.
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that no worker is left with one of them at the end.

    Each of two workers starts with every second of the first four, then takes what is next.
    """
    files = (
        "interrupts",
        "pipeline",
        "aws",
        "scan",
        "automation",
        "launcher_ranks",
        "versions",
        "tuning",
    )
    more = ("browser", "readme", "cli", "tuning_ranks", "weights", "launcher", "own", "benchmarks")
    longest = [f"test_{name}.py" for name in (*files, *more)]
    order = {name: place for place, name in enumerate(longest)}
    items.sort(key=lambda item: order.get(item.path.name, len(longest)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data for development; a machine without it skips the tests that need it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the development data in {folder}, which is absent")
    return folder


@pytest.fixture(scope="session")
def symbols() -> pl.DataFrame:
    """The whole pool of symbols."""
    return symbol_pool(SymbolsConfig(), [])


@pytest.fixture(scope="session")
def tuning_examples() -> pl.DataFrame:
    """Examples of four generated sets with two to four classes, numbered as for a mixture."""
    frames = [_normal(key, "train") for key in TUNING_SETS]
    return _numbered(pl.concat(frames))


@pytest.fixture(scope="session")
def evaluation_examples() -> pl.DataFrame:
    """Examples of three held-out sets: training rows are exemplars, test rows are queries."""
    frames = [
        _normal(key, split).with_columns(purpose=pl.lit(purpose), halved=pl.lit(False))
        for key in EVALUATION_SETS
        for split, purpose in (("train", "exemplar"), ("test", "query"))
    ]
    return _numbered(pl.concat(frames))


@pytest.fixture(scope="session")
def tokenizer(tuning_examples: pl.DataFrame) -> Any:
    """A byte-level BPE tokenizer of 600 tokens, trained on the inputs of `tuning_examples`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(tuning_examples["input"].to_list(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=trained)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Home:
    """A folder with everything that runs of the smoke experiment make."""

    folder: Path

    @property
    def store(self) -> Store:
        return Store(self.folder / "home" / "smoke")

    @property
    def history(self) -> Path:
        """Where Dagster keeps what it knows of the runs: an instance with its own defaults."""
        return self.folder / "dagster" / "experiments" / "smoke"

    @property
    def environment(self) -> dict[str, str]:
        """Of a shell after `source .envrc`, with a home and a Dagster instance of its own."""
        ours = ("DAGSTER_", "SYMTUNE_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        instance = self.folder / "dagster"
        instance.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / ".dagster" / "dagster.yaml", instance)
        return kept | {
            "SYMTUNE_HOME": str(self.folder / "home"),
            "SYMTUNE_EXPERIMENT": "smoke",
            "DAGSTER_HOME": str(instance),
        }

    def run(self, *arguments: str, experiment: str = "smoke", **environment: str) -> Ended:
        """`symtune run`."""
        command = (SYMTUNE, "run", "--experiment", experiment, *arguments)
        return self._start(*command, **environment)

    def dagster(self, *arguments: str, experiment: str = "smoke") -> Ended:
        """`dagster asset materialize`."""
        command = ("-m", "dagster", "asset", "materialize", "-m", "definitions", *arguments)
        return self._start(sys.executable, *command, SYMTUNE_EXPERIMENT=experiment)

    def _start(self, *command: str, **environment: str) -> Ended:
        env = self.environment | environment
        # A test's own smoke.yaml takes the place of the shipped one, whose results it may change.
        (self.store.root / CLAIM).unlink(missing_ok=True)
        return subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )

    def report(self) -> dict[str, bytes]:
        """The report's files but the pictures."""
        folder = self.store.folder("eval_report")
        return {name: (folder / name).read_bytes() for name in ("index.html", "summary.json")}

    def files(self) -> dict[str, tuple[str, int]]:
        """Every file of the store: its hash and when it was written."""
        root = self.store.root
        return {
            path.relative_to(root).as_posix(): (sha256(path), path.stat().st_mtime_ns)
            for path in root.rglob("*")
            if path.is_file() and path.name != CLAIM
        }

    def copy(self, folder: Path) -> Home:
        """The same tables, models and history of runs in another folder."""
        shutil.copytree(
            self.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(CLAIM)
        )
        return Home(folder)


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> tuple[Home, Ended]:
    """A first run of the smoke experiment in an empty home, and how it ended.

    It is made once for all processes that pytest-xdist starts: copy it to change it.
    """
    session = tmp_path_factory.getbasetemp()
    session = session if worker_id == "master" else session.parent
    home, kept = Home(session / "smoke_run"), session / "smoke_run.json"
    with FileLock(session / "smoke_run.lock"):
        if not kept.exists():
            with Watch(os.getpid()) as watch:
                first = home.run()
            (home.folder / "sockets.json").write_text(json.dumps(sorted(watch.found)))
            kept.write_text(json.dumps([first.args, first.returncode, first.stdout, first.stderr]))
    return home, Ended(*json.loads(kept.read_text()))


@dataclass(frozen=True)
class DataSide:
    """The smoke experiment up to its mixture and suites, and how the run that made it ended."""

    home: Path
    ended: subprocess.CompletedProcess[str]

    @property
    def store(self) -> Store:
        return Store(self.home / "smoke")


@pytest.fixture(scope="session")
def data_side(tmp_path_factory: pytest.TempPathFactory) -> DataSide:
    """Real tables, made by the command behind `make sql`, and the suites."""
    folder = tmp_path_factory.mktemp("data_side")
    ended = materialize(folder, f"{DATA_SIDE} or key:eval")
    assert ended.returncode == 0, ended.stderr
    return DataSide(folder / "home", ended)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket on a server of this machine, which AWS_ENDPOINT_URL names."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",  # pragma: allowlist secret
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        boto3.session.Session().client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket"
    server.stop()


def materialize(folder: Path, selection: str) -> subprocess.CompletedProcess[str]:
    """`symtune run --experiment smoke --select …` with `folder / "home"` as its home."""
    (folder / "dagster").mkdir()
    shutil.copy(ROOT / ".dagster" / "dagster.yaml", folder / "dagster")  # without telemetry
    environment = os.environ | {
        "SYMTUNE_HOME": str(folder / "home"),
        "DAGSTER_HOME": str(folder / "dagster"),
    }
    command = [SYMTUNE, "run", "--experiment", "smoke", "--select", selection]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def _normal(key: str, split: str) -> pl.DataFrame:
    return normal_form(generate(key, split, ROWS, seed=0), find_dataset(key), split, f"Set {key}")


def _numbered(examples: pl.DataFrame) -> pl.DataFrame:
    return examples.with_row_index("example").with_columns(pl.col("example").cast(pl.UInt32))
