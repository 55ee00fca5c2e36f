"""The one door to foreign model folders: no code, no hang, one sentence, and nothing of ours in them."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from tiny_models import save_tiny_model, save_tiny_tokenizer

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.incoming import unready
from symtune_pipeline.models.folder import lacking
from symtune_pipeline.models.loading import load_model
from symtune_pipeline.models.opening import open_tokenizer

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
Path(__file__).with_name("it ran").touch()
class Tokenizer(PreTrainedTokenizerFast): pass
class Config(LlamaConfig): pass
class Model(LlamaForCausalLM): pass
"""
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model."""
    save_tiny_model(tmp_path / "model")
    save_tiny_tokenizer(tmp_path / "model")
    return tmp_path / "model"


def _set(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings), encoding="utf-8")


def _open(folder: Path) -> None:
    """All that an evaluation does before it asks the model anything."""
    if reason := lacking(folder):
        raise UserError(f"Folder {folder}: {reason}.")
    open_tokenizer(folder)
    load_model(folder, torch.float32, "cpu")


@pytest.mark.parametrize("known", [True, False], ids=["a known class", "a class of its own"])
def test_no_code_of_a_folder_runs_whatever_stands_on_standard_input(
    known: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "evil.py").write_text(CODE)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(CODE)
    models = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    tokenizers = {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}
    _set(folder / "config.json", auto_map=models | tokenizers)
    _set(folder / "tokenizer_config.json", auto_map=tokenizers)
    if not known:
        _set(folder / "config.json", model_type="evil", architectures=["Model"])
        _set(folder / "tokenizer_config.json", tokenizer_class="Tokenizer")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 99))
    if known:
        _open(folder)
    else:
        with pytest.raises(UserError):
            open_tokenizer(folder)
        with pytest.raises(UserError, match="without code of its own"):
            load_model(folder, torch.float32, "cpu")
    assert not list(folder.rglob("it ran"))


def test_folders_are_opened_in_one_module_with_its_lock() -> None:
    """`from_pretrained` asks whether foreign code may run unless it is told."""
    found = []
    for path in [
        p
        for room in ("symtune_pipeline", "assets", "resources")
        for p in (ROOT / room).rglob("*.py")
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "from_pretrained":
                found.append(path.relative_to(ROOT).as_posix())
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained":
                given = {key.arg: ast.unparse(key.value) for key in node.keywords}
                assert given["trust_remote_code"] == "False", path
                assert given["local_files_only"] == "True", path
    assert set(found) == {"symtune_pipeline/models/opening.py"}


SAVED = """
import sys
from pathlib import Path
from symtune_pipeline.models.opening import open_tokenizer
open_tokenizer(Path(sys.argv[1])).save_pretrained(sys.argv[2])
"""


def test_a_saved_tokenizer_knows_nothing_of_how_and_where_it_was_loaded(
    folder: Path, tmp_path: Path
) -> None:
    _set(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]})
    saved = []
    for offline in ("0", "1"):
        there = folder.rename(tmp_path / f"model {offline}")
        out = tmp_path / f"out {offline}"
        subprocess.run(
            [sys.executable, "-c", SAVED, str(there), str(out)],
            env=os.environ | {"HF_HUB_OFFLINE": offline},
            check=True,
        )
        folder = there
        saved.append({path.name: path.read_text() for path in out.iterdir()})
    assert saved[0] == saved[1]
    config = saved[0]["tokenizer_config.json"]
    assert "auto_map" not in config and "local" not in config and str(tmp_path) not in config


FILES = ("config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json")
NO_JSON = ("[]", "3", "null", '"x"', "{", DEEP, '{"a":' + DEEP + "}", '{"a":' + "9" * 5_000 + "}")


@pytest.mark.parametrize("text", NO_JSON, ids=range(len(NO_JSON)))
@pytest.mark.parametrize("name", [*FILES, "model.safetensors.index.json"])
def test_a_file_that_is_no_json_object_is_one_sentence(name: str, text: str, folder: Path) -> None:
    (folder / name).write_text(text)
    try:
        _open(folder)
    except UserError as error:
        assert str(folder) in str(error) and "\n" not in str(error)
    else:
        assert name in ("generation_config.json", "tokenizer_config.json"), "nobody needs it"


WRONG = [
    {"model_type": 3}, {"model_type": []}, {"vocab_size": 0}, {"vocab_size": "many"},
    {"vocab_size": 10**30}, {"hidden_size": 10**30}, {"hidden_size": -1}, {"head_dim": 0},
    {"num_key_value_heads": 0}, {"num_attention_heads": 0}, {"pad_token_id": 10**9},
    {"text_config": 3}, {"base_model_tp_plan": 3}, {"quantization_config": "x"},
    {"num_hidden_layers": 10**9}, {"vocab_size": 2**33}, {"intermediate_size": 2**33},
]  # fmt: skip


@pytest.mark.parametrize("settings", WRONG, ids=str)
def test_a_configuration_of_nonsense_is_one_sentence_and_takes_no_memory(
    settings: dict[str, Any], folder: Path
) -> None:
    _set(folder / "config.json", **settings)
    with pytest.raises(UserError) as error:
        _open(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", [*FILES, "model.safetensors", "whatever"])
def test_nobody_waits_for_a_pipe(name: str, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert unready(folder) == f"{name} is no ordinary file"


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "x" * 5_000, "a\0b", ""])
def test_weights_lie_in_their_folder(name: str, folder: Path) -> None:
    index = {"weight_map": {"lm_head.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert unready(folder)
