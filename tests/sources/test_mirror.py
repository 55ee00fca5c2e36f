"""A mirror in a folder and on s3: read, filled, interrupted, unreachable."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from symtune_pipeline.catalog.datasets import Dataset, HubLocation, find_dataset
from symtune_pipeline.commands.app import app
from symtune_pipeline.errors import MissingData, UserError
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.sections import DataConfig, MixtureConfig
from symtune_pipeline.sources.load import files_version, load_examples
from symtune_pipeline.sources.mirror import Mirror, fill_mirror
from symtune_pipeline.store.bucket import Bucket

RT, AGN, WIC = (find_dataset(key) for key in ("rt", "agn", "wic"))
FRAME = pl.DataFrame({"text": ["dull", "fun"], "label": [0, 1]})
EXPERIMENT = Experiment(
    name="test", models=("micro",), data=DataConfig(source="hub"), mixture=MixtureConfig(prompts=1)
)


@pytest.fixture(params=["folder", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty mirror of either kind."""
    if request.param == "folder":
        return str(tmp_path / "mirror")
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}/mirror"


def _hub(entry: Dataset) -> HubLocation:
    assert entry.hub is not None
    return entry.hub


def public(*sets: Dataset) -> dict[str, HubLocation]:
    return {entry.key: _hub(entry) for entry in sets}


def _everything(address: str) -> list[str]:
    """The names of all files of a mirror, below its root."""
    if address.startswith("s3://"):
        return Bucket(address).keys()
    found = (path for path in Path(address).rglob("*") if path.is_file())
    return sorted(path.relative_to(address).as_posix() for path in found)


def _damage(address: str, name: str) -> None:
    content = b"PAR1 and no more"
    if address.startswith("s3://"):
        Bucket(address).write(name, content)
    else:
        Path(address, name).write_bytes(content)


def test_a_set_is_written_and_read_in_the_hubs_layout(address: str) -> None:
    Mirror(address).write(_hub(RT), "train", FRAME)
    assert _everything(address) == [
        "cornell-movie-review-data/rotten_tomatoes/default/train.parquet"
    ]
    table = load_examples(RT, EXPERIMENT, Mirror(address))
    assert table.select("input", "label").rows() == [("dull", "negative"), ("fun", "positive")]


def test_what_a_mirror_lacks_is_missing_and_its_version_tells(address: str) -> None:
    mirror = Mirror(address)
    assert files_version(RT, mirror) == [None]
    mirror.write(_hub(RT), "train", FRAME)
    ((size, _),) = files_version(RT, mirror)  # type: ignore[misc]
    assert size > 0
    with pytest.raises(
        MissingData, match=r"lacks .*/mirror/fancyzhx/ag_news/default/train.parquet"
    ):
        load_examples(AGN, EXPERIMENT, mirror)
    mirror.write(_hub(RT), "train", pl.concat([FRAME, FRAME]))
    assert files_version(RT, mirror) != [None]
    assert files_version(RT, mirror)[0] != [size]


def test_damaged_data_names_the_file(address: str) -> None:
    Mirror(address).write(_hub(RT), "train", FRAME)
    _damage(address, _everything(address)[0])
    with pytest.raises(UserError, match=r"rotten_tomatoes.*no readable Parquet.*copy it again\.$"):
        load_examples(RT, EXPERIMENT, Mirror(address))


def test_a_mirror_is_filled_from_another_and_goes_on_where_it_was(
    address: str, tmp_path: Path
) -> None:
    source = Mirror(str(tmp_path / "source"))
    source.write(_hub(RT), "train", FRAME)
    said: list[str] = []
    with pytest.raises(MissingData) as error:
        fill_mirror(public(AGN, RT, WIC), source, Mirror(address), said.append)
    sentence = str(error.value)
    assert "Of 3 datasets 2 cannot be had: agn, wic (the first: The mirror lacks" in sentence
    assert sentence.endswith("run it again to try these again.")
    assert [line.rpartition(": ")[2] for line in said] == [
        "cannot be had",
        "2 rows",
        "cannot be had",
    ]

    source.write(_hub(AGN), "train", FRAME)
    source.write(_hub(WIC), "train", FRAME)
    before = files_version(RT, Mirror(address))
    said.clear()
    fill_mirror(public(AGN, RT, WIC), source, Mirror(address), said.append)
    assert [line.rpartition(": ")[2] for line in said] == ["2 rows", "there", "2 rows"]
    assert files_version(RT, Mirror(address)) == before
    assert len(_everything(address)) == 3


def test_an_interrupted_copy_leaves_no_half_file(tmp_path: Path) -> None:
    """A file in flight has another name, which nobody reads and the next copy replaces."""
    mirror = Mirror(str(tmp_path))
    mirror.write(_hub(RT), "train", FRAME)
    [name] = _everything(str(tmp_path))
    (tmp_path / name).rename(tmp_path / f"{name}.partial")
    with pytest.raises(MissingData):
        mirror.read(_hub(RT), "train")
    mirror.write(_hub(RT), "train", FRAME)
    assert _everything(str(tmp_path)) == [name]
    assert mirror.read(_hub(RT), "train").equals(FRAME)


def test_the_version_of_a_local_file_is_its_size_and_its_time(tmp_path: Path) -> None:
    mirror = Mirror(str(tmp_path))
    mirror.write(_hub(RT), "train", FRAME)
    file = tmp_path / _everything(str(tmp_path))[0]
    os.utime(file, ns=(5, 7))
    assert files_version(RT, mirror) == [[file.stat().st_size, 7]]


def test_credentials_in_a_name_are_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match=r"^Mirror s3://…@bucket/data cannot be used") as error:
        Mirror("s3://key:secret@bucket/data")  # pragma: allowlist secret
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "says"),
    [("s3://", "cannot be used"), ("ftp://somewhere/mirror", "cannot be used")],
)
def test_a_name_that_is_no_mirror_is_one_sentence(address: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        Mirror(address).read(_hub(RT), "train")
    assert f"Mirror {address} {says}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bucket_that_does_not_exist_is_no_missing_set(s3: str) -> None:
    with pytest.raises(UserError, match=r"s3://nowhere/data does not exist") as error:
        Mirror("s3://nowhere/data").read(_hub(RT), "train")
    assert not isinstance(error.value, MissingData)


def test_the_command_fills_a_mirror_with_what_the_experiment_has(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "models: [micro]\nmixture: {prompts: 1}\ndata: {source: hub, datasets: [cb, teab]}\n"
    )
    monkeypatch.setenv("SYMTUNE_MIRROR", str(shared_data / "hub_mirror"))
    monkeypatch.setenv("SYMTUNE_EXPERIMENT", str(path))
    ended = CliRunner().invoke(app, ["mirror", str(tmp_path / "copy")])
    assert ended.exit_code == 0, ended.output
    assert "cb/train.parquet: 250 rows" in ended.output
    tweets = "cardiffnlp/tweet_eval/stance_abortion"
    assert _everything(str(tmp_path / "copy")) == [
        "aps/super_glue/cb/train.parquet",
        f"{tweets}/train.parquet",
        f"{tweets}/validation.parquet",
    ]
    os.environ["SYMTUNE_EXPERIMENT"] = "smoke"  # the fixture puts it back
    ended = CliRunner().invoke(app, ["mirror", str(tmp_path / "copy")])
    assert isinstance(ended.exception, UserError)
    assert "no public datasets" in str(ended.exception)
