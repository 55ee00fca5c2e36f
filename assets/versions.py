"""Code versions: what an asset's content depends on beside its inputs, read from the code itself.

A version changes with the modules that an asset's entry modules import, directly or not, with the
files that these read from beside them, and with the values that the asset takes from the experiment.
It does not change with a comment, a docstring, a message or the sentence of an error.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from symtune_pipeline import tables
from symtune_pipeline.contract import Column, Table
from symtune_pipeline.errors.interrupts import unbroken

PACKAGES = ("symtune_pipeline", "assets")
# What cannot change an asset's content: who speaks, who measures, where artifacts lie, and how a
# function becomes an asset. An experiment counts by the values that an asset takes from it, and the
# contract by the tables and words that a module takes from that.
LEFT_OUT = (
    "symtune_pipeline.errors",
    "symtune_pipeline.progress",
    "symtune_pipeline.environment",
    "symtune_pipeline.store",
    "symtune_pipeline.experiment",
    "symtune_pipeline.sections",
    "symtune_pipeline.tables",
    "symtune_pipeline.contract",
    "symtune_pipeline.tuning.metrics",
    "symtune_pipeline.evaluation.memory",
    "assets.step",
    "assets.versions",
)
SPEAKING = {"say", "warn", "progress"}  # calls whose arguments are for a reader


def code_version(modules: Iterable[str], settings: object) -> str:
    """Twelve hexadecimal digits for the entry modules, and settings that JSON can hold."""
    digest = hashlib.sha256(json.dumps(settings, default=_jsonable, sort_keys=True).encode())
    for module in sorted({found for entry in modules for found in imported(entry)}):
        digest.update(module_hash(module).encode())
    return digest.hexdigest()[:12]


@cache
def imported(entry: str) -> frozenset[str]:
    """A module of the project and those that it imports, directly or not, less what is left out."""
    graph, reached, waiting = _imports(), set(), [entry]
    while waiting:
        module = waiting.pop()
        if module not in reached and not _left_out(module):
            reached.add(module)
            waiting += graph.find_modules_directly_imported_by(module)
    return frozenset(reached)


@cache
def module_hash(module: str) -> str:
    """Changes with what a module does, with the files that it reads, and with its part of the contract."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, module
    return content_of(Path(spec.origin))


def content_of(path: Path) -> str:
    """The hash of a module's file; see `module_hash`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    digest = hashlib.sha256()
    for beside in _read_beside(path, tree):
        digest.update(beside.read_bytes())
    for name in _taken_from_contract(tree):
        digest.update(repr(_meaning(getattr(tables, name))).encode())
    digest.update(ast.unparse(_Silent().visit(tree)).encode())
    return digest.hexdigest()


class _Silent(ast.NodeTransformer):
    """Takes out what only speaks: docstrings, the arguments of raised errors, lines of progress."""

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        if name in SPEAKING or name.endswith("Error"):
            return node.func
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return ast.Pass()
        return self.generic_visit(node)


def _read_beside(path: Path, tree: ast.AST) -> Iterator[Path]:
    """The files beside a module that it reads: named in it, or of the module's own name."""
    named = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    for found in sorted(path.parent.iterdir()):
        if found.suffix not in ("", ".py", ".pyc") and (
            found.name in named or found.stem == path.stem
        ):
            yield found


def _taken_from_contract(tree: ast.AST) -> Sequence[str]:
    """The names that a module imports from `tables`."""
    return sorted(
        name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == tables.__name__
        for name in node.names
    )


def _meaning(value: Any) -> object:
    """A part of the contract without its descriptions."""
    if isinstance(value, Table):
        return {name: _meaning(column) for name, column in value.columns.items()}
    if isinstance(value, Column):
        rules = (value.allowed, value.least, value.most, value.unique, value.nullable)
        return (str(value.dtype), rules)
    if isinstance(value, dict):
        return {key: _meaning(inner) for key, inner in value.items()}
    if inspect.isfunction(value):
        return inspect.getsource(value)
    return value.__name__ if inspect.isclass(value) else value


def _jsonable(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{value!r} is no setting of an experiment")


def _left_out(module: str) -> bool:
    known = module.partition(".")[0] in PACKAGES
    return not known or any(f"{module}.".startswith(f"{name}.") for name in LEFT_OUT)


@cache
def _imports() -> Any:
    """Who imports whom in the project."""
    import grimp

    with unbroken():  # grimp panics where a signal breaks it off
        return grimp.build_graph(
            *PACKAGES,
            cache_dir=None,
            exclude_type_checking_imports=True,
            include_external_packages=False,
        )
