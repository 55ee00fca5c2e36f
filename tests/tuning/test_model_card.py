"""The model card of a tuned model, and `symtune push`, which carries the model's folder to a hub."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import polars as pl
import pytest
from fake_hub import FakeHub
from huggingface_hub import ModelCard
from tiny_models import save_tiny_model, save_tiny_tokenizer, tiny_job

from symtune_pipeline.catalog.models import find_model
from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import TUNING_LOG
from symtune_pipeline.tuning.card import model_card
from symtune_pipeline.tuning.job import run_job

DIGEST = "ab" * 32
OWN = """models: [smollm2-135m]
data:
  source: generated
  own:
    mine:
      role: tuning
      files: {train: mine.csv}
      columns: [text]
      label_column: label
      labels: [good, bad]
      instruction: Is it good?
      licence: my own licence
mixture: {prompts: 10}
tuning: {lora: {rank: 8}}
"""


def measured(accuracy: float, loss: float) -> dict[str, float | None]:
    found = {"symbol_accuracy": accuracy, "symbol_chance": 0.4, "first_token_loss": loss}
    return {**found, "later_token_loss": None}


def card(
    folder: Path,
    seconds: float = 1.0,
    model: str = "smollm2-135m",
    more: str = "",
    kept: int = 2,
    own: str = OWN,
    sets: Collection[str] = ("hotel_reviews", "mine"),
) -> str:
    """From a log of two steps."""
    experiment = folder / "with_own.yaml"
    experiment.write_text(own + more)
    log = pl.DataFrame(
        [
            {"step": 0, "kept": False} | measured(0.25, 3.0),
            {"step": 1, "loss": 2.0, "accuracy": 0.5, "tokens": 1_000, "seconds": seconds}
            | {"kept": kept == 1}
            | measured(0.75, 1.5),
            {
                "step": 2,
                "loss": 1.0,
                "accuracy": 0.5,
                "tokens": 2_000,
                "seconds": 2 * seconds,
                "kept": kept == 2,
            }
            | measured(0.5, 1.25),
        ],
        schema=TUNING_LOG.dtypes,
    )
    provenance = {"source": "package", "sha256": {"model.safetensors": DIGEST}, "licence": "x"}
    return model_card(
        find_model(model),
        load_experiment(str(experiment)),
        provenance,
        {"packed_mixture/smollm2-135m": "0123456789abcdef"},
        sets,
        log,
    )


def test_a_card_says_what_the_model_was_made_from_and_how(tmp_path: Path) -> None:
    text = card(tmp_path)
    data = ModelCard(text).data
    assert data.license == "apache-2.0"
    assert data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    for words in (
        "with_own",
        DIGEST,
        "`packed_mixture/smollm2-135m` | `0123456789abcdef`",
        "| hotel_reviews | Apache-2.0 |",
        "| mine | my own licence |",
        "rank: 8",
        "| symbol accuracy before | 0.2500 |",
        "| symbol accuracy after | 0.5000 |",
        "| symbol accuracy by chance | 0.4000 |",
        "| loss of symbols' first tokens after | 1.2500 |",
        "| loss, mean of the last ten steps | 1.5000 |",
        "| tokens | 2,000 |",
    ):
        assert words in text, words
    assert "phone_reviews" not in text  # a set for evaluation
    assert "later tokens after" not in text  # there were none
    assert "step whose weights are kept" not in text  # the last one's


def test_a_card_names_the_sets_of_the_mixture_alone(tmp_path: Path) -> None:
    text = card(tmp_path, sets=["trades"])
    assert "| trades | Apache-2.0 |" in text
    assert "| hotel_reviews |" not in text and "| mine |" not in text


def test_how_checkpoints_are_kept_is_no_part_of_a_card(tmp_path: Path) -> None:
    pace = OWN.replace("tuning: {", "tuning: {checkpoint_seconds: 7, keep_checkpoints: 9, ")
    assert card(tmp_path, own=pace) == card(tmp_path)


def test_a_card_says_which_step_is_kept_where_it_is_not_the_last(tmp_path: Path) -> None:
    text = card(tmp_path, kept=1)
    for words in (
        "| steps | 2 |",
        "| step whose weights are kept | 1 |",
        "| symbol accuracy after | 0.7500 |",
        "| loss of symbols' first tokens after | 1.5000 |",
    ):
        assert words in text, words


def test_a_card_of_a_model_that_was_tuned_in_its_chat_template_says_so(tmp_path: Path) -> None:
    text = card(tmp_path, more="evaluation: {chat_template: true}")
    assert "tokenizer.apply_chat_template(\n" in text and "tokenizer(prompt" not in text
    assert "evaluation:\n  chat_template: true\n```" in text
    assert "chat_template" not in card(tmp_path)


def test_a_card_of_a_model_tuned_on_published_prompts_names_these(tmp_path: Path) -> None:
    text = card(
        tmp_path,
        own=OWN.replace("{prompts: 10}", "{source: tasksource, prompts: 10}"),
        sets=["glue/rte"],
    )
    assert (
        "| tasksource | Apache-2.0 | tasksource/icl-symbol-tuning-instruct, default | 6a5e115"
        in text
    )
    assert "| hotel_reviews |" not in text and "| mine |" not in text


def test_a_card_of_a_model_with_terms_of_its_own_passes_them_on(tmp_path: Path) -> None:
    text = card(tmp_path, model="gemma3-270m")
    data = ModelCard(text).data
    assert (data.license, data.base_model) == ("gemma", "google/gemma-3-270m")
    assert "[google/gemma-3-270m](https://huggingface.co/google/gemma-3-270m)" in text
    assert (
        "| terms of the licence, which also apply to this model | https://ai.google.dev/gemma/terms |"
        in text
    )
    assert "terms of the licence" not in card(tmp_path)


def test_a_card_names_no_folder_of_this_machine_and_no_time(tmp_path: Path) -> None:
    text = card(tmp_path)
    assert str(tmp_path) not in text and "train: mine.csv" in text
    assert card(tmp_path, seconds=7.0) == text


def test_no_text_of_an_experiment_is_markup_in_a_card(tmp_path: Path) -> None:
    evil = (
        "x | y | [click](http://evil) ![](http://evil/pixel) <script>alert(1)</script> &lt;"
        " \\u202e \\n\\n# Title\\n```\\n| a |"
    )
    own = OWN.replace("licence: my own licence", f'licence: "{evil}"\n      citation: "{evil}"')
    own = own.replace("Is it good?", '"```\\n# Title\\n<script>alert(1)</script>"')
    text = card(tmp_path, own=f'name: "a <b> [c](d) | e"\n{own}')
    outside, settings, _ = re.split(r"\n(?:`{4,})(?:yaml)?\n", f"{text}\n")
    assert "alert(1)" in settings
    for markup in ("<script>", "[click](", "![](", "<b>", "# Title\n", "\u202e", " &lt;"):
        assert markup not in outside, markup
    (row,) = [line for line in outside.splitlines() if line.startswith("| mine |")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 6, "five cells"


@pytest.mark.slow
def test_the_cards_snippet_runs_in_a_tuned_models_folder(tmp_path: Path) -> None:
    folder = run_job(tiny_job(tmp_path, epochs=1), print)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 0
    (snippet,) = re.findall(r"```python\n(.*?)```", card(tmp_path), re.DOTALL)
    ended = subprocess.run(
        [sys.executable, "-c", snippet], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert re.match(r"w\d+", ended.stdout)  # a word of the tiny tokenizer


# --- symtune push ---------------------------------------------------------------------------------

Push = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def push(tmp_path: Path) -> Push:
    """Runs `symtune push micro …` on a store with a tiny tuned model and a hub's address."""
    store = Store(tmp_path / "home" / "smoke")
    with store.writing("symbol_tuned_model", "micro") as folder:
        save_tiny_tokenizer(save_tiny_model(folder))
        (folder / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")

    def push(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        ours = ("HF_", "HUGGINGFACE_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        env |= {"SYMTUNE_HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "hub")}
        command = [sys.executable, "-c", "from symtune_pipeline.commands.main import main; main()"]
        return subprocess.run(
            [*command, "--experiment", "smoke", "push", *arguments],
            env=env | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    return push


def test_a_push_lists_first_and_uploads_when_told_to(push: Push) -> None:
    with FakeHub("me/tiny", {}).serving() as hub:
        variables = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_secret"}
        listed = push("micro", "--to", "me/tiny", **variables)
        assert listed.returncode == 0, listed.stderr
        assert "MB  model.safetensors\n" in listed.stdout
        assert listed.stdout.endswith("add --yes to upload this to me/tiny.\n")
        assert not hub.paths and not hub.uploaded

        pushed = push("micro", "--to", "me/tiny", "--private", "--yes", **variables)
        assert pushed.returncode == 0, pushed.stderr
        assert pushed.stdout.endswith(f"{hub.endpoint}/me/tiny/commit/{hub.commit}\n")
        assert {"README.md", "config.json", "model.safetensors"} <= hub.uploaded.keys()
        assert hub.uploaded["README.md"].startswith(b"---\nlicense: mit")
        assert hub.made == {"name": "tiny", "organization": "me", "visibility": "private"}
        assert "hf_secret" not in pushed.stdout + pushed.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "sentence"),
    [
        (("micro", "--to", "me/tiny"), {}, "run `hf auth login` or set HF_TOKEN."),
        (("micro", "--to", "tiny"), {"HF_TOKEN": "x"}, "'tiny' names no repository"),
        (("micro", "--to", "me/ti ny"), {"HF_TOKEN": "x"}, "'me/ti ny' names no repository ("),
        (
            ("micro", "--to", "me/tiny"),
            {"HF_TOKEN": "x", "HF_ENDPOINT": "http://127.0.0.1:9"},
            "The hub cannot be reached (ConnectError",
        ),
        (
            ("micro", "--to", "me/tiny"),
            {"HF_TOKEN": "x", "HF_HUB_OFFLINE": "1"},
            "HF_HUB_OFFLINE is set (OfflineModeIsEnabled",
        ),
        (("smollm2-135m", "--to", "me/tiny"), {}, "Experiment 'smoke' has no model 'smollm2-135m'"),
        (
            ("micro", "--to", "me/tiny", "--variant", "../other"),
            {},
            "Experiment 'smoke' has no variant '../other'; choose one of tuned.",
        ),
    ],
)
def test_a_push_that_cannot_be_is_one_sentence(
    push: Push, arguments: tuple[str, ...], variables: dict[str, str], sentence: str
) -> None:
    ended = push(*arguments, "--yes", **variables)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ") and line.endswith(".") and sentence in line


@pytest.mark.parametrize(
    ("status", "way_out"),
    [(403, "see that your token may write there"), (429, "try again later")],
)
def test_a_hub_that_refuses_is_one_sentence(push: Push, status: int, way_out: str) -> None:
    with FakeHub("me/tiny", {}, answers={"/api/repos/create": (status, "")}).serving() as hub:
        ended = push(
            "micro", "--to", "me/tiny", "--yes", HF_ENDPOINT=hub.endpoint, HF_TOKEN="hf_secret"
        )
    assert ended.returncode == 2
    assert f"The hub refused me/tiny with status {status}; {way_out}, and" in ended.stderr
    assert "hf_secret" not in ended.stdout + ended.stderr
