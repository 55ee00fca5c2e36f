"""Whole runs that are killed, stopped, starved of disk or served by a bucket that fails."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from threading import Timer

import psutil
from conftest import ROOT, SYMTUNE, Home
from flaky_server import flaky

from faults.outcome import Outcome, Result
from symtune_pipeline.errors import UserError
from symtune_pipeline.store.bucket import Bucket, BucketStore
from symtune_pipeline.store.folder import Store

HANG = 600  # seconds after which a run that should have ended counts as hanging
TIMES = "tuning_log"  # the artifact that differs from run to run, as it holds times


@cache
def golden(folder: Path, launcher: str = "local") -> Home:
    """A whole run that nothing has disturbed."""
    home = Home(folder.parent / f"golden-{launcher}")
    if not home.store.root.exists():
        ended = home.run(SYMTUNE_LAUNCHER=launcher)
        assert ended.returncode == 0, ended.stderr
    return home


def killed(random: Random, folder: Path, count: int, launcher: str = "local") -> Iterator[Outcome]:
    """The run, or one of the processes that it has started, at any moment; the next run goes on.

    What several ranks have tuned differs from what one has in the last digits: each launcher has a home
    of its own.
    """
    whole, home = golden(folder, launcher), Home(folder / "killed")
    for _ in range(count):
        sign = random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        moment, of_all = random.uniform(1, 40), random.random()
        what = f"{launcher}, {sign.name} after {moment:.1f} s"
        code, said, whom = _struck(home, launcher, sign, moment, of_all)
        yield Outcome(f"{what} to {whom}", *_judged(whole, home.store, code, said, sign))
        if code == 0:  # there is nothing left to do for the next
            _forget(random, home)
    ended = home.run(SYMTUNE_LAUNCHER=launcher)
    yield Outcome(
        f"the last run, {launcher}",
        *_judged(whole, home.store, ended.returncode, ended.stderr, None),
    )


def on_a_full_disk(random: Random, folder: Path, count: int) -> Iterator[Outcome]:
    """A run that may write no file above a size, wherever it meets that; the next run goes on."""
    whole, home = golden(folder), Home(folder / "full")
    for _ in range(count):
        size = int(10 ** random.uniform(3, 7))
        ended = _run(
            home, lambda size=size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        )
        code, said = ended.returncode, ended.stdout + ended.stderr
        yield Outcome(f"files end at {size} bytes", *_judged(whole, home.store, code, said, None))
        _forget(random, home)
    ended = home.run()
    yield Outcome("the last run", *_judged(whole, home.store, ended.returncode, ended.stderr, None))


def on_a_bad_bucket(random: Random, folder: Path, count: int) -> Iterator[Outcome]:
    """The data side in a bucket of which every tenth answer is wrong, late or cut."""
    whole, behind = golden(folder), os.environ["AWS_ENDPOINT_URL"]
    for number in range(count):
        seed = random.randrange(10**6)
        url, home = f"s3://bucket/run-{number}", Home(folder / f"bucket {number}")
        with flaky(behind, 0.1, seed) as server:
            ended = home.run(
                "--select", "+key:tuning_mixture",
                SYMTUNE_HOME=url, SYMTUNE_CACHE=str(home.folder / "cache"),
                AWS_ENDPOINT_URL=server.address,
            )  # fmt: skip
        shutil.rmtree(home.folder / "cache", ignore_errors=True)
        store = BucketStore(home.folder / "again", Bucket(f"{url}/smoke"))
        code, said = ended.returncode, ended.stdout + ended.stderr
        what = f"seed {seed}, {len(server.done)} faults"
        yield Outcome(what, *_judged(whole, store, code, said, None))
        shutil.rmtree(home.folder)


def _struck(
    home: Home, launcher: str, sign: signal.Signals, moment: float, of_all: float
) -> tuple[int, str, str]:
    """Start a run, and send a signal after a while; returns how it ended, what it said, and who got it."""
    process = subprocess.Popen(
        [SYMTUNE, "run", "--experiment", "smoke"],
        cwd=ROOT, env=home.environment | {"SYMTUNE_LAUNCHER": launcher}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    whom = ["nobody, as it had ended"]

    def strike() -> None:
        if process.poll() is None:
            run = psutil.Process(process.pid)
            # A user's signal goes to the run; a kill meets any process, of a rank for instance.
            among = [run, *run.children(recursive=True)] if sign == signal.SIGKILL else [run]
            victim = among[int(of_all * len(among))]
            whom[0] = " ".join(victim.cmdline()[1:5])
            victim.send_signal(sign)

    timer = Timer(moment, strike)
    timer.start()
    try:
        said, _ = process.communicate(timeout=HANG)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said = "HANG"
    timer.cancel()
    return process.returncode, said or "", whom[0]


def _run(home: Home, before: Callable[[], None]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SYMTUNE, "run", "--experiment", "smoke"], check=False, timeout=HANG,
        cwd=ROOT, env=home.environment, preexec_fn=before, capture_output=True, text=True,
    )  # fmt: skip


def _judged(
    whole: Home, store: Store, code: int, said: str, sign: signal.Signals | None
) -> tuple[Result, str]:
    """How a run has ended, and whether what it has left is what an undisturbed run makes."""
    if "Traceback" in said or said == "HANG":
        return "lost", said[max(0, said.find("Traceback") - 300) :][:3_000]
    allowed = (0, 1, 2, -signal.SIGKILL) if sign != signal.SIGKILL else (0, 1, -signal.SIGKILL)
    if code not in (*allowed, 128 + (sign or 0), -(sign or 0)):
        return "lost", f"exit status {code}: {said[-500:]}"
    for key, partition in whole.store.artifacts():
        try:
            made = store.find(key, partition)
            if made is None or key == TIMES:
                continue
            store.folder(key, partition)
        except UserError as error:
            return "lost", str(error)
        if made.version != whole.store.manifest(key, partition).version:
            return "silently wrong", f"{key} {partition or ''} has another version"
    return "survived", ""


def _forget(random: Random, home: Home) -> None:
    """Remove some artifacts, for the next run to make."""
    for key in {key for key, _ in home.store.artifacts()}:
        if random.random() < 0.5:
            shutil.rmtree(home.store.root / key)
