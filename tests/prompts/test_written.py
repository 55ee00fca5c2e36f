"""Published prompts as a mixture: which are drawn, and where their labels are among the tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import written_rows
from tokenizer_kinds import KINDS, STARTS, read, small_tokenizer

from symtune_pipeline.catalog.datasets import find_dataset
from symtune_pipeline.errors import UserError
from symtune_pipeline.prompts.targets import FIRST, LEAST_KIND, QUERY, SEEN
from symtune_pipeline.prompts.written import LONG, SYMBOL, TASK, TEXT, Drawn, Guarded, draw_written
from symtune_pipeline.prompts.written_tokens import LeftOut, held_out_written, packed_written
from symtune_pipeline.sections import MixtureConfig
from symtune_pipeline.sources.mirror import Mirror
from symtune_pipeline.sources.tasksource import written_prompts

NOTHING = Guarded([], [], [])
EVERY_TOKENIZER = [(kind, start) for kind in KINDS for start in STARTS]


def prompts(folder: Path, rows: list[Any]) -> pl.DataFrame:
    mirror = Mirror(str(folder))
    written_rows.write(mirror, rows)
    return pl.concat(written_prompts(mirror, Counter()))


def draw(table: pl.DataFrame, guarded: Guarded = NOTHING, seed: int = 0, **settings: Any) -> Drawn:
    config = MixtureConfig.model_validate(
        {"source": "tasksource", "held_out_prompts": 0} | settings
    )
    return draw_written(table.lazy(), config, seed, guarded)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Prompts of three tasks: 40, 20 and 5."""
    tasks = {"glue/rte": 40, "tweet_eval/hate": 20, "babi_nli/counting": 5}
    rows = [written_rows.row(i, task) for task, n in tasks.items() for i in range(n)]
    return prompts(tmp_path_factory.mktemp("mirror"), rows)


def shares(drawn: Drawn) -> dict[str, int]:
    return dict(drawn.mixture.group_by("dataset").len().iter_rows())


def test_every_task_has_an_equal_share_as_long_as_it_has_prompts(table: pl.DataFrame) -> None:
    assert shares(draw(table, prompts=15)) == dict.fromkeys(table["dataset"].unique(), 5)
    assert shares(draw(table, prompts=35)) == {
        "glue/rte": 15, "tweet_eval/hate": 15, "babi_nli/counting": 5,
    }  # fmt: skip
    by_size = shares(draw(table, prompts=26, temperature=1))
    assert by_size == pytest.approx({"glue/rte": 16, "tweet_eval/hate": 8, "babi_nli/counting": 2})


def test_the_seed_draws_and_fewer_prompts_are_a_part_of_more(table: pl.DataFrame) -> None:
    few, more, other = (
        draw(table, prompts=10),
        draw(table, prompts=30),
        draw(table, seed=1, prompts=10),
    )
    assert few.mixture.equals(draw(table, prompts=10).mixture)
    assert more.mixture.head(10).equals(few.mixture)
    assert not other.mixture.equals(few.mixture)
    assert more.mixture["prompt"].is_unique().all()
    longest = table["text"].str.len_chars().max()
    shorter = draw(table, prompts=10, max_characters=int(longest) - 1)  # type: ignore[call-overload]
    assert len(set(shorter.mixture["prompt"]) & set(few.mixture["prompt"])) >= 9
    measured = draw(table, prompts=10, held_out_prompts=6)
    assert measured.mixture.equals(few.mixture)
    assert not set(measured.held_out["prompt"]) & set(few.mixture["prompt"])
    assert len(measured.held_out) == 6


def test_prompts_for_measuring_are_kept_where_more_are_asked_than_there_are(
    table: pl.DataFrame,
) -> None:
    drawn = draw(table, prompts=1_000, held_out_prompts=6)
    assert (len(drawn.mixture), len(drawn.held_out)) == (59, 6)
    config = MixtureConfig(source="tasksource", prompts=1_000)
    assert drawn.sentences(config) == [
        "the mixture has 59 prompts and not 1,000: there are no more"
    ]
    with pytest.raises(
        UserError, match=r"has 65 prompts .* mixture.held_out_prompts, 65, leaves none"
    ):
        draw(table, prompts=1_000, held_out_prompts=65)


def test_tasks_of_evaluation_sets_are_left_out_with_a_word(table: pl.DataFrame) -> None:
    drawn = draw(table, Guarded([find_dataset("teh")], [], []), prompts=1_000)
    assert shares(drawn) == {"glue/rte": 40, "babi_nli/counting": 5}
    assert drawn.left_out == {TASK: 20}
    assert drawn.tasks_left_out == {"tweet_eval/hate": "teh"}
    said = drawn.sentences(MixtureConfig(source="tasksource", prompts=45))
    assert said[0] == "left out tasks with the examples of evaluation sets: tweet_eval/hate (teh)"


def test_symbols_and_texts_of_the_evaluation_and_long_prompts_are_left_out(
    table: pl.DataFrame,
) -> None:
    symbol = pl.col("labels").list.contains("Fnord")
    drawn = draw(table, Guarded([], ["fnord"], []), prompts=1_000)
    assert drawn.left_out == {SYMBOL: table.filter(symbol).height}
    assert not drawn.mixture.filter(symbol).height

    text = "The LAMP and chair 3.   The paint, and brush"  # in other case, marks and spaces
    shown = "the lamp and chair 3, the paint and brush 1"
    row = table.row(0, named=True)
    held = pl.DataFrame([row | {"text": row["text"].replace("Input: ", f"Input: {shown} ", 1)}])
    mixed = pl.concat([held.cast(dict(table.schema)), table[1:]])
    drawn = draw(mixed, Guarded([], [], [text, "x"]), prompts=1_000)
    assert drawn.left_out == {TEXT: 1} and row["prompt"] not in drawn.mixture["prompt"]

    lengths = table["text"].str.len_chars()
    most = int(lengths.median())  # type: ignore[arg-type]
    drawn = draw(table, prompts=1_000, max_characters=most)
    assert drawn.left_out == {LONG: (lengths > most).sum()}
    with pytest.raises(UserError, match=rf"has no prompt .*65 have {LONG}"):
        draw(table, prompts=1, max_characters=10)


def test_the_guard_names_what_it_finds(table: pl.DataFrame) -> None:
    few = table.filter(pl.col("dataset") == "tweet_eval/hate").head(1)
    number = few["prompt"][0]
    for guarded, fault in (
        (Guarded([find_dataset("teh")], [], []), "has the examples of teh"),
        (Guarded([], [few["labels"][0][1].lower()], []), f"has {SYMBOL}"),
        (Guarded([], [], [few["text"][0][10:80]]), f"has {TEXT}"),
    ):
        assert guarded.faults(few) == [f"{number} of tweet_eval/hate {fault}"]
    assert NOTHING.faults(table) == []


def test_tasks_are_chosen_by_number_and_by_name(table: pl.DataFrame) -> None:
    one, two = (set(shares(draw(table, prompts=6, sets=n))) for n in (1, 2))
    assert len(one) == 1 and len(two) == 2 and one < two
    for name in ("glue", "glue/rte"):
        assert "glue/rte" not in shares(draw(table, prompts=6, leave_out=[name]))
    with pytest.raises(UserError, match=r"names 'glu/rte', .*did you mean 'glue/rte'\?"):
        draw(table, prompts=6, leave_out=["glu/rte"])
    with pytest.raises(UserError, match=r"mixture.sets is 4, above the 3 sets"):
        draw(table, prompts=6, sets=4)


# --- tokens ---------------------------------------------------------------------------------------


@pytest.fixture(params=EVERY_TOKENIZER, ids=lambda pair: "-".join(pair), scope="module")
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return small_tokenizer(*request.param)


@pytest.fixture(scope="module")
def every_form(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    rows = [written_rows.row(i, form=i % len(written_rows.FORMS)) for i in range(15)]
    return prompts(tmp_path_factory.mktemp("mirror"), rows)


def sequences(blocks: pl.DataFrame) -> Iterator[tuple[list[int], dict[int, int]]]:
    """The prompts in blocks: tokens, and the kind of each target by its position."""
    for block in blocks.iter_rows(named=True):
        kinds = dict(zip(block["target_positions"], block["target_kinds"], strict=True))
        start = 0
        for length in block["sequence_lengths"]:
            inside = {p - start: kinds.pop(p) for p in range(start, start + length) if p in kinds}
            yield block["tokens"][start : start + length], inside
            start += length
        assert not kinds and start == len(block["tokens"])


def test_blocks_hold_the_tokens_of_whole_prompts_and_targets_are_their_symbols(
    tokenizer: Any, every_form: pl.DataFrame
) -> None:
    """Compared with the tokenizer's own places of the symbols in the text."""
    left_out = LeftOut()
    blocks = pl.concat(packed_written([every_form], tokenizer, 700, left_out))
    assert not left_out.too_long and not left_out.without_token
    by_tokens = {tuple(tokens): targets for tokens, targets in sequences(blocks)}
    assert len(by_tokens) == len(every_form)
    for row in every_form.iter_rows(named=True):
        targets = by_tokens[tuple(read(tokenizer, row["text"]))]
        offsets = tokenizer(row["text"], return_offsets_mapping=True)["offset_mapping"]
        seen: set[int] = set()
        left = set(targets)
        for i, (start, index) in enumerate(zip(row["label_starts"], row["targets"], strict=True)):
            symbol = row["labels"][index]
            mine = {
                p
                for p, (a, b) in enumerate(offsets)
                if a < start + len(symbol) and b > start and b > a
            }
            assert mine <= left, symbol
            kind = QUERY if i == len(row["targets"]) - 1 else SEEN if index in seen else FIRST
            assert {targets[p] for p in mine} == {kind}
            seen.add(index)
            left -= {p for p in left if targets[p] == kind and p <= max(mine)}
        assert not left
        final = {p for p, kind in targets.items() if kind >= LEAST_KIND["final_label"]}
        most = {p for p, kind in targets.items() if kind >= LEAST_KIND["all_labels"]}
        assert max(final) == max(most) and final < most < targets.keys()


@pytest.mark.parametrize("kind", ["gpt2", "llama3"])
def test_what_a_loss_asks_for_spells_the_symbols(kind: str, every_form: pl.DataFrame) -> None:
    tokenizer = small_tokenizer(kind)
    blocks = pl.concat(packed_written([every_form], tokenizer, 700, LeftOut()))
    rows = {row["text"]: row for row in every_form.iter_rows(named=True)}
    for tokens, targets in sequences(blocks):
        row = rows[tokenizer.decode(tokens)]
        shown = [row["labels"][index] for index in row["targets"]]
        runs = "".join(
            tokenizer.decode([token]) if position in targets else "\0"
            for position, token in enumerate(tokens)
        )
        assert [text.strip() for text in runs.split("\0") if text] == shown
        for loss, least in LEAST_KIND.items():
            asked = [tokens[p] for p, kind in sorted(targets.items()) if kind >= least]
            first = [shown.index(symbol) for symbol in row["labels"]]
            learnt = (
                shown[-1:]
                if loss == "final_label"
                else [s for i, s in enumerate(shown) if i not in first]
            )
            assert tokenizer.decode(asked).replace(" ", "") == "".join(learnt).replace(" ", "")


def test_a_held_out_prompt_and_its_symbol_are_the_tokens_of_the_whole(
    tokenizer: Any, every_form: pl.DataFrame
) -> None:
    packed = held_out_written(every_form, tokenizer, 700)
    rows = {row["prompt"]: row for row in every_form.iter_rows(named=True)}
    assert len(packed) == len(rows)
    for asked in packed.iter_rows(named=True):
        row = rows[asked["prompt"]]
        [query], [symbols], [target] = (
            asked["query_tokens"], asked["symbol_tokens"], asked["targets"],
        )  # fmt: skip
        assert row["labels"][target] == row["labels"][row["targets"][-1]]
        start = row["text"][: row["label_starts"][-1]]
        for symbol, tokens in zip(row["labels"], symbols, strict=True):
            assert asked["tokens"] + query + tokens == read(tokenizer, f"{start}{symbol}")


def test_prompts_that_no_block_holds_are_left_out_whole_and_counted(table: pl.DataFrame) -> None:
    tokenizer = small_tokenizer("llama3")
    lengths = [len(read(tokenizer, text)) for text in table["text"]]
    size = sorted(lengths)[len(lengths) // 2]
    left_out = LeftOut()
    blocks = pl.concat(packed_written([table], tokenizer, size, left_out))
    kept = blocks["sequence_lengths"].explode().to_list()
    assert sorted(kept) == sorted(length for length in lengths if length <= size)
    assert left_out.too_long.total() == sum(length > size for length in lengths)
    [sentence] = left_out.sentences(size)
    assert sentence.startswith(f"left out {left_out.too_long.total()} prompts of 3 tasks, most of ")
    assert blocks["block"].to_list() == list(range(len(blocks)))
    with pytest.raises(UserError) as error:
        list(packed_written([table], tokenizer, 20, LeftOut()))
    assert f"raise tuning.block_tokens to {min(lengths)} or more" in str(error.value)
    assert held_out_written(table, tokenizer, 20).is_empty()
