"""A small part of `make test-faults`, which tries a thousand times as much."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from conftest import Ended, Home
from faults import damage, inputs
from faults.outcome import Kind


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [(damage.in_a_store, 40), (inputs.odd, 60)])
def test_a_few_faults_of_a_quick_kind_do_no_harm(
    kind: Kind,
    count: int,
    smoke_run: tuple[Home, Ended],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = smoke_run[0].copy(tmp_path / "golden-local")
    for name, value in whole.environment.items():
        monkeypatch.setenv(name, value)
    tried = list(kind(Random(0), tmp_path / "kind", count))
    assert len(tried) == count
    assert [each for each in tried if each.result != "survived"] == []
