"""The arrows of the architecture: who imports whom, what loading costs, how assets are described."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

LIBRARY = sorted((ROOT / "symtune_pipeline").rglob("*.py"))
EVERYTHING = [
    *LIBRARY,
    *(ROOT / "assets").glob("*.py"),
    *(ROOT / "resources").glob("*.py"),
    *ROOT.glob("*.py"),
]

DESCRIBE = """
import json, sys
import definitions
import dagster as dg

graph = definitions.defs.resolve_asset_graph()
names = lambda keys: sorted(key.to_user_string() for key in keys)
print(json.dumps({
    "modules": sorted(sys.modules),
    "assets": {
        node.key.to_user_string(): [node.description, node.group_name, node.code_version]
        for node in graph.asset_nodes
    },
    "groups": sorted({
        (graph.get(parent).group_name, node.group_name)
        for node in graph.asset_nodes
        for parent in node.parent_keys
    }),
    "checks": sorted(
        (key.asset_key.to_user_string(), key.name, node.partitions_def is not None,
         graph.get(key.asset_key).partitions_def is not None)
        for node in graph.asset_nodes
        for key in node.check_keys
        for node in [graph.get(key)]
    ),
    "eval*": names(dg.AssetSelection.from_string("eval*").resolve(graph)),
    "downstream of eval": names(dg.AssetSelection.assets("eval").downstream().resolve(graph)),
    "jobs": {
        job: names(definitions.defs.resolve_job_def(job).asset_layer.executable_asset_keys)
        for job in ("symbol_tuning", "evaluation", "refresh_data")
    },
}))
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    """The code location as a fresh process sees it."""
    described = run([sys.executable, "-c", DESCRIBE], cwd=ROOT)
    assert described.returncode == 0, described.stderr
    return json.loads(described.stdout)  # type: ignore[no-any-return]


def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    ours = ("DAGSTER_", "SYMTUNE_", "PYTHONPATH")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    env["SYMTUNE_EXPERIMENT"] = "smoke"
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def imports(path: Path) -> Iterator[str]:
    """The top-level names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield (node.module or "").partition(".")[0]


def test_the_job_speaks_dagster_pipes_in_one_module() -> None:
    assert [path.name for path in LIBRARY if "dagster_pipes" in imports(path)] == ["launched.py"]


def test_loading_the_code_location_imports_no_heavy_library(loaded: dict[str, Any]) -> None:
    heavy = {
        "torch",
        "transformers",
        "datasets",
        "altair",
        "great_tables",
        "scipy",
        "statsmodels",
        "wandb",
        "ray",
    }
    assert not heavy & set(loaded["modules"])


def test_nothing_is_pickled_and_no_remote_code_runs() -> None:
    for path in EVERYTHING:
        assert not set(imports(path)) & {
            "pickle",
            "cloudpickle",
            "dill",
            "joblib",
            "marshal",
            "shelve",
        }, path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called = f"{ast.unparse(node.func.value)}.{node.func.attr}"
                assert called not in {"torch.save", "torch.load", "np.load", "np.save"}, path


def test_only_one_module_reads_the_environment() -> None:
    read = re.compile(r"environ\.get|getenv|environ\[[^]]*\](?! =)")
    reading = [path.name for path in LIBRARY if read.search(path.read_text(encoding="utf-8"))]
    assert reading == ["environment.py"]


# --- sizes ----------------------------------------------------------------------------------------


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """The functions of a file, and how many lines each has."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield f"{path.relative_to(ROOT)}:{node.name}", node.end_lineno - node.lineno + 1


@pytest.mark.parametrize(
    ("folder", "most"), [("assets", 25), ("resources", 60), ("symtune_pipeline", 60)]
)
def test_a_function_fits_a_screen(folder: str, most: int) -> None:
    sizes = dict(size for path in (ROOT / folder).rglob("*.py") for size in functions(path))
    assert {name: lines for name, lines in sizes.items() if lines > most} == {}


def test_a_module_has_at_most_400_lines_of_code() -> None:
    long = {
        path.name for path in EVERYTHING if len(path.read_text(encoding="utf-8").splitlines()) > 400
    }
    assert long <= {"functions_of_lists.py"}  # the 250 functions are data


def test_the_library_has_few_rooms() -> None:
    assert len(entries()) <= 19


def entries() -> set[str]:
    """The modules and packages of the library."""
    found = {path.name for path in (ROOT / "symtune_pipeline").iterdir()}
    return found - {"__init__.py", "__pycache__"}


# --- what the rooms know --------------------------------------------------------------------------


def test_the_architectures_page_draws_the_house_as_it_is() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^  ([a-z]+(?:/|\.py)) ", page, re.MULTILINE)
    assert {name.rstrip("/") for name in drawn} == entries()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (rooms,) = (
        contract["layers"]
        for contract in settings["tool"]["importlinter"]["contracts"]
        if contract.get("containers") == ["symtune_pipeline"]
    )
    layers = [layer.split(" | ") for layer in rooms]
    assert {room for layer in layers for room in layer} == {
        name.removesuffix(".py") for name in entries()
    }
    # The page names the rooms from the top down, as the linter does.
    place = {room: depth for depth, layer in enumerate(layers) for room in layer}
    depths = [place[name.rstrip("/").removesuffix(".py")] for name in drawn]
    assert depths == sorted(depths)


def test_every_top_level_folder_is_on_the_architectures_page() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    folders = {path.split("/")[0] for path in tracked if "/" in path and not path.startswith(".")}
    assert [name for name in sorted(folders) if f"`{name}/`" not in page] == []


def strings(path: Path) -> Iterator[str]:
    """Every text in a file's code, docstrings and parts of f-strings among them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_no_room_but_the_commands_names_an_asset(loaded: dict[str, Any]) -> None:
    # 'eval' is a word of Python, too; as an asset it stands alone or before a dot.
    names = [re.escape(name) for name in loaded["assets"] if name != "eval"]
    asset = re.compile(rf"(?<![\w/])(?:{'|'.join(names)})(?!\w)|^eval(?:\.\w+)?$")
    prefixes = re.compile(r"\b(?:raw|stg|int|mart)_(?:$|\{|…|\.\.\.)")
    rooms = [path for path in LIBRARY if "commands" not in path.parts and path.name != "tables.py"]
    naming = {
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in rooms
        for text in strings(path)
        if (found := asset.search(text) or prefixes.search(text))
    }
    assert naming == set()


def test_every_module_says_what_it_is_for() -> None:
    for path in EVERYTHING:
        module = ast.parse(path.read_text(encoding="utf-8"))
        assert not module.body or ast.get_docstring(module), path


def test_every_asset_has_a_description_a_group_and_a_code_version(loaded: dict[str, Any]) -> None:
    assert len(loaded["assets"]) > 45
    for name, (description, group, version) in loaded["assets"].items():
        assert description, name
        assert group not in (None, "", "default"), name
        assert version, name


def test_groups_follow_the_data_and_have_no_circle(loaded: dict[str, Any]) -> None:
    order = ["raw", "examples", "mixture", "models", "suites", "predictions", "scores", "report"]
    assert {group for _, group, _ in loaded["assets"].values()} == set(order)
    backwards = [
        (source, target)
        for source, target in loaded["groups"]
        if order.index(source) > order.index(target)
    ]
    assert backwards == []


def test_checks_of_partitioned_assets_are_partitioned(loaded: dict[str, Any]) -> None:
    checks = loaded["checks"]
    assert [check for check in checks if check[2] != check[3]] == []
    assert ["eval_icl", "schema", True, True] in checks


def test_eval_star_is_the_evaluation_and_nothing_else(loaded: dict[str, Any]) -> None:
    chosen = set(loaded["eval*"])
    assert chosen == set(loaded["downstream of eval"])
    assert chosen >= {
        "eval",
        "eval_icl",
        "eval_flipped",
        "eval_algorithmic",
        "eval_language",
        "eval_finetuned",
        "mart_summary",
        "eval_report",
    }
    assert chosen >= {name for name in loaded["assets"] if name.startswith("eval")}  # as a wildcard
    before = (
        "raw_",
        "stg_",
        "symbol_pool",
        "int_examples",
        "tuning_",
        "packed_",
        "base_",
        "symbol_t",
    )
    assert not [name for name in chosen if name.startswith(before)]


def test_a_job_makes_everything_and_another_the_evaluation_only(loaded: dict[str, Any]) -> None:
    assert set(loaded["jobs"]["symbol_tuning"]) == set(loaded["assets"])
    assert loaded["jobs"]["evaluation"] == loaded["eval*"]
    raw = [name for name in loaded["assets"] if name.startswith("raw_")]
    assert loaded["jobs"]["refresh_data"] == sorted(raw)


def test_keys_are_single_words_that_cannot_collide_as_file_and_folder(
    loaded: dict[str, Any],
) -> None:
    assert all(name.isidentifier() for name in loaded["assets"])


def test_the_shell_finds_no_file_that_eval_star_would_match() -> None:
    assert not list(ROOT.glob("eval*"))


def test_the_code_location_loads_as_a_file_from_another_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dagster", "asset", "list", "-f", str(ROOT / "definitions.py")]
    listed = run([*command, "--select", "eval"], cwd=tmp_path)
    assert (listed.returncode, listed.stdout.split()) == (0, ["eval"])
