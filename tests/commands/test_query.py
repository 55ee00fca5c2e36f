"""`symtune query` and `symtune show table`: which tables they read, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from symtune_pipeline.commands.query import Format, print_query
from symtune_pipeline.commands.show_table import print_table
from symtune_pipeline.errors import UserError
from symtune_pipeline.files import TABLE
from symtune_pipeline.store.folder import Store


class RecordingStore(Store):
    """A store that remembers of which tables it gave the files, which one on s3 would fetch."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.opened: set[str] = set()

    def folder(self, key: str, partition: str | None = None) -> Path:
        self.opened.add(key)
        return super().folder(key, partition)


@pytest.fixture
def store(tmp_path: Path) -> RecordingStore:
    """The numbers 1 of `words`, 2 of `words_more`, 3 of `eval.algorithmic`, 4 and 5 of `parts`."""
    store = RecordingStore(tmp_path / "it's a store")
    for key, partition, file, number in (
        ("words", None, TABLE, 1),
        ("words_more", None, TABLE, 2),
        ("eval", None, "algorithmic.parquet", 3),
        ("parts", "small", TABLE, 4),
        ("parts", "large", TABLE, 5),
    ):
        with store.writing(key, partition) as folder:
            pl.DataFrame({"n": [number * 1_111]}).write_parquet(folder / file)
    store.opened.clear()
    return store


@pytest.mark.parametrize(
    ("sql", "opened", "printed"),
    [
        ("SELECT * FROM words_more", {"words_more"}, ["2222"]),
        ("FROM words", {"words"}, ["1111"]),
        ('SELECT * FROM "Words"', {"words"}, ["1111"]),
        ("SELECT * FROM WORDS AS parts", {"words"}, ["1111"]),
        ("SELECT n FROM eval.algorithmic", {"eval"}, ["3333"]),
        ('SELECT n FROM EVAL."Algorithmic"', {"eval"}, ["3333"]),
        ("SELECT sum(n) FROM parts", {"parts"}, ["9999"]),
        ("WITH Words AS (SELECT 7777 AS n) SELECT * FROM words", set(), ["7777"]),
        ("WITH words AS (SELECT n + 1 AS n FROM words) SELECT * FROM words", {"words"}, ["1112"]),
        ("SELECT * FROM words, (SELECT max(n) FROM words_more)", {"words", "words_more"}, ["2222"]),
        ("SELECT 'parts' AS word, n AS eval FROM words -- words_more", {"words"}, ["1111", "eval"]),
        ("DESCRIBE words", {"words"}, ["BIGINT"]),
        ("SUMMARIZE words", {"words"}, ["BIGINT"]),
        ("SELECT * FROM (SUMMARIZE words)", {"words"}, ["BIGINT"]),
    ],
)
def test_a_query_opens_the_tables_that_it_names_and_no_others(
    store: RecordingStore,
    capfd: pytest.CaptureFixture[str],
    sql: str,
    opened: set[str],
    printed: list[str],
) -> None:
    print_query(store, sql, rows=5)
    out = capfd.readouterr().out
    assert store.opened == opened
    assert all(word in out for word in printed)


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        ("SHOW words", "'SHOW words' is not one SELECT"),
        ("DROP VIEW words", "is not one SELECT"),
        ("\x1b[2JDROP\n", r'at or near "\\x1b"'),
        ("COPY words TO 'x.csv'", "is not one SELECT"),
        ("SELECT 1; SELECT 2", "is not one SELECT"),
        ("", "is not one SELECT"),
        ("SELECT '\udcff'", "holds what is not UTF-8"),
        ("SELEC 1", 'syntax error at or near "SELEC".'),
        ("DESCRIBE nope", "Table with name nope does not exist; choose one of eval.algorithmic, "),
        (
            "FROM eval.nope",
            '"eval.nope" does not exist because .*; choose one of eval.algorithmic, ',
        ),
        ("SELECT nope FROM words", 'column "nope" not found'),
        (
            "SELECT " + "(" * 900 + "1" + ")" * 900,
            "cannot be read from it; write it in another way",
        ),
    ],
)
def test_what_is_refused_opens_no_other_table_and_is_one_sentence(
    store: RecordingStore, capfd: pytest.CaptureFixture[str], sql: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        print_query(store, sql, rows=5)
    assert "\n" not in str(error.value)
    assert store.opened <= {"words"}
    assert capfd.readouterr() == ("", "")


def test_a_table_is_shown_alone(store: RecordingStore, capfd: pytest.CaptureFixture[str]) -> None:
    print_table(store, "eval.algorithmic", rows=5)
    assert "3333" in capfd.readouterr().out
    assert store.opened == {"eval"}
    with pytest.raises(UserError, match=r"There is no table 'nope' in .*; choose one of eval"):
        print_table(store, "nope", rows=5)


SECRET = pl.DataFrame({"n": [123_456]})  # which no query must find by its name


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM '{secret}'",
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM read_parquet('{folder}/**')",
        "SELECT * FROM read_blob('/etc/hostname')",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM read_csv('http://127.0.0.1:9/x')",
        "SELECT * FROM 's3://bucket/x.parquet'",
        "SELECT * FROM SECRET",
        "SELECT * FROM words, SECRET",
        "SELECT * FROM store",
        "SELECT * FROM sqlite_scan('{secret}', 'x')",
        "SELECT * FROM parquet_metadata('{folder}/store/eval/manifest.json')",
        "SELECT count(*) FROM words WHERE n IN (FROM read_text('{secret}'))",
        "SELECT getenv('HOME')",
    ],
)
def test_a_query_reads_the_store_and_nothing_else(
    sql: str, store: RecordingStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret.csv").write_text("n\n123456\n")
    SECRET.write_parquet(tmp_path / "secret.parquet")
    asked = sql.format(secret=tmp_path / "secret.csv", folder=tmp_path)
    with pytest.raises(UserError) as error:
        print_query(store, asked, rows=5)
    assert "\n" not in str(error.value)
    assert "123" not in capfd.readouterr().out


def test_a_damaged_artifact_stops_only_the_queries_that_name_it(
    store: RecordingStore, capfd: pytest.CaptureFixture[str]
) -> None:
    (store.root / "parts" / "small" / "manifest.json").write_text("{")
    print_query(store, "SELECT * FROM words", rows=5)
    assert "1111" in capfd.readouterr().out
    with pytest.raises(UserError, match="materialise 'parts' again"):
        print_query(store, "SELECT * FROM parts", rows=5)


@pytest.fixture
def lists(tmp_path: Path) -> Store:
    store = Store(tmp_path / "lists")
    with store.writing("answers") as folder:
        frame = pl.DataFrame({"name": ["a|b", "c,d", None], "scores": [[1.5, 2.0], [], None]})
        frame.write_parquet(folder / TABLE)
    return store


@pytest.mark.parametrize("form", ["csv", "json", "markdown"])
@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("INTERVAL 1 DAY", "INTERVAL"),
        ("'x'::BLOB", "BLOB"),
        ("[{'a': INTERVAL 1 DAY}]", "INTERVAL"),
        ("union_value(a := 1)", "UNION"),
        ("'101'::BIT", "BIT"),
    ],
)
def test_a_type_without_a_text_is_one_sentence(
    lists: Store, sql: str, kind: str, form: Format
) -> None:
    with pytest.raises(UserError, match=f"^Column 'it' has the type {kind}, .* cast the column"):
        print_query(lists, f"SELECT {sql} AS it", form=form)


def test_a_column_called_like_such_a_type_is_written(
    lists: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    print_query(lists, "SELECT {'BLOB': 1} AS \"BIT\"", form="json")
    assert json.loads(capsys.readouterr().out) == [{"BIT": {"BLOB": 1}}]


def test_rows_are_written_for_other_programs(
    lists: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    print_query(lists, "FROM answers", form="csv")
    read = pl.read_csv(capsys.readouterr().out.encode())
    assert read["name"].to_list() == ["a|b", "c,d", None]
    assert [json.loads(text) for text in read["scores"]] == [[1.5, 2.0], [], None]
    print_query(lists, "FROM answers", form="json")
    assert json.loads(capsys.readouterr().out) == [
        {"name": "a|b", "scores": [1.5, 2.0]},
        {"name": "c,d", "scores": []},
        {"name": None, "scores": None},
    ]
    print_query(lists, "FROM answers", 1, "markdown")
    assert capsys.readouterr().out.splitlines() == [
        "| name | scores |",
        "| --- | --- |",
        r"| a\|b | [1.5, 2.0] |",
    ]


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("sum(4::BIGINT)", 4),
        ("2::HUGEINT << 100", 2**101),
        ("0.25", 0.25),
        ("[sum(4::BIGINT), NULL]", [4, None]),
        ("[[0.25]]::DECIMAL(4, 2)[1][1]", [[0.25]]),
        ("{'n': sum(4::BIGINT), 'text': '9'}", {"n": 4, "text": "9"}),
        ("MAP {'n': sum(4::BIGINT)}", {"n": 4}),
    ],
)
def test_json_has_a_number_for_every_number(
    sql: str, value: object, lists: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sum of BIGINT is a HUGEINT, which becomes a decimal."""
    asked = f"SELECT {sql} AS it"
    print_query(lists, asked, form="json")
    assert json.loads(capsys.readouterr().out) == [{"it": value}]
    if isinstance(value, list | dict):
        print_query(lists, asked, form="csv")
        (text,) = pl.read_csv(capsys.readouterr().out.encode())["it"]
        assert json.loads(text) == value


@pytest.mark.parametrize("sql", ["SHOW TABLES", "show tables;"])
def test_the_tables_are_listed_with_their_rows(
    sql: str, store: RecordingStore, capsys: pytest.CaptureFixture[str]
) -> None:
    print_query(store, sql, form="csv")
    listed = pl.read_csv(capsys.readouterr().out.encode())
    assert listed.filter(table="parts").rows() == [("parts", 2, 2)]
    assert set(listed["table"]) == {"words", "words_more", "eval.algorithmic", "parts"}
    assert store.opened == set()
    print_query(store, sql)
    assert "eval.algorithmic" in capsys.readouterr().out
