"""Odd inputs: files, words of a command and SQL, changed until they mean nothing."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from unicodedata import category

from conftest import ROOT
from tiny_models import save_tiny_model, save_tiny_tokenizer

from faults.outcome import Outcome, Result
from faults.runs import golden
from resources.launcher import load_launcher
from symtune_pipeline.commands.main import main
from symtune_pipeline.commands.query import print_query
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.models.folder import lacking
from symtune_pipeline.models.opening import open_tokenizer, read_config
from symtune_pipeline.sources.own import read_cells

HANG = 10  # seconds
ODD = (
    *("\0", "\x1b[2J", "\ud800", "\u202e", "\ufeff", "9" * 5_000, "-1", "1e999", ".inf", ".nan"),
    *("null", "true", "[", "{", "]", "}", "&a [*a]", "!!python/object/apply:os.system [id]"),
    *("2024-99-99", "0x_", "..", "../../x", "/etc/passwd", "*", "^.*$", "'", '"', "\\", "`", "|"),
    *("\t", "\n", "\r", ",", ";", ":", "<script>", "{{ 1 }}", "%s", "$HOME", "[" * 2_000),
)
QUERIES = (
    "SELECT role, sum(kept) FROM int_set_statistics GROUP BY role",
    "FROM mart_summary WHERE accuracy > 0.5 ORDER BY setting LIMIT 3",
    "SELECT a.setting, b.variant FROM mart_icl a JOIN mart_summary b USING (setting)",
    "SELECT * FROM read_csv('/etc/passwd')",
    "COPY mart_summary TO '/tmp/x.csv'",
)
COMMANDS = (
    ("show", "table", "mart_summary"),
    ("show", "dataset", "hotel_reviews"),
    ("show", "model", "micro"),
    ("query", "--rows", "3", "FROM mart_summary"),
    ("compare", "smoke", "quickstart"),
    ("plan", "--model", "smollm2-135m", "--gpu", "h100"),
    ("report",),
)


def odd(random: Random, folder: Path, count: int) -> Iterator[Outcome]:
    """An input of any kind, changed a few times."""
    readers = _readers(folder)
    for _ in range(count):
        name = random.choice(list(readers))
        texts, read = readers[name]
        changed = mutated(random.choice(texts), random)
        yield Outcome(f"{name}: {changed!r}", *_answered(read, changed))


def mutated(text: str, random: Random) -> str:
    """A text after one to four changes."""
    for _ in range(random.randint(1, 4)):
        first, last = sorted(random.randrange(len(text) + 1) for _ in range(2))
        piece = text[first : min(last, first + 200)]
        text = random.choice(
            [
                text[:first] + random.choice(ODD) + text[first:],
                text[:first] + random.choice(ODD) + text[first + len(piece) :],
                text[:first] + text[first + len(piece) :],
                text[:first] + piece + text[first:],
                text[:last],
            ]
        )
    return text


def _readers(folder: Path) -> dict[str, tuple[list[str], Callable[[str], object]]]:
    """By name, texts that are right, and who reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    model = save_tiny_tokenizer(save_tiny_model(folder / "model"))

    def in_file(name: str, read: Callable[[Path], object]) -> Callable[[str], object]:
        def written(text: str) -> object:
            path = folder / name
            path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
            return read(path)

        return written

    def in_model(name: str, read: Callable[[Path], object]) -> Callable[[str], object]:
        right = (model / name).read_bytes()

        def written(text: str) -> object:
            (model / name).write_bytes(text.encode("utf-8", errors="surrogatepass"))
            try:
                lacking(model)
                return read(model)
            finally:
                (model / name).write_bytes(right)

        return written

    def texts(pattern: str) -> list[str]:
        return [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob(pattern))]

    rows = [{"text": f"a day, {n}", "label": n % 2, "id": f"x{n}"} for n in range(6)]
    csv = "\n".join(["text,label,id", *(f'"{r["text"]}",{r["label"]},{r["id"]}' for r in rows)])
    config, tokens = ((model / name).read_text() for name in ("config.json", "tokenizer.json"))
    store = golden(folder).store
    return {
        "experiment": (
            texts("experiments/*.yaml"),
            in_file("e.yaml", lambda p: load_experiment(str(p))),
        ),
        "launcher": (texts("launchers/*.yaml"), in_file("l.yaml", lambda p: load_launcher(str(p)))),
        "CSV": ([csv], in_file("own.csv", read_cells)),
        "TSV": ([csv.replace(",", "\t")], in_file("own.tsv", read_cells)),
        "JSONL": (["\n".join(map(json.dumps, rows))], in_file("own.jsonl", read_cells)),
        "config.json": ([config], in_model("config.json", read_config)),
        "tokenizer.json": ([tokens[:5_000], tokens], in_model("tokenizer.json", open_tokenizer)),
        "SQL": (list(QUERIES), lambda sql: print_query(store, sql)),
        "command": (["\x1f".join(words) for words in COMMANDS], _command),
    }


def _command(words: str) -> None:
    """The command line, with its words apart."""
    before, sys.argv = sys.argv, ["symtune", *words.replace("\0", "").split("\x1f")]
    try:
        main()
    except SystemExit as ended:
        if ended.code not in (0, 1, 2, None):
            raise AssertionError(f"exit status {ended.code}") from None
    finally:
        sys.argv = before


class _Hang(BaseException):
    pass


def _answered(read: Callable[[str], object], text: str) -> tuple[Result, str]:
    """Survived if an input is taken, or refused in a sentence, and that soon."""

    def ring(*_: object) -> None:
        raise _Hang

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(HANG)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            read(text)
    except UserError as error:
        one = not any(category(character) == "Cc" for character in str(error))
        return ("survived", "") if one else ("lost", f"no sentence of one line: {error!r}")
    except _Hang:
        return "lost", f"no answer in {HANG} s"
    except Exception as error:
        return "lost", f"{type(error).__name__}: {error}"[:500]
    finally:
        signal.alarm(0)
    trace = "Traceback" in said.getvalue()
    return ("lost", said.getvalue()[-500:]) if trace else ("survived", "")
