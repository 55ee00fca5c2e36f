"""What predictions do not depend on: a change there makes none of them stale."""

from __future__ import annotations

import grimp
import pytest

ROOM = "symtune_pipeline.evaluation"
MODELS = "symtune_pipeline.models"


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("symtune_pipeline")


@pytest.mark.parametrize("module", ["classification", "scorer", "served", "generation"])
def test_scoring_does_not_depend_on_how_suites_are_drawn(
    graph: grimp.ImportGraph, module: str
) -> None:
    needed = graph.find_upstream_modules(f"{ROOM}.{module}")
    assert not needed & {f"{ROOM}.suites", f"{ROOM}.concepts", "symtune_pipeline.prompts.mixture"}


def test_generation_does_not_depend_on_packed_attention(graph: grimp.ImportGraph) -> None:
    needed = graph.find_upstream_modules(f"{ROOM}.generation")
    assert f"{MODELS}.device" in needed
    assert not needed & {f"{MODELS}.attention", f"{MODELS}.loading"}
