"""Whatever causal class is loaded: its numbers are those of each whole string alone, or a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from scan import Found, configurations, found, page

DOCS = Path(__file__).resolve().parents[2] / "docs" / "models.md"
SOME = {
    **dict.fromkeys(
        ("llama", "gpt2", "gemma3_text", "gpt_oss", "deepseek_v3", "whisper"), "packed"
    ),
    **dict.fromkeys(("bloom", "falcon", "jamba", "lfm2", "mamba", "mpt", "roberta"), "plain"),
    "bert:bidirectional": "refused",
}


def check(name: str) -> Found | str:
    """Right by 1e-4 on the path that was taken, if there is such a tiny model."""
    result = found(name)
    if isinstance(result, Found):
        assert result.worst < 1e-4
        assert (
            result.generation or result.path.endswith("language model.") or "alone" in result.path
        )
    return result


@pytest.mark.parametrize("name", SOME)
def test_scores_losses_and_gradients_are_those_of_each_string_alone(name: str) -> None:
    result = check(name)
    assert isinstance(result, Found)
    path = result.path.split(" (")[0] if result.generation else "refused"
    assert path == SOME[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", configurations())
def test_every_causal_class_is_right_or_refused(name: str) -> None:
    result = check(name)
    if isinstance(result, str):
        pytest.skip(f"no tiny model of it: {result}")


@pytest.mark.slow
def test_the_page_of_models_says_what_the_scan_finds() -> None:
    assert DOCS.read_text(encoding="utf-8") == page()
    results = [found(name) for name in configurations()]
    assert sum(isinstance(r, Found) and bool(r.generation) for r in results) >= 60
