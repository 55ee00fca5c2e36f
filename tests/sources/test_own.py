"""The user's own files: described in the experiment file, and refused in one sentence where bad."""

from __future__ import annotations

import os
import re
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import yaml
from conftest import ROOT, SYMTUNE
from graph import materialise
from pyarrow import parquet

from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.files import TABLE
from symtune_pipeline.sources.load import files_version, load_examples, public_source
from symtune_pipeline.sources.own import read_cells
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import RAW_EXAMPLES

REVIEWS: dict[str, Any] = {
    "role": "tuning",
    "files": {"train": "reviews.jsonl"},
    "columns": ["text"],
    "label_column": "stars",
    "labels": {1: "bad", 5: "good"},
    "instruction": "Is the review good or bad?",
}
JSONL = '{"text": "dull", "stars": 1}\n{"text": "fun", "stars": 5}\n'


def _experiment(folder: Path, key: str = "reviews", **changes: Any) -> Experiment:
    """An experiment with one set of its own; a change to None takes a setting out."""
    described = {name: value for name, value in (REVIEWS | changes).items() if value is not None}
    settings = {"models": ["micro"], "mixture": {"prompts": 1}, "data": {"own": {key: described}}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return load_experiment(str(folder / "mine.yaml"))


def _load(folder: Path, content: str | bytes, name: str = "reviews.jsonl", **changes: Any) -> Any:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    experiment = _experiment(folder, files={"train": name}, **changes)
    (dataset,) = experiment.datasets()
    return RAW_EXAMPLES.checked(load_examples(dataset, experiment, public_source(None)))


def _refused(
    folder: Path, content: str | bytes, name: str = "reviews.jsonl", **changes: Any
) -> str:
    with pytest.raises(UserError) as error:
        _load(folder, content, name, **changes)
    sentence = str(error.value)
    assert str(folder / name) in sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


# --- files that can be read ---------------------------------------------------------------------


def test_jsonl_takes_the_normal_form(tmp_path: Path) -> None:
    assert _load(tmp_path, JSONL).rows() == [
        ("reviews/train/0", "reviews", "own", "train", "dull", "bad", 0),
        ("reviews/train/1", "reviews", "own", "train", "fun", "good", 1),
    ]


def test_csv_tsv_jsonl_and_parquet_are_the_same(tmp_path: Path) -> None:
    frame = pl.DataFrame({"text": ["a, b", 'say "c"\n\td'], "stars": [5, 1]})
    frame.write_csv(tmp_path / "in.tsv", separator="\t")
    frame.write_csv(tmp_path / "in.csv")
    frame.write_ndjson(tmp_path / "in.jsonl")
    frame.write_parquet(tmp_path / "in.parquet")
    tables = [
        _load(tmp_path, (tmp_path / name).read_bytes(), name)
        for name in ("in.csv", "in.jsonl", "in.parquet", "in.tsv")
    ]
    assert tables[0]["input"].to_list() == ["a, b", 'say "c"\n\td']
    assert tables[0]["label"].to_list() == ["good", "bad"]
    assert all(tables[0].equals(table) for table in tables)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([1, 5], {1: "bad", 5: "good"}),
        (["1", "5"], {1: "bad", 5: "good"}),
        ([1, 5], {"1": "bad", "5": "good"}),
        ([-1, 1], {-1: "bad", 1: "good"}),  # the hub's hidden label is an ordinary one here
        ([False, True], {False: "bad", True: "good"}),
        (["bad", "good"], ["bad", "good"]),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_labels_are_compared_as_text(
    values: list[Any], labels: Any, suffix: str, tmp_path: Path
) -> None:
    frame = pl.DataFrame({"text": ["a", "b"], "stars": values})
    path = tmp_path / f"in.{suffix}"
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[suffix](
        path
    )
    table = _load(tmp_path, path.read_bytes(), path.name, labels=labels)
    assert table.select("label", "label_id").rows() == [("bad", 0), ("good", 1)]


def test_columns_are_joined_or_shown_as_the_input_says(tmp_path: Path) -> None:
    lines = '{"a": "x", "row": "y", "stars": 1}\n{"a": "z", "row": "w", "stars": 5}\n'
    joined = _load(tmp_path, lines, columns=["a", "row"])
    assert joined["input"].to_list() == ["x | y", "z | w"]
    shown = _load(tmp_path, lines, columns=["a", "row"], input="Row: {row} A: {a}")
    assert shown["input"].to_list() == ["Row: y A: x", "Row: w A: z"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "tsv"])
def test_rows_that_say_no_label_are_left_out_and_counted(suffix: str, tmp_path: Path) -> None:
    frame = pl.DataFrame({"text": ["a", "b", "c", "d", "e"], "stars": [1, -1, 5, 99, -1]})
    path = tmp_path / f"in.{suffix}"
    writes: dict[str, Any] = {"csv": frame.write_csv, "jsonl": frame.write_ndjson}
    writes |= {"parquet": frame.write_parquet, "tsv": partial(frame.write_csv, separator="\t")}
    writes[suffix](path)
    experiment = _experiment(tmp_path, files={"train": path.name}, unlabelled=[-1, "99"])
    told: list[str] = []
    table = load_examples(experiment.datasets()[0], experiment, public_source(None), told.append)
    assert table["example_id"].to_list() == ["reviews/train/0", "reviews/train/2"]
    assert told == [f"{path}: 3 of 5 rows have no label; left out"]


def test_a_label_that_is_missing_can_say_no_label_too(tmp_path: Path) -> None:
    lines = JSONL + '{"text": "so so", "stars": null}\n'
    assert len(_load(tmp_path, lines, unlabelled=[None])) == 2
    assert "line 3: label None is none of" in _refused(tmp_path, lines, unlabelled=[-1])


HUB = {"repository": "some/reviews", "config": "en", "splits": {"train": "train"},
       "revision": "0123456789" * 4}  # fmt: skip


def test_a_set_of_the_hub_needs_no_entry_in_the_catalogue(tmp_path: Path) -> None:
    """Here from a mirror, which holds what the hub holds; its numbers are compared as text."""
    path = tmp_path / "mirror" / "some" / "reviews" / "en" / "train.parquet"
    path.parent.mkdir(parents=True)
    pl.DataFrame({"text": ["a", "b", "c"], "stars": [5, -1, 1]}).write_parquet(path)
    experiment = _experiment(tmp_path, files=None, hub=HUB, unlabelled=[-1])
    (dataset,) = experiment.datasets()
    told: list[str] = []
    source = public_source(str(tmp_path / "mirror"))
    table = load_examples(dataset, experiment, source, told.append)
    assert table.select("example_id", "label").rows() == [
        ("reviews/train/0", "good"),
        ("reviews/train/2", "bad"),
    ]
    assert told == [f"{path}: 1 of 3 rows have no label; left out"]
    assert files_version(dataset, source) != [None]


def test_the_mirror_is_asked_whatever_the_other_sets_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mirror" / "some" / "reviews" / "en" / "train.parquet"
    path.parent.mkdir(parents=True)
    pl.DataFrame({"text": ["a", "b"], "stars": ["1", "5"]}).write_parquet(path)
    monkeypatch.setenv("SYMTUNE_MIRROR", str(tmp_path / "mirror"))
    experiment = _experiment(tmp_path, files=None, hub=HUB)
    assert materialise(experiment, tmp_path / "store", ["raw_reviews"]).success
    assert len(Store(tmp_path / "store").read_table("raw_reviews")) == 2


def test_an_id_column_names_the_examples(tmp_path: Path) -> None:
    lines = '{"text": "a", "stars": 1, "n": 7}\n{"text": "b", "stars": 5, "n": "x/9"}\n'
    table = _load(tmp_path, lines, id_column="n")
    assert table["example_id"].to_list() == ["reviews/train/7", "reviews/train/x/9"]


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    table = _load(tmp_path, b"\xef\xbb\xbf" + JSONL.replace("\n", "\r\n\r\n").encode())
    assert table["input"].to_list() == ["dull", "fun"]


def test_paths_are_relative_to_the_experiment_file_and_their_version_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (dataset,) = _experiment(tmp_path).datasets()
    assert dataset.files == {"train": tmp_path / "reviews.jsonl"}
    assert files_version(dataset, public_source(None)) == [None]
    (tmp_path / "reviews.jsonl").write_text(JSONL)
    first = files_version(dataset, public_source(None))
    os.utime(tmp_path / "reviews.jsonl", ns=(1, 1))
    assert files_version(dataset, public_source(None)) == [[len(JSONL), 1]] != first


# --- files that cannot --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", ["no example"]),
        ("\n\n", ["no example"]),
        ('{"text": "a", "stars": 1}\n{"text": "b", "stars": 1}', ["a single class"]),
        (JSONL + '{"text": "b"', ["line 3", "is not JSON", "column 13"]),
        (JSONL + "\n[1]", ["line 4", "no JSON object"]),
        (JSONL + '{"txt": "b", "stars": 1}', ["line 3", "no 'text' (it has txt, stars)"]),
        (JSONL + '{"text": 3, "stars": 1}', ["line 3", "'text' holds 3 where text is needed"]),
        (JSONL + '{"text": "b", "stars": [1]}', ["line 3", "'stars' holds [1]"]),
        (JSONL + '{"text": "b", "stars": 1.0}', ["line 3", "label '1.0' is none of ['1', '5']"]),
        (JSONL + '{"text": "b", "stars": null}', ["line 3", "label None is none of"]),
        (JSONL + '\n{"text": "b\\u0000", "stars": 1}', ["line 4", "'text' holds a NUL"]),
        (JSONL + '{"text": "b\\ud800", "stars": 1}', ["line 3", "'text' holds"]),
        (JSONL.encode() + b'{"text": "\xff", "stars": 1}', ["line 3", "0xff is not UTF-8"]),
        (JSONL + f'{{"text": "{"x" * 1_000_000}", "stars": 1}}',
         ["line 3", "'text' has 1,000,000 characters", "100,000"]),
    ],
)  # fmt: skip
def test_bad_jsonl_is_one_sentence(content: str | bytes, says: list[str], tmp_path: Path) -> None:
    sentence = _refused(tmp_path, content)
    for part in says:
        assert part in sentence


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (JSONL + '{"text": "b", "stars": 1, "stars": 5}', "line 3: the key 'stars' comes twice"),
        (JSONL + '{"text": "b", "text": "a", "stars": 1}', "line 3: the key 'text' comes twice"),
        (JSONL + '{"text": {"en": "b"}, "stars": 1}', "line 3, 'text' holds {"),
        (JSONL + '{"txt\\ud800": "b", "stars": 1}', "line 3 has no 'text' (it has txt\\ud800, stars)"),
        (JSONL + f'{{"text": "b", "stars": {"1" * 5_000}}}', "line 3 cannot be read"),
        (JSONL + "[" * 100_000, "line 3 cannot be read"),
    ],
)  # fmt: skip
def test_no_value_of_json_is_taken_for_another(content: str, says: str, tmp_path: Path) -> None:
    assert says in _refused(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("text,stars,stars\na,1,5\nb,5,1\n", "line 1: the column 'stars' comes twice; rename one"),
        ("text,stars,text\na,1,x\nb,5,y\n", "line 1: the column 'text' comes twice"),
        ("\n\nstars,text,stars\n1,a,5\n", "line 3: the column 'stars' comes twice"),
        (
            "n,stars,text,note\n1,1,a,x\n2,5,y\n",
            "line 3 has fewer cells than the header: no 'note'",
        ),
        ("text;stars\na;1\nb;5\n", "line 1: the columns are separated by semicolons"),
        ("text\tstars\na\t1\nb\t5\n", "line 1: the columns are separated by tabs"),
    ],
)
def test_no_column_of_csv_is_taken_for_another(content: str, says: str, tmp_path: Path) -> None:
    assert says in _refused(tmp_path, content, "reviews.csv")


def test_a_tab_is_spelt_out_where_a_sentence_names_it(tmp_path: Path) -> None:
    path = tmp_path / "own.tsv"
    path.write_text('text\tlabel\n"a day" x\t1\n', encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_cells(path)
    assert str(error.value).isprintable() and "line 2 is not CSV ('\\t' expected" in str(
        error.value
    )


def test_columns_that_the_set_does_not_use_may_share_a_name(tmp_path: Path) -> None:
    table = _load(tmp_path, "text,,stars,\na,,1,\nb,,5,\n", "reviews.csv")
    assert table["input"].to_list() == ["a", "b"]


def test_a_column_that_parquet_has_twice_is_named(tmp_path: Path) -> None:
    texts, stars = pa.array(["a", "b"]), pa.array([1, 5])
    parquet.write_table(
        pa.table([texts, stars, stars[::-1]], names=["text", "stars", "stars"]), tmp_path / "in.pq"
    )
    assert "'stars'" in _refused(tmp_path, (tmp_path / "in.pq").read_bytes(), "in.parquet")


def test_texts_that_parquet_keeps_in_a_dictionary_are_texts(tmp_path: Path) -> None:
    frame = pl.DataFrame({"text": ["a", "b"], "stars": ["1", "5"]})
    frame.cast(pl.Categorical).write_parquet(tmp_path / "in.parquet")
    table = _load(tmp_path, (tmp_path / "in.parquet").read_bytes(), "in.parquet")
    assert table.select("input", "label").rows() == [("a", "bad"), ("b", "good")]


WRITTEN = """
models: [micro]
mixture: {{prompts: 1}}
data:
  own:
    reviews:
      {{role: tuning, files: {{train: in.csv}}, columns: [text], label_column: stars,
       instruction: Which one, labels: {labels}}}
"""


@pytest.mark.parametrize(
    ("labels", "cells", "natural"),
    [
        ("{yes: good, no: bad}", "yes no", "good bad"),
        ("[on, off]", "on off", "on off"),
        ("{010: ten, 1:30: half}", "010 1:30", "ten half"),
        ("{0x1F: a, 2020-01-01: b}", "0x1F 2020-01-01", "a b"),
        ("{0.0: bad, 1.0: good}", "0.0 1.0", "bad good"),
        ("{NA: unknown, None: nothing}", "NA None", "unknown nothing"),
        ("{false: bad, true: good}", "False True", "bad good"),
        ("{False: bad, True: good}", "FALSE true", "bad good"),
    ],
)
def test_a_label_is_the_text_that_it_looks_like(
    labels: str, cells: str, natural: str, tmp_path: Path
) -> None:
    first, second = cells.split()
    (tmp_path / "in.csv").write_text(f"text,stars\na,{first}\nb,{second}\n")
    (tmp_path / "mine.yaml").write_text(WRITTEN.format(labels=labels))
    experiment = load_experiment(str(tmp_path / "mine.yaml"))
    (dataset,) = experiment.datasets()
    table = load_examples(dataset, experiment, public_source(None))
    assert table["label"].to_list() == natural.split()


def test_an_id_may_be_a_column_of_the_input(tmp_path: Path) -> None:
    table = _load(tmp_path, JSONL, id_column="text")
    assert table["example_id"].to_list() == ["reviews/train/dull", "reviews/train/fun"]


CSV = "text,stars\ndull,1\nfun,5\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", ["no example"]),
        ("text,stars\n", ["no example"]),
        ("txt,stars\na,1\n", ["line 2", "no 'text' (it has txt, stars)"]),
        (CSV + "a,2\n", ["line 4", "label '2' is none of ['1', '5']"]),
        (CSV + '"a\nb",2\n', ["line 5", "label '2'"]),
        (CSV + "a\n", ["line 4", "no 'stars'"]),
        (CSV + "a,b,1\n", ["line 4", "more cells than the header"]),
        (CSV + '"a,1\n', ["line 4", "is not CSV"]),
        (CSV + "a\0,1\n", ["line 4", "'text' holds a NUL"]),
        (CSV.encode() + b"caf\xe9,1\n", ["line 4", "0xe9 is not UTF-8"]),
        (CSV + "x" * 100_001 + ",1\n", ["line 4", "100,001 characters"]),
        (CSV + "x" * 1_000_000 + ",1\n", ["line 4", "is not CSV", "field larger"]),
    ],
)
def test_bad_csv_is_one_sentence(content: str | bytes, says: list[str], tmp_path: Path) -> None:
    sentence = _refused(tmp_path, content, "reviews.csv")
    for part in says:
        assert part in sentence


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"txt": ["a", "b"], "stars": [1, 5]}, ["no column 'text' (it has txt, stars)"]),
        ({"text": ["a", "b"], "stars": [1, 4]}, ["row 1", "label '4' is none of"]),
        ({"text": ["a", "b"], "stars": [1, 1]}, ["a single class"]),
        ({"text": [1, 2], "stars": [1, 5]}, ["column 'text' holds Int64"]),
        ({"text": ["a", "b"], "stars": [[1], [5]]}, ["column 'stars' holds List"]),
        ({"text": ["a", "b\0"], "stars": [1, 5]}, ["row 1", "NUL"]),
        ({"text": ["a", "b" * 100_001], "stars": [1, 5]}, ["row 1", "100,001 characters"]),
    ],
)
def test_bad_parquet_is_one_sentence(
    columns: dict[str, Any], says: list[str], tmp_path: Path
) -> None:
    pl.DataFrame(columns).write_parquet(tmp_path / "in.parquet")
    sentence = _refused(tmp_path, (tmp_path / "in.parquet").read_bytes(), "in.parquet")
    for part in says:
        assert part in sentence


@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_a_truncated_parquet_file_is_one_sentence(kept: int, tmp_path: Path) -> None:
    pl.DataFrame({"text": ["a", "b"], "stars": [1, 5]}).write_parquet(tmp_path / "in.parquet")
    content = (tmp_path / "in.parquet").read_bytes()[:kept]
    assert "no readable Parquet" in _refused(tmp_path, content, "in.parquet")


@pytest.mark.parametrize(
    ("second", "says"), [("1", "'n' '1' stands in an earlier row too"), ("null", "'n' is empty")]
)
def test_ids_must_tell_rows_apart(second: str, says: str, tmp_path: Path) -> None:
    lines = f'{{"text": "a", "stars": 1, "n": 1}}\n{{"text": "b", "stars": 5, "n": {second}}}\n'
    sentence = _refused(tmp_path, lines, id_column="n")
    assert f"line 2: {says}" in sentence


@pytest.mark.parametrize("name", ["nowhere.jsonl", "nowhere.csv", "nowhere.parquet"])
def test_a_missing_file_names_the_setting(name: str, tmp_path: Path) -> None:
    experiment = _experiment(tmp_path, files={"train": name})
    with pytest.raises(UserError) as error:
        load_examples(experiment.datasets()[0], experiment, public_source(None))
    assert str(error.value) == (
        f"{tmp_path / name} cannot be read (No such file or directory); correct"
        " data.own.reviews.files."
    )


# --- descriptions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"role": None}, ["'data.own.reviews.role'", "required"]),
        ({"role": "training"}, ["'data.own.reviews.role'", "'tuning' or 'evaluation'"]),
        ({"instructions": "x"}, ["'data.own.reviews.instructions'", "mean 'instruction'?"]),
        ({"files": {"train": "x.txt"}}, ["x.txt must end with one of .csv, .jsonl, .parquet"]),
        ({"files": {"test": "x.csv"}}, ["needs a file called train"]),
        ({"files": {"dev": "x.csv"}}, ["'train' or 'test'"]),
        ({"files": {}}, ["at least 1"]),
        ({"files": None}, ["'data.own.reviews'", "name either files or hub"]),
        ({"hub": HUB}, ["'data.own.reviews'", "name either files or hub"]),
        (
            {"files": None, "hub": HUB | {"revision": "main"}},
            ["hub.revision'", "'main' is no commit"],
        ),
        ({"files": None, "hub": HUB | {"splits": {"test": "test"}}}, ["a split called train"]),
        ({"files": None, "hub": HUB | {"splits": {"dev": "dev"}}}, ["'train' or 'test'"]),
        ({"files": None, "hub": HUB | {"repository": "../x"}}, ["hub.repository'", "pattern"]),
        ({"files": None, "hub": HUB | {"config": "a/b"}}, ["hub.config'", "pattern"]),
        ({"files": None, "hub": HUB | {"split": "train"}}, ["did you mean 'splits'?"]),
        ({"unlabelled": [1]}, ["'1' is in labels and in unlabelled"]),
        ({"unlabelled": -1}, ["'data.own.reviews.unlabelled'", "tuple"]),
        ({"columns": []}, ["'data.own.reviews.columns'", "at least 1"]),
        ({"input": "Review: {txt}"}, ["must show {text} once"]),
        ({"input": "{text} {text}"}, ["must show {text} once"]),
        ({"columns": ["text", "text"]}, ["must show {text} once"]),
        ({"labels": {1: "bad"}}, ["'data.own.reviews.labels'", "at least 2"]),
        ({"labels": {1: "bad", 5: "bad"}}, ["a natural label of its own"]),
        ({"labels": ["bad", "bad"]}, ["at least 2"]),
        ({"labels": {1: 2, 5: 3}}, ["'data.own.reviews.labels.1'", "valid string"]),
        ({"labels": {1: "bad", "1": "good", 5: "fine"}}, ["'1' is named twice"]),
        ({"labels": {False: "bad", "False": "good"}}, ["'false' is named twice"]),
        ({"labels": [f"c{i}" for i in range(65_537)]}, ["65,537 classes are above 65,536"]),
        ({"labels": {None: "bad", 1: "good"}}, ["None is no text or number"]),
        ({"columns": ["text", "stars"]}, ["'data.own.reviews'", "would show the label"]),
        ({"labels": "bad"}, ["'data.own.reviews.labels'", "dictionary"]),
        ({"key": "Reviews"}, ["'data.own.Reviews", "pattern"]),
        ({"key": "rte"}, ["'data.own'", "the catalogue has a set called 'rte'"]),
    ],
)
def test_a_wrong_description_names_the_setting(
    changes: dict[str, Any], says: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        _experiment(tmp_path, **changes)
    sentence = str(error.value)
    for part in [str(tmp_path / "mine.yaml"), *says]:
        assert part in sentence


def test_without_a_source_there_are_own_sets_only_and_with_one_they_come_last(
    tmp_path: Path,
) -> None:
    alone = _experiment(tmp_path)
    assert [entry.key for entry in alone.datasets()] == ["reviews"]
    path = tmp_path / "mine.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["data"] |= {"source": "hub", "datasets": ["rte", "cb"]}
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert [entry.key for entry in load_experiment(str(path)).datasets()] == [
        "rte",
        "cb",
        "reviews",
    ]


# --- the page -----------------------------------------------------------------------------------


def test_the_page_describes_a_set_of_the_hub(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yml\n(.*?)```", page, re.DOTALL)
    settings = f"models: [micro]\nmixture: {{prompts: 1}}\n{block}"
    (tmp_path / "mine.yaml").write_text(settings, encoding="utf-8")
    (dataset,) = load_experiment(str(tmp_path / "mine.yaml")).datasets()
    assert dataset.hub and f"`<mirror>/{dataset.hub.repository}/default/train.parquet`" in page


@pytest.mark.slow
def test_the_page_leads_from_its_file_to_a_mixture(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```(jsonl|yaml)\n(.*?)```", page, re.DOTALL))
    (tmp_path / "reviews.jsonl").write_text(blocks["jsonl"], encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(blocks["yaml"], encoding="utf-8")
    (command,) = re.findall(r"^symtune (run --select .*)$", page, re.MULTILINE)
    instance = tmp_path / "dagster"
    instance.mkdir()
    (instance / "dagster.yaml").write_bytes((ROOT / ".dagster" / "dagster.yaml").read_bytes())
    env = os.environ | {
        "SYMTUNE_EXPERIMENT": str(tmp_path / "mine.yaml"),
        "SYMTUNE_HOME": str(tmp_path / "home"),
        "DAGSTER_HOME": str(instance),
    }
    ended = subprocess.run(
        [SYMTUNE, *command.replace("'", "").split()],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    store = Store(tmp_path / "home" / "mine")
    assert len(store.read_table("raw_reviews")) == blocks["jsonl"].count("\n")
    assert (store.folder("tuning_mixture") / TABLE).is_file()
    assert store.read_table("tuning_mixture")["dataset"].unique().to_list() == ["reviews"]
