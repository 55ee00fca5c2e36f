"""What all assets do alike, once: a function that fills a folder becomes an asset of the graph.

    @asset(group="mixture", kinds={"parquet"}, tables=[SYMBOL_POOL], settings=…)
    def symbol_pool(step: Step, folder: Path) -> Metadata:
        "What the asset is, for the person in the UI."

The function reads its inputs through the step and writes into the folder. Around it an asset is
recognised where nothing has changed, its table is held against the contract, its checks are run, and
a user error becomes one sentence.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import dagster as dg

from assets.versions import code_version
from resources.store import Metadata, StoreResource
from symtune_pipeline.catalog.models import Model, find_model
from symtune_pipeline.contract import Table
from symtune_pipeline.errors import JobLost, UserError
from symtune_pipeline.errors.disk import disk_sentence
from symtune_pipeline.errors.interrupts import interrupted
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.progress import Progress
from symtune_pipeline.store.folder import Store

# Runs that want a GPU wait for each other (.dagster/dagster.yaml), so that no two share one.
GPU = "gpu"
EXAMPLES = "int_evaluation_examples"  # the asset with the texts that the suites refer to by number
RETRY_SECONDS = 10  # before a lost job is started again

Build = Callable[["Step", Path], Metadata | None]
Keys = Mapping[str, str]  # the assets that a variant has of its own, by those for which they stand
SHARED: Keys = MappingProxyType({})


@contextmanager
def user_errors() -> Iterator[None]:
    """Fail the step with a user error's sentence and without a traceback of ours.

    A lost job is tried again, once: it goes on from its last checkpoint. Nothing else is. A retry
    policy of the asset would do so for an interrupt, too, and no run could be stopped.
    """
    try:
        yield
    except JobLost as error:
        again = dg.RetryRequested(max_retries=1, seconds_to_wait=RETRY_SECONDS)
        raise again from dg.Failure(str(error))
    except UserError as error:
        raise dg.Failure(str(error)) from None
    except Exception as error:
        sentence = disk_sentence(error)
        if sentence is None or interrupted():
            raise
        raise dg.Failure(sentence) from None


@dataclass(frozen=True)
class Step:
    """A run of an asset's function: the experiment, the inputs, and who is told about it."""

    context: dg.AssetExecutionContext
    resource: StoreResource
    experiment: Experiment
    keys: Keys = field(default_factory=dict)

    def key(self, asset: str) -> str:
        """The asset that stands for another one here: a variant has some of its own."""
        return self.keys.get(asset, asset)

    @property
    def artifacts(self) -> Store:
        """What the graph has made."""
        return self.resource.artifacts

    @property
    def partition(self) -> str:
        """The key of the model."""
        return str(self.context.partition_key)

    @property
    def model(self) -> Model:
        """The model, as the catalogue has it."""
        return find_model(self.partition)

    @property
    def own_partition(self) -> str | None:
        """The partition of what is made here: none where all models share it."""
        return self.partition if self.context.assets_def.partitions_def else None

    @property
    def code_version(self) -> str:
        """The version of the code and settings that the asset is made with."""
        return str(self.context.assets_def.code_versions_by_key[self.context.asset_key])

    @property
    def work_folder(self) -> Path:
        """What a job keeps until it is finished."""
        return self.resource.work_folder(self.context.asset_key.to_user_string(), self.partition)

    def inputs(self) -> dict[str, str]:
        """The versions of what the asset depends on, by asset and partition."""
        return self.resource.inputs(self.context, self.context.asset_key)

    def say(self, line: str) -> None:
        """Write a line to Dagster's log."""
        self.context.log.info(line)

    def warn(self, line: str) -> None:
        """Write a warning to Dagster's log."""
        self.context.log.warning(line)

    def progress(self, what: str, total: int, unit: str) -> Progress:
        """Progress of long work, as lines of the log."""
        return Progress(what, total, unit, self.say)


def clear_work(step: Step) -> None:
    """Only now: a run killed before finds the finished job's result and need not do it again."""
    step.resource.clear_work(step.context.asset_key.to_user_string(), step.partition)


@dataclass(frozen=True)
class Verdict:
    """What a check finds of an asset that has just been made or recognised."""

    passed: bool
    description: str
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """A check of an asset; with `warns` it fails as a warning, otherwise it blocks what follows."""

    name: str
    description: str
    verdict: Callable[[Step], Verdict]
    warns: bool = False

    def spec(self, asset: str, partitions: dg.PartitionsDefinition | None) -> dg.AssetCheckSpec:
        """As Dagster declares it, with the asset's own partitions: each model has its verdict."""
        return dg.AssetCheckSpec(
            self.name,
            asset=asset,
            description=self.description,
            blocking=not self.warns,
            partitions_def=partitions,
        )

    def result(self, step: Step, asset: str | None = None) -> dg.AssetCheckResult:
        """As Dagster stores it; `asset` is which one where a step makes several."""
        found = self.verdict(step)
        severity = dg.AssetCheckSeverity.WARN if self.warns else dg.AssetCheckSeverity.ERROR
        return dg.AssetCheckResult(
            asset_key=asset,
            check_name=self.name,
            passed=found.passed,
            severity=severity,
            description=found.description,
            metadata=found.metadata,
        )


def contract(table: Table, asset: str) -> Check:
    """The check that the table of an asset has the columns that the contract declares."""

    def verdict(step: Step) -> Verdict:
        key, partition = step.key(asset), step.own_partition
        folder = step.artifacts.location(key, partition, step.artifacts.manifest(key, partition))
        misfit = table.misfit(folder)
        return Verdict(misfit is None, misfit or f"The table matches the contract '{table.name}'.")

    return Check(
        f"schema_{table.file.removesuffix('.parquet')}" if "." in table.name else "schema",
        "The columns are those of symtune_pipeline/tables.py. The values were checked before they were"
        " written.",
        verdict,
    )


def as_metadata(numbers: Mapping[str, float]) -> Metadata:
    """Numbers as Dagster keeps them: it draws a history of each, and alerts can compare them."""
    return {name: dg.MetadataValue.float(round(number, 4)) for name, number in numbers.items()}


def _nothing(_: object) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class asset:  # in lower case, as a decorator is
    """Makes a function that fills a folder an asset; its docstring is the description.

    What its content depends on, beside its inputs: the modules `code` (by default the function's
    own) and all that they import, the values that `settings` takes from the experiment, and what
    `sources` says of the world outside and of the partition's model alone. The function also makes
    the artifacts `beside` it. `after` is called once the artifact is there, and gives more metadata.
    """

    group: str
    kinds: set[str]
    deps: Sequence[str] | Callable[[Experiment], Sequence[str | dg.AssetDep]] = ()
    code: Sequence[str] = ()
    settings: Callable[[Experiment], object] = _nothing
    sources: Callable[[Step], object] = _nothing
    tables: Sequence[Table] = ()
    beside: Sequence[str] = ()
    checks: Sequence[Check] = ()
    partitioned: bool = False  # by model
    pool: str | None = None
    resources: Sequence[str] = ()
    after: Callable[[Step], Metadata | None] = _nothing
    name: str = ""
    description: str = ""

    def __call__(self, build: Build) -> "KeptAsset":
        """The asset that `build` makes."""
        return KeptAsset(
            replace(
                self,
                name=self.name or build.__name__,
                description=self.description or inspect.getdoc(build) or "",
                code=self.code or [build.__module__],
                checks=[*(contract(table, self.name or build.__name__) for table in self.tables),
                        *self.checks],
            ),
            build,
        )  # fmt: skip


@dataclass(frozen=True)
class KeptAsset:
    """An asset whose artifact lies in the store; `define` makes it Dagster's for an experiment."""

    about: asset
    build: Build

    def inputs(self, experiment: Experiment, keys: Keys = SHARED) -> Sequence[str | dg.AssetDep]:
        """What the asset depends on."""
        deps = self.about.deps(experiment) if callable(self.about.deps) else self.about.deps
        return [keys.get(dep, dep) if isinstance(dep, str) else dep for dep in deps]

    def define(
        self, experiment: Experiment, models: dg.PartitionsDefinition, keys: Keys = SHARED
    ) -> dg.AssetsDefinition:
        """The asset of an experiment, or of a variant with `keys`; the models are the partitions."""
        about, partitions = self.about, models if self.about.partitioned else None
        name = keys.get(about.name, about.name)

        @dg.asset(
            name=name,
            description=about.description,
            deps=self.inputs(experiment, keys),
            partitions_def=partitions,
            group_name=about.group,
            kinds=about.kinds,
            code_version=code_version(about.code, about.settings(experiment)),
            check_specs=[check.spec(name, partitions) for check in about.checks],
            metadata={"dagster/code_references": function_reference(self.build)},
            pool=about.pool,
            required_resource_keys={"store", *about.resources},
        )
        def kept(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            return self.run(Step(context, context.resources.store, experiment, keys))

        return kept

    def run(self, step: Step) -> dg.MaterializeResult:
        """Make the artifact or recognise it, then check it."""
        words = {k: v for table in self.about.tables for k, v in table.descriptions.items()}
        with user_errors():
            sources = self.about.sources(step)
            made = step.resource.make(
                step.context,
                partial(self.build, step),
                columns=words,
                sources=sources,
                beside=[step.key(key) for key in self.about.beside],
            )
            checks = [check.result(step) for check in self.about.checks]
            more = self.about.after(step) or {}
        return made._replace(metadata={**(made.metadata or {}), **more}, check_results=checks)


def function_reference(function: Callable[..., object]) -> dg.CodeReferencesMetadataValue:
    """A link to where a function stands."""
    return code_reference(Path(inspect.getfile(function)), inspect.getsourcelines(function)[1])


def code_reference(
    path: Path, line: int, label: str | None = None
) -> dg.CodeReferencesMetadataValue:
    """A link to a line of a file."""
    reference = dg.LocalFileCodeReference(file_path=str(path), line_number=line, label=label)
    return dg.CodeReferencesMetadataValue(code_references=[reference])
