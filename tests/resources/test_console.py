"""Dagster's own commands end with a sentence where a user's mistake ends them."""

from __future__ import annotations

import subprocess
import sys

import dagster as dg
import pytest
from conftest import ROOT, Home
from dagster._check import CheckError
from dagster._core.errors import DagsterInvalidSubsetError
from dagster_shared.error import SerializableErrorInfo

from assets.step import user_errors
from resources.console import LISTED, UNNAMED, end_in_one_sentence
from symtune_pipeline.errors import UserError


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """An error as it is caught, with what has caused it."""
    with pytest.raises(type(error)) as caught:
        raise error from cause
    return caught.value


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("Set x."), "error: Set x.\n"),
        (raised(RuntimeError("loading failed"), UserError("Set x.")), "error: Set x.\n"),
        (DagsterInvalidSubsetError("No asset y. See.\nMore."), f"error: No asset y; {LISTED}.\n"),
        (dg.DagsterUnknownPartitionError("No model z."), f"error: No model z; {LISTED}.\n"),
        (
            CheckError(
                "Failure condition: Asset has partitions, but no '--partition' option was provided"
            ),
            f"error: {UNNAMED}\n",
        ),
        (raised(ValueError("a bug")), "Traceback"),
        (raised(CheckError("Invariant failed.")), "Traceback"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_mistake_is_one_sentence_and_a_bug_has_its_traceback(
    error: BaseException, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    end_in_one_sentence()
    sys.excepthook(type(error), error, error.__traceback__)
    printed = capsys.readouterr().err
    assert printed == said or (said == "Traceback" and printed.startswith(said))


@pytest.mark.parametrize(
    ("error", "stack"), [(UserError("Set x."), False), (ValueError("a bug"), True)]
)
def test_a_step_that_fails_by_a_mistake_is_logged_without_its_stack(
    error: Exception,
    stack: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    kept = SerializableErrorInfo.__dict__["from_traceback"]
    monkeypatch.setattr(SerializableErrorInfo, "from_traceback", kept)
    end_in_one_sentence()

    @dg.asset
    def wrong() -> None:
        with user_errors():
            raise error

    with dg.DagsterInstance.ephemeral() as instance:
        assert not dg.materialize([wrong], instance=instance, raise_on_error=False).success
    printed = capfd.readouterr().err
    assert ("Stack Trace" in printed) == ("test_console.py" in printed) == stack
    if not stack:
        assert printed.count("\n\nSet x.\n") == 2  # of the step, and of the run


def test_a_partition_that_there_is_not_is_one_sentence_of_dagsters_command(home: Home) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "dagster", "asset", "materialize"]
    options = ["-m", "definitions", "--select", "base_model", "--partition", "nope"]
    ended = subprocess.run(
        [*command, *options],
        cwd=ROOT, env=home.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ") and "`nope`" in line


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("console"))
