"""Ranks that hold a model together answer what one rank answers that holds the whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from evaluation_jobs import Asked, kept, save_model_that_reads
from ranks import on_ranks, start_ranks

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation import scorer
from symtune_pipeline.evaluation.config import JobConfig
from symtune_pipeline.evaluation.job import run_job
from symtune_pipeline.evaluation.spread import ranks_per_model
from symtune_pipeline.files import read_table
from symtune_pipeline.jobs import ranks as job_ranks
from symtune_pipeline.jobs.ranks import Ranks
from symtune_pipeline.tables import Suite

SUITES: tuple[Suite, ...] = ("classification", "algorithmic")
SCORES = ("logprobs", "content_free")
# How two ranks hold a model of a family together. The last runs string by string; its plan cuts what its
# convolutions need whole.
FAMILIES = {
    "llama": "tensor parallelism",
    "olmo2": "tensor parallelism",
    "qwen3": "tensor parallelism",
    "gpt_neox": "tensor parallelism",
    "gpt2": "FSDP2 (GPT2LMHeadModel has no plan for tensor parallelism)",
    "lfm2": "FSDP2 (Lfm2ForCausalLM does not run with tensor parallelism: ",
}


@pytest.fixture(scope="module")
def asked(
    evaluation_examples: pl.DataFrame,
    symbols: pl.DataFrame,
    tmp_path_factory: pytest.TempPathFactory,
) -> Asked:
    """A part of both suites: several passes of each."""
    asked = Asked.written(tmp_path_factory.mktemp("asked"), evaluation_examples, symbols)
    for suite, rows in (("classification", 36), ("algorithmic", 44)):
        path = asked.folder / f"{suite}.parquet"
        read_table(path).head(rows).write_parquet(path)
    return asked


def run_all(said: Path, *jobs: JobConfig) -> None:
    """Run the jobs; what they say is appended to a file."""
    for job in jobs:
        with said.open("a", encoding="utf-8") as file:
            run_job(job, lambda line: print(line, file=file, flush=True))


def jobs(
    asked: Asked,
    folder: Path,
    models: dict[str, Path],
    suites: tuple[Suite, ...] = SUITES,
    **changed: Any,
) -> list[JobConfig]:
    return [asked.job(folder / suite, suite, models, **changed) for suite in suites]


def assert_same_answers(found: JobConfig, whole: JobConfig) -> None:
    """The same but for rounding, in fp32."""
    for variant in whole.variants:
        one, other = (
            read_table(job.result_folder / f"{variant}.parquet") for job in (found, whole)
        )
        scores = [name for name in SCORES if name in one.columns]
        assert one.drop(*scores, "path").equals(other.drop(*scores, "path")), variant
        held = other["path"][0].replace("cpu", f"cpu by {found.ranks_per_model} ranks together")
        assert set(one["path"]) == {held}
        for name in scores:
            differences = (one[name].explode() - other[name].explode()).abs()
            assert differences.max() < 1e-4, (variant, name)  # type: ignore[operator]


@pytest.mark.long
def test_two_ranks_that_hold_a_model_together_answer_as_one(
    asked: Asked, tokenizer: Any, tmp_path: Path
) -> None:
    models = {
        family: save_model_that_reads(tmp_path / family, family, tokenizer) for family in FAMILIES
    }
    whole, spread = (
        jobs(asked, tmp_path / "whole", models),
        jobs(asked, tmp_path / "spread", models, ranks_per_model=2),
    )
    said = tmp_path / "said"
    run_all(tmp_path / "said whole", *whole)
    assert on_ranks(2, tmp_path / "meeting", run_all, said, *spread) == [None] * 2
    for found, expected in zip(spread, whole, strict=True):
        assert_same_answers(found, expected)
        assert len(kept(found)) == len(set(kept(found))) == len(kept(expected))
        files = [path.name[0] for path in found.output_folder.glob("answers/*/*.jsonl")]
        assert set(files) == {"0"}  # the team's first rank writes
    for family, way in FAMILIES.items():
        held = f"{family} model: held by 2 ranks together: {way}"
        assert said.read_text().count(held) == len(SUITES), said.read_text()


@pytest.mark.slow
def test_three_ranks_hold_a_model_by_heads_where_they_can_share_them_and_else_by_layers(
    asked: Asked, tokenizer: Any, tmp_path: Path
) -> None:
    shapes: dict[str, dict[str, Any]] = {
        "olmo2": {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3},
        "llama": {},
    }
    models = {
        family: save_model_that_reads(tmp_path / family, family, tokenizer, **shape)
        for family, shape in shapes.items()
    }
    whole = jobs(asked, tmp_path / "whole", models)
    spread = jobs(asked, tmp_path / "spread", models, ranks_per_model=3)
    said = tmp_path / "said"
    run_all(tmp_path / "said whole", *whole)
    assert on_ranks(3, tmp_path / "meeting", run_all, said, *spread) == [None] * 3
    for found, expected in zip(spread, whole, strict=True):
        assert_same_answers(found, expected)
    held = "model: held by 3 ranks together:"
    uneven = "LlamaForCausalLM has 4 attention heads, which 3 ranks cannot share evenly"
    for line in (
        f"olmo2 {held} tensor parallelism\n",
        f"llama {held} FSDP2 ({uneven})\n",
    ):
        assert said.read_text().count(line) == len(SUITES), said.read_text()


@pytest.mark.slow
def test_passes_are_dealt_to_teams_and_an_evaluation_goes_on_with_other_teams(
    asked: Asked, tokenizer: Any, tmp_path: Path
) -> None:
    models = {"one": save_model_that_reads(tmp_path / "model", "llama", tokenizer)}
    (whole,) = jobs(asked, tmp_path / "whole", models, SUITES[:1])
    (spread,) = jobs(asked, tmp_path / "spread", models, SUITES[:1], ranks_per_model=2)
    run_all(tmp_path / "said whole", whole)
    said, meeting = tmp_path / "said", tmp_path / "meeting"
    assert on_ranks(4, meeting, run_all, said, spread) == [None] * 4
    assert_same_answers(spread, whole)
    files = sorted(spread.output_folder.glob("answers/*/*.jsonl"))
    assert [path.name[0] for path in files] == ["0", "2"]
    everything, table = sorted(kept(spread)), spread.result_folder / "one.parquet"
    bytes_before = table.read_bytes()
    table.unlink()
    files[1].unlink()
    assert on_ranks(2, meeting, run_all, said, spread) == [None] * 2  # one team
    assert table.read_bytes() == bytes_before
    assert sorted(kept(spread)) == everything
    assert "were answered before" in said.read_text()
    assert not {folder for folder, _ in everything} & {folder for folder, _ in kept(whole)}


# --- what goes wrong ------------------------------------------------------------------------------


def run_short_of_memory(job: JobConfig) -> None:
    """Run the job, on rank 1 with too little memory for its second pass; no launcher ends the other."""
    job_ranks.PATIENCE = 0
    passes: list[int] = []
    run = scorer.predicted_tokens

    def short(*arguments: Any) -> Any:
        passes.append(1)
        if os.environ["LOCAL_RANK"] == "1" and len(passes) == 2:
            raise MemoryError
        return run(*arguments)

    scorer.predicted_tokens = short
    run_job(job, print)


@pytest.mark.slow
def test_a_rank_that_runs_out_of_memory_ends_with_a_sentence_and_keeps_nobody_waiting(
    asked: Asked, tokenizer: Any, tmp_path: Path
) -> None:
    """The others are within a pass that cannot go on; the launcher of a real job ends them."""
    models = {"one": save_model_that_reads(tmp_path / "model", "llama", tokenizer)}
    (whole,) = jobs(asked, tmp_path / "whole", models, SUITES[:1])
    (spread,) = jobs(asked, tmp_path / "spread", models, SUITES[:1], ranks_per_model=2)
    processes, results = start_ranks(2, tmp_path / "meeting", run_short_of_memory, spread)
    for process in processes:
        process.join(60)
    assert not any(process.is_alive() for process in processes)
    ended = sorted(results.get() for _ in processes)
    assert [how for _, how, _ in ended] == ["user error", "user error"]
    assert ended[0][2].startswith("A rank of the job lost its connection to another one")
    assert ended[1][2].startswith("Rank 1, one of 2 that hold a model together, runs out of memory")
    done = kept(spread)
    assert done
    run_all(tmp_path / "said whole", whole)
    assert on_ranks(2, tmp_path / "meeting again", run_all, tmp_path / "said", spread) == [None] * 2
    assert_same_answers(spread, whole)
    assert len(kept(spread)) == len(kept(whole))


def test_ranks_that_make_no_whole_number_of_teams_are_one_sentence(
    asked: Asked, tokenizer: Any, tmp_path: Path
) -> None:
    models = {"one": save_model_that_reads(tmp_path / "model", "llama", tokenizer)}
    (job,) = jobs(asked, tmp_path, models, SUITES[:1], ranks_per_model=2)
    with pytest.raises(
        UserError, match=r"is 2, and the job has 1 rank, which make no whole"
    ) as raised:
        run_job(job, print)
    assert "start 2 ranks" in str(raised.value)
    with pytest.raises(UserError, match=r"start 6 ranks, or set it to a number that divides 4"):
        ranks_per_model(3, [], torch.float32, Ranks(count=4))
