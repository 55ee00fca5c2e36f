"""The documents name nothing that is not there, and their commands do what they are for.

CI itself runs `make setup`, `lint`, `test` and `quickstart`; tests/test_pipeline.py runs the README's
selections, tests/test_own.py that of docs/own-data.md. Other selections are resolved, not run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import typer.main
import yaml
from conftest import ROOT, Ended, Home
from dagster import AssetSelection
from dagster._cli import create_dagster_cli
from dagster_dg_cli.cli import create_dg_cli

import definitions
from symtune_pipeline.catalog.datasets import Dataset
from symtune_pipeline.catalog.models import Model
from symtune_pipeline.catalog.own import OwnDataset
from symtune_pipeline.commands.app import app
from symtune_pipeline.commands.main import main
from symtune_pipeline.commands.settings_page import settings_page
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.sections import Lora, Section

PAGES = sorted(
    [*ROOT.glob("docs/**/*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))]
)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SETTING = re.compile(r"(?<![\w/.-])(data|symbols|mixture|tuning|evaluation)((?:\.[a-z_]+)+)")
FILES = (".py", ".yaml", ".json")
PROGRAMS = {
    "symtune": typer.main.get_command(app),
    "dagster": create_dagster_cli(),
    "dg": create_dg_cli(),
}
# What is not there before a reader has added it: these commands are parsed, not run. A server is
# scored in tests/test_cli.py, a result collected in tests/resources/test_launcher_folder.py, and what
# runs and writes an experiment is in tests/commands/.
OWN = ("emails", "reviews", "mine.yaml", "mini", "score-endpoint", "collect", "run", "init")
MADE_BY_THE_READER = {"symtune_pipeline/evaluation/benchmarks/words.py"}
# What stands for the reader's own, or takes a model that a smoke run has.
STANDS_FOR = {
    "smollm2-135m": "micro", "OWNER/NAME": "someone/something",
    "/path/to/mine.yaml": "smoke", "/path/to/shop.yaml": "smoke",
}  # fmt: skip


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    """Each page in turn."""
    return Path(request.param)


def inline(page: Path) -> list[str]:
    """What stands between backticks in the running text."""
    return re.findall(r"`([^`\n]+)`", FENCED.sub("", page.read_text(encoding="utf-8")))


def commands(page: Path) -> Iterator[tuple[list[str], bool]]:
    """The words of every command, and whether it stands in a block, where it must be complete."""
    lines = [(text, False) for text in inline(page)]
    for language, block in FENCED.findall(page.read_text(encoding="utf-8")):
        if language in ("", "bash"):
            joined = block.replace("\\\n", " ")
            lines += [(line, True) for line in joined.splitlines()]
    for line, complete in lines:
        if re.match(r"([A-Z_]+=\S+ +)*(symtune|dagster|dg|make) ", line):
            words = shlex.split(line, comments=True)
            start = next(i for i, word in enumerate(words) if "=" not in word)
            # An ellipsis stands for what the reader adds.
            yield [word for word in words[start:] if word not in ("...", "…")], complete


def fault(words: Sequence[str], complete: bool) -> str | None:
    """What a program that is made with click would say against a command; it is not run."""
    command, rest = PROGRAMS[words[0]], list(words[1:])
    context = None
    try:
        while True:
            context = command.make_context(command.name, rest, parent=context)
            # What the context leaves over is a subcommand and its own words.
            rest = [*context._protected_args, *context.args]
            if not rest or not hasattr(command, "resolve_command"):
                return None
            _, command, rest = command.resolve_command(context, rest)
    except Exception as error:  # typer and dagster bring a click each, and its errors with it
        if type(error).__name__ in ("MissingParameter", "NoArgsIsHelpError") and not complete:
            return None
        return f"{' '.join(words)}: {getattr(error, 'message', None) or error!r}"


def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    files = [target.split("#")[0] for target in targets if not re.match(r"#|\w+:", target)]
    assert [file for file in files if not (page.parent / file).exists()] == []


def test_every_page_that_is_named_exists(page: Path) -> None:
    named = {word for text in inline(page) for word in re.findall(r"\bdocs/[\w/-]+\.md", text)}
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_every_file_of_the_project_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    top = "symtune_pipeline|assets|resources|tests|dbt_like_sql|launchers|experiments|benchmarks"
    rooms = "catalog|commands|evaluation|models|prompts|report|sources|sql|store|tuning"
    named = set(re.findall(rf"`((?:{top}|{rooms})/[\w/.-]+)", text)) - MADE_BY_THE_READER
    folders = (ROOT, ROOT / "symtune_pipeline", ROOT / "symtune_pipeline" / "evaluation")
    assert [n for n in sorted(named) if not any((folder / n).exists() for folder in folders)] == []


def test_make_knows_every_target(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    rules = re.findall(r"^([a-z][a-z -]*):(?!=)", makefile, re.MULTILINE)
    known = {target for rule in rules for target in rule.split()}
    named = {
        word
        for words, _ in commands(page)
        if words[0] == "make"
        for word in words[1:]
        if "=" not in word
    }
    assert named <= known


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_is_understood(page: Path, program: str) -> None:
    faults = [fault(words, complete) for words, complete in commands(page) if words[0] == program]
    assert [found for found in faults if found] == []


def test_every_command_of_a_block_runs(
    page: Path,
    smoke_run: tuple[Home, Ended],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    faults, ran = [], 0
    for words, complete in commands(page):
        if words[0] == "symtune" and complete and not set(words) & set(OWN):
            ran += 1
            for name, value in smoke_run[0].environment.items():
                monkeypatch.setenv(name, value)  # a command before may have chosen an experiment
            model = smoke_run[0].store.folder("base_model", "micro")
            folder = str(tmp_path / words[2] if words[1] == "export" else model)
            stands_for = STANDS_FOR | {"FOLDER": folder}
            argv = [stands_for.get(word, word) for word in words if word != "--open"]
            monkeypatch.setattr(sys, "argv", argv)
            with pytest.raises(SystemExit) as ended:
                main()
            out, err = capfd.readouterr()
            if ended.value.code or not out:
                faults.append((argv, out, err))
    assert faults == []
    # A page may have none; where the README has none, none is found.
    assert ran or page.name != "README.md"


PLANS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, (_, block) in enumerate(FENCED.findall(page.read_text(encoding="utf-8")))
    if re.search(r"^symtune .*\bplan (?!--model mini)", block, re.MULTILINE)
]


@pytest.mark.slow
@pytest.mark.parametrize("block", PLANS)
def test_every_plan_is_made_of_the_model_and_experiment_that_it_names(
    block: str, tmp_path: Path
) -> None:
    """With what the block does before it: other settings or GPUs than the plan's would be refused."""
    for name in ("experiments", "launchers"):
        (tmp_path / name).symlink_to(ROOT / name)
    before = r"(sed|cp|export) |symtune .*\bplan "
    lines = [line for line in block.splitlines() if re.match(before, line)]
    script = "\n".join(["set -e", *lines]).replace("/shared/me", str(tmp_path))
    environment = {name: value for name, value in os.environ.items() if "SYMTUNE" not in name} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SYMTUNE_HOME": str(tmp_path),
    }
    ended = subprocess.run(
        ["bash", "-c", re.sub(r"/path/to/\w+\.yaml", "smoke", script)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("It fits: ") + ended.stdout.count("It does not fit") >= 2 * sum(
        "plan " in line for line in lines
    )


def test_every_selection_selects_something(page: Path) -> None:
    selections = [
        words[place + 1]
        for words, _ in commands(page)
        if words[0] in PROGRAMS and not set(words) & {f"raw_{name}" for name in OWN}
        for place, word in enumerate(words)
        if word in ("--select", "--assets")
    ]
    graph = definitions.defs.resolve_asset_graph()
    assert [
        selection
        for selection in selections
        if not AssetSelection.from_string(selection).resolve(graph)
    ] == []


def test_every_variable_is_read(page: Path) -> None:
    source = (ROOT / "symtune_pipeline" / "environment.py").read_text(encoding="utf-8")
    read = set(re.findall(r'environ\.get\("(SYMTUNE_\w+)"', source))
    assert set(re.findall(r"\bSYMTUNE_[A-Z_]+", page.read_text(encoding="utf-8"))) <= read


def test_every_setting_exists(page: Path) -> None:
    sections = {name: field.annotation for name, field in Experiment.model_fields.items()}
    unknown = [
        "".join(found)
        for text in inline(page)
        for found in SETTING.findall(text)
        if not text.endswith(FILES)
        and found[1].split(".")[1] not in sections[found[0]].model_fields
    ]
    assert unknown == []


def test_the_page_of_settings_is_what_the_schema_gives() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_page(), "docs/settings.md is out of date: run `make docs-settings`"


def test_every_setting_has_a_sentence_on_the_page() -> None:
    told = settings_page()
    sections = [("", Experiment), ("data.own.<name>.", OwnDataset), ("tuning.lora.", Lora)]
    for above, section in sections:
        for name, field in section.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                sections.append((f"{above}{name}.", field.annotation))
            else:
                assert field.description and field.description.endswith("."), name
                assert f"| `{above}{name}` | " in told


@pytest.mark.parametrize(("name", "kind"), [("dataset.md", Dataset), ("model.md", Model)])
def test_the_entry_that_a_page_shows_fits_the_catalogue(
    name: str, kind: type[Dataset] | type[Model]
) -> None:
    text = (ROOT / "docs" / "extending" / name).read_text(encoding="utf-8")
    shown = [block for language, block in FENCED.findall(text) if language == "yaml"]
    ((key, entry),) = yaml.safe_load(shown[0]).items()
    assert kind(key=key, **entry).key == key
