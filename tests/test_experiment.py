"""One typed configuration from one file; a mistake in it is one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from symtune_pipeline.catalog.datasets import all_datasets
from symtune_pipeline.catalog.generated import generated_sets
from symtune_pipeline.catalog.own import OwnDataset
from symtune_pipeline.commands.common import current_experiment
from symtune_pipeline.commands.whole_run import missing_roles
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import EXPERIMENTS, Experiment, load_experiment

MODELS = "models: [micro]\n"
DATA = "data: {source: generated}\n"
MIXTURE = "mixture: {prompts: 10}\n"


def _load(folder: Path, text: str | bytes) -> Experiment:
    path = folder / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_experiment(str(path))


def _refused(folder: Path, text: str | bytes) -> str:
    with pytest.raises(UserError) as error:
        _load(folder, text)
    sentence = str(error.value)
    assert str(folder / "mine.yaml") in sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")
    if "setting '" in sentence:
        assert sentence.endswith("; docs/settings.md describes every setting.")
    return sentence


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_experiment_loads(path: Path) -> None:
    found = load_experiment(path.stem)
    assert found.name == path.stem
    assert found == load_experiment(str(path))
    assert {entry.role for entry in found.datasets()} == {"tuning", "evaluation"}


def test_quickstart_is_shipped_and_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYMTUNE_EXPERIMENT", raising=False)
    assert current_experiment().name == "quickstart"
    monkeypatch.setenv("SYMTUNE_EXPERIMENT", "smoke")
    assert current_experiment().name == "smoke"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MODELS + DATA + MIXTURE + "sede: 1", ["'sede'", "unknown setting (did you mean 'seed'?);"]),
        (MODELS + DATA + "mixture: {prompts: 10, fixed: 3}", ["'mixture.fixed'", "(known: source, prompts"]),
        (MODELS + DATA + MIXTURE + "tuning: {lora: {rnak: 2}}", ["'tuning.lora.rnak'", "mean 'rank'?"]),
        (MODELS + DATA + MIXTURE + "tuning: {lora: 5}", ["'tuning.lora'", "dictionary"]),
        (MODELS + DATA + MIXTURE + "seed: many", ["'seed'", "valid integer"]),
        (MODELS + DATA + MIXTURE + "seed: -1", ["'seed'", "greater than or equal to 0"]),
        (MODELS + DATA + "mixture: {prompts: 0}", ["'mixture.prompts'", "greater than 0"]),
        (MODELS + DATA + "mixture: 5", ["'mixture'"]),
        (MODELS + DATA, ["'mixture'", "required"]),
        ("models: []\n" + DATA + MIXTURE, ["'models'", "at least 1"]),
        ("models: [gpt-9]\n" + DATA + MIXTURE, ["'models'", "gpt-9", "micro, smollm2-135m"]),
        (MODELS + MIXTURE + "data: {source: hub, datasets: [nope]}", ["'data.datasets'", "'nope'", "rte"]),
        (MODELS + MIXTURE + "data: {source: cloud}", ["'data.source'", "'generated' or 'hub'"]),
        (MODELS + MIXTURE + "data: {}", ["'data'", "set source to generated or hub"]),
        (MODELS + MIXTURE + "data: {datasets: [rte]}", ["'data'", "set source to generated or hub"]),
        (MODELS + MIXTURE + "data: {source: hub, missing: ignore}", ["'data.missing'", "leave_out"]),
        (MODELS + DATA + "mixture: {prompts: 9, exemplars_per_class: [5, 2]}",
         ["'mixture.exemplars_per_class'", "5, is above the largest, 2"]),
        (MODELS + DATA + "mixture: {prompts: 9, temperature: 0}", ["'mixture.temperature'", "than 0"]),
        (MODELS + DATA + "mixture: {prompts: 9, instructed_share: 1.5}", ["'mixture.instructed_share'"]),
        (MODELS + DATA + "mixture: {prompts: 9, labels: flipped}", ["'mixture.labels'", "'shuffled'"]),
        (MODELS + DATA + "mixture: {prompts: 9, sets: 23}", ["'mixture'", "sets is 23, above the 22 tuning"]),
        (MODELS + DATA + "mixture: {prompts: 9, leave_out: [topics]}",
         ["'mixture'", "leave_out names 'topics', which no tuning set has (did you mean 'topic'?)"]),
        (MODELS + DATA + "mixture: {prompts: 9, leave_out: [basics]}", ["leaves no tuning set; name fewer"]),
        (MODELS + MIXTURE + "data: {source: generated, datasets: [gramar]}",
         ["'data.datasets'", "no dataset 'gramar' in the catalogue; did you mean 'grammar'?"]),
        (MODELS + DATA + MIXTURE + "symbols: {categories: [word, word]}", ["categories'", "twice"]),
        (MODELS + DATA + MIXTURE + "symbols: {categories: [digit]}", ["categories.0'", "'word'"]),
        (MODELS + DATA + MIXTURE + "symbols: {categories: [word], tuning_size: 10_001}",
         ["'symbols.tuning_size'", "10001 is above 10000"]),
        (MODELS + DATA + MIXTURE + "evaluation: {flipped_percents: [0, 150]}", ["flipped_percents", "100"]),
        (MODELS + DATA + MIXTURE + "evaluation: {flipped_percents: [50, 50]}", ["flipped_percents", "twice"]),
        (MODELS + DATA + MIXTURE + "evaluation: {exemplars_per_class: [1, 1]}",
         ["'evaluation.exemplars_per_class'", "twice"]),
        (MODELS + DATA + MIXTURE + "evaluation: {exemplars_per_class: many}",
         ["'evaluation.exemplars_per_class'", "valid integer"]),
        (MODELS + DATA + MIXTURE + "evaluation: {exemplars_per_class: [1, 0]}",
         ["'evaluation.exemplars_per_class.1'", "greater than 0"]),
        (MODELS + DATA + MIXTURE + "evaluation: {ranks_per_model: 0}",
         ["'evaluation.ranks_per_model'", "greater than 0"]),
        (MODELS + DATA + MIXTURE + "evaluation: {protocol: fresh}", ["'evaluation.protocol'", "'per_query'"]),
        (MODELS + DATA + MIXTURE + "evaluation: {chat_template: true}",
         ["'evaluation'", "'micro' is no instruction-tuned model", "set chat_template to false or"]),
        ("models: [smollm2-135m]\n" + DATA + MIXTURE + "evaluation: {chat_template: true, pretrained: true}",
         ["'evaluation.chat_template'", "set this or evaluation.pretrained to false"]),
        (MODELS + DATA + MIXTURE + "tuning: {learning_rate: 0}", ["'tuning.learning_rate'"]),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_sentence_naming_file_and_setting(
    text: str, says: list[str], tmp_path: Path
) -> None:
    sentence = _refused(tmp_path, text)
    for part in says:
        assert part in sentence


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "settings by name"),
        ("- micro\n- large\n", "settings by name"),
        ("just words", "settings by name"),
        ("models: [micro", "not valid YAML"),
        ("models:\n\t- micro", "not valid YAML"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_file_that_holds_no_settings_is_one_sentence(
    text: str | bytes, says: str, tmp_path: Path
) -> None:
    assert says in _refused(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MODELS + DATA + MIXTURE + "seed: 1\nseed: 2\n", "line 5: 'seed' comes a second time"),
        (MODELS + DATA + "mixture:\n  prompts: 1\n  prompts: 1\n", "line 5: 'prompts' comes"),
        (MODELS + DATA + "mixture: {prompts: 1, 'prompts': 2}\n", "line 3: 'prompts' comes"),
        (MODELS + MIXTURE + "data: {own: {a: {labels: {1: x, 1.0: y}}}}", "line 3: '1.0' comes"),
    ],
)
def test_a_setting_that_comes_twice_is_named(text: str, says: str, tmp_path: Path) -> None:
    assert says in _refused(tmp_path, text)


def test_a_merged_setting_may_be_given_another_value(tmp_path: Path) -> None:
    found = _load(
        tmp_path, MODELS + DATA + "mixture: {<<: {prompts: 1, temperature: 2}, prompts: 3}"
    )
    assert (found.mixture.prompts, found.mixture.temperature) == (3, 2)


def test_instruction_tuned_models_may_be_asked_in_their_chat_template(tmp_path: Path) -> None:
    text = "models: [smollm2-135m]\n" + DATA + MIXTURE
    assert not _load(tmp_path, text).evaluation.chat_template
    asked = _load(tmp_path, text + "evaluation: {chat_template: true}")
    assert asked.evaluation.chat_template


@pytest.mark.parametrize("name", ["nope", "/nowhere/mine.yaml"])
def test_a_missing_file_is_one_sentence_with_the_shipped_names(name: str) -> None:
    with pytest.raises(UserError, match=r"SYMTUNE_EXPERIMENT.*quickstart.*smoke.*\.$") as error:
        load_experiment(name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_without_a_list_an_experiment_has_every_set_of_its_source(tmp_path: Path) -> None:
    generated = _load(tmp_path, MODELS + DATA + MIXTURE)
    assert [entry.key for entry in generated.datasets()] == [
        key for key in all_datasets() if key in generated_sets()
    ]
    mirror = _load(tmp_path, MODELS + "data: {source: hub}\n" + MIXTURE)
    assert [entry.key for entry in mirror.datasets()] == [
        key for key, entry in all_datasets().items() if entry.hub
    ]
    chosen = _load(tmp_path, MODELS + MIXTURE + "data: {source: hub, datasets: [subj, rte]}")
    assert [entry.key for entry in chosen.datasets()] == ["rte", "subj"]


def test_families_are_chosen_by_name_and_left_out_of_the_mixture(tmp_path: Path) -> None:
    data = "data: {source: generated, datasets: [grammar, formats, mood_messages]}\n"
    all_of_them = _load(tmp_path, MODELS + data + MIXTURE)
    names = {entry.family for entry in all_of_them.datasets()}
    assert names == {"grammar", "formats", "basics"} and not all_of_them.left_out()
    assert [e.key for e in all_of_them.datasets() if e.family == "basics"] == ["mood_messages"]
    mixture = "mixture: {prompts: 10, leave_out: [formats, miscellaneous, past_present_future]}"
    fewer = _load(tmp_path, MODELS + data + mixture)
    assert fewer.datasets() == all_of_them.datasets()
    left = {entry.key: entry.family for entry in fewer.datasets() if entry.key in fewer.left_out()}
    assert {*left.values()} == {"formats", "basics", "grammar"}
    assert list(left.values()).count("grammar") == 1
    both = _load(tmp_path, MODELS + data.replace("]", "], split: [formats]", 1) + MIXTURE)
    assert {e.family for e in both.datasets() if e.role == "evaluation"} == {"formats"}
    every = _load(tmp_path, MODELS + "data: {source: hub, datasets: [families, subj]}\n" + MIXTURE)
    assert len(every.datasets()) > 223


def test_the_published_prompts_lie_beside_the_experiment_file(tmp_path: Path) -> None:
    text = MODELS + DATA + MIXTURE + "evaluation: {published: ../bigbench}"
    assert _load(tmp_path, text).evaluation.published == tmp_path / "../bigbench"
    assert _load(tmp_path, MODELS + DATA + MIXTURE).evaluation.published is None


def test_where_files_lie_is_no_part_of_what_an_experiment_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file by two paths is one experiment, and what is kept of it names no folder."""
    own = OWN.format(role="tuning").replace("a.csv", "lists/a.csv")
    path = tmp_path / "mine.yaml"
    path.write_text(MODELS + own + MIXTURE + "evaluation: {published: ../bigbench}")
    monkeypatch.chdir(tmp_path)
    here, there = (load_experiment(name) for name in ("mine.yaml", str(path)))
    assert here.data != there.data, "each can be read where it is"
    kept = here.model_dump(mode="json")
    assert kept == there.model_dump(mode="json")
    assert kept["data"]["own"]["mine"]["files"] == {"train": "a.csv"}
    assert kept["evaluation"]["published"] == "bigbench"


OWN = """data:
  own:
    mine:
      role: {role}
      files: {{train: a.csv}}
      columns: [text]
      label_column: stars
      labels: {{1: bad, 5: good}}
      instruction: Which?
"""


def _settings(model: type[BaseModel], where: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every setting as the names that lead to it, as pydantic's own fields have them."""
    for name, field in model.model_fields.items():
        yield (*where, name)
        parts = () if get_origin(field.annotation) is dict else get_args(field.annotation)
        for part in (field.annotation, *parts):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _settings(part, (*where, name))


@pytest.mark.parametrize(
    "where",
    [*_settings(Experiment), *_settings(OwnDataset, ("data", "own", "mine"))],
    ids=".".join,
)
def test_a_misspelled_setting_is_told_its_name_at_every_depth(
    where: tuple[str, ...], tmp_path: Path
) -> None:
    """Alone in its section, which then lacks the required settings too."""
    right = where[-1]
    for wrong in {f"{right}s", right[:-2] + right[:-3:-1], right.upper(), right.replace("_", "-")}:
        if wrong != right:
            settings: object = 1
            for name in (wrong, *reversed(where[:-1])):
                settings = {name: settings}
            sentence = _refused(tmp_path, yaml.safe_dump(settings))
            named = ".".join((*where[:-1], wrong))
            assert f"setting '{named}': unknown setting (did you mean '{right}'?)" in sentence


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "learning_rate: 1e-5",
            "'learning_rate': unknown setting (did you mean 'tuning.learning_rate' or"
            " 'evaluation.finetuned.learning_rate'?)",
        ),
        ("precision: fp32", "(did you mean 'tuning.precision' or 'evaluation.precision'?)"),
        ("tuning: {prompts: 5}", "'tuning.prompts': unknown setting (did you mean 'mixture.prompts'?)"),
    ],
)  # fmt: skip
def test_a_setting_in_the_wrong_section_is_told_the_right_one(
    text: str, says: str, tmp_path: Path
) -> None:
    assert says in _refused(tmp_path, text)


def test_an_experiment_says_what_its_report_will_lack(tmp_path: Path) -> None:
    """Before anything runs: minutes later the report would look empty, or the run end in an error."""
    assert missing_roles(_load(tmp_path, MODELS + DATA + MIXTURE)) is None
    tuning_only = _load(tmp_path, MODELS + OWN.format(role="tuning") + MIXTURE)
    said = missing_roles(tuning_only)
    assert said and "no set with 'role: evaluation'" in said and "only have algorithmic" in said


@pytest.mark.parametrize(
    ("role", "asked", "says"),
    [
        ("evaluation", "", r"no set to tune on; add one to data\.own"),
        ("tuning", "evaluation: {list_functions: 0, turing_programs: 0}", "so no result; add one"),
    ],
)
def test_a_run_that_cannot_end_is_refused_before_it_starts(
    role: str, asked: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        missing_roles(_load(tmp_path, MODELS + OWN.format(role=role) + MIXTURE + asked))


ENDPOINTS = """evaluation:
  endpoints:
    {name}: {{url: "{url}", model: {model}, serves: {serves}}}
"""
SERVED = {"name": "vllm_8", "url": "http://127.0.0.1:8000/v1", "model": "tiny", "serves": "micro"}


def _endpoint(**changed: str) -> str:
    return MODELS + DATA + MIXTURE + ENDPOINTS.format(**SERVED | changed)


def test_a_served_model_is_a_variant_of_a_model_of_the_experiment(tmp_path: Path) -> None:
    experiment = _load(tmp_path, _endpoint())
    assert list(experiment.endpoints_of("micro")) == ["vllm_8"]
    assert experiment.endpoints_of("smollm2-135m") == {}
    alone = _load(tmp_path, _endpoint(serves="null"))
    assert alone.endpoints_of("micro")["vllm_8"].protocol == "completions"


def test_where_a_model_is_served_is_no_part_of_what_an_experiment_is(tmp_path: Path) -> None:
    here, there = (
        _load(tmp_path, _endpoint(url=url)) for url in ("http://127.0.0.1:1/v1", "https://a.b/v1")
    )
    assert here.model_dump() == there.model_dump()
    assert "url" not in str(here.model_dump())
    assert here.evaluation.endpoints["vllm_8"].url != there.evaluation.endpoints["vllm_8"].url


@pytest.mark.parametrize("name", ["tuned", "untuned", "pretrained", "endpoint", "incoming"])
def test_a_served_model_has_a_name_of_its_own(name: str, tmp_path: Path) -> None:
    sentence = _refused(tmp_path, _endpoint(name=name))
    assert f"'evaluation.endpoints': there is a variant '{name}' already; choose" in sentence


def test_a_served_model_and_a_tuned_variant_have_different_names(tmp_path: Path) -> None:
    sentence = _refused(tmp_path, _endpoint() + "variants: {vllm_8: {seed: 1}}\n")
    assert "there is a variant 'vllm_8' already; choose another name" in sentence
    both = _load(tmp_path, _endpoint() + "variants: {seed1: {seed: 1}}\n")
    assert both.variant("seed1").endpoints_of("micro") == both.endpoints_of("micro")


@pytest.mark.parametrize("name", ["../x", "a-b", "A", '""', "a/b", "1a", "a.b", "x" * 41])
def test_the_name_of_a_served_model_names_a_file(name: str, tmp_path: Path) -> None:
    assert "evaluation.endpoints" in _refused(tmp_path, _endpoint(name=name))


@pytest.mark.parametrize("url", ["127.0.0.1:8000/v1", "ftp://a/v1", "http://", "http:///v1", "", "x",
                                 "http://a:99999/v1", "http://[/v1", "http://a b/v1"])  # fmt: skip
def test_an_address_that_is_none_is_one_sentence(url: str, tmp_path: Path) -> None:
    sentence = _refused(tmp_path, _endpoint(url=url))
    assert "'evaluation.endpoints.vllm_8.url': is no address such as http://127.0.0.1" in sentence


@pytest.mark.parametrize(
    "url",
    # pragma: allowlist nextline secret
    ["https://me:sk-1@a/v1", "https://sk-1@a/v1", "https://a/v1?key=sk-1"],
)
def test_a_key_in_an_address_is_refused_and_not_repeated(url: str, tmp_path: Path) -> None:
    sentence = _refused(tmp_path, _endpoint(url=url))
    assert "a key is read from OPENAI_API_KEY alone" in sentence and "sk-1" not in sentence


def test_a_served_model_says_which_of_several_models_it_serves(tmp_path: Path) -> None:
    several = "models: [micro, smollm2-135m]\n"
    text = _endpoint(serves="null").replace(MODELS, several)
    assert "set endpoints.vllm_8.serves" in _refused(tmp_path, text)
    other = _refused(tmp_path, _endpoint(serves="gemma3-270m").replace(MODELS, several))
    assert "which is none of the experiment's models; name one of micro, smollm2-135m" in other


def test_settings_can_be_changed_without_a_change_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    shared = "tuning: &t {epochs: 1}\nvariants: {longer: {seed: 1, tuning: *t}}\n"
    path.write_text(MODELS + DATA + MIXTURE + shared)
    changes = [
        *("tuning.learning_rate=1e-4", "mixture.exemplars_per_class=[2, 3]", "mixture.prompts=7"),
        *("evaluation.queries=7", "tuning.epochs=3", "tuning.optimizer="),
    ]
    found = load_experiment(str(path), changes)
    assert (found.name, found.tuning.learning_rate, found.tuning.epochs) == ("mine", 1e-4, 3)
    assert found.mixture.prompts == 7
    assert found.mixture.exemplars_per_class == (2, 3)
    assert (found.evaluation.queries, found.tuning.optimizer) == (7, None)
    assert found.variants["longer"].tuning == {"epochs": 1}  # an alias stands for its own place
    assert load_experiment(str(path)).tuning.epochs == 1
    with pytest.raises(UserError, match="cannot change the name, which only the experiment's file"):
        load_experiment(str(path), ["name=fast"])
