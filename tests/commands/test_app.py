"""The command `symtune` itself: its options and where they may stand."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from symtune_pipeline.commands.app import app
from symtune_pipeline.errors import UserError


@pytest.mark.parametrize(
    "arguments",
    [
        ["--experiment", "no_such", "query", "SELECT 1"],
        ["query", "SELECT 1", "--experiment", "no_such"],
        ["query", "--experiment=no_such", "SELECT 1"],
        ["show", "table", "raw", "--experiment", "no_such"],
    ],
)
def test_the_experiment_may_be_named_anywhere(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMTUNE_EXPERIMENT", "smoke")
    with pytest.raises(UserError, match=r"Experiment file .*no_such\.yaml cannot be read"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_an_experiment_without_a_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMTUNE_EXPERIMENT", "smoke")
    found = CliRunner().invoke(app, ["doctor", "--experiment"])
    assert found.exit_code == 2
    assert "requires an argument" in found.output


def test_there_is_completion_for_shells() -> None:
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output
