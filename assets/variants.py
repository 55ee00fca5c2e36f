"""The assets that each variant of an experiment has of its own: those that its settings change.

A variant called `seed1` has `symbol_tuned_model_seed1`, and before it `symbol_pool_seed1`,
`tuning_mixture_seed1` and `packed_mixture_seed1` where they would differ from the experiment's.
"""

from collections.abc import Sequence

import dagster as dg

from assets import tasksource
from assets.packed_mixture import packed_mixture
from assets.step import KeptAsset, Keys
from assets.symbol_pool import symbol_pool
from assets.symbol_tuned_model import symbol_tuned_model
from assets.tuning_log import LOG
from assets.tuning_mixture import tuning_mixture
from symtune_pipeline.experiment import Experiment


def chain(experiment: Experiment) -> Sequence[KeptAsset]:
    """The assets that lead to a tuned model, by where the prompts of its mixture come from."""
    if experiment.mixture.source == "tasksource":
        mixture = [tasksource.tuning_mixture, tasksource.packed_mixture]
    else:
        mixture = [tuning_mixture, packed_mixture]
    return [symbol_pool, *mixture, symbol_tuned_model]


def reads_tasksource(experiment: Experiment) -> bool:
    """Whether the experiment or a variant of it tunes on tasksource's prompts."""
    return any(each.mixture.source == "tasksource" for each in experiment.tuned().values())


def own_keys(experiment: Experiment, variant: str) -> Keys:
    """The assets that a variant has of its own, by those of the experiment for which they stand."""
    changed, own = experiment.variant(variant), dict[str, str]()
    for asset, shared in zip(chain(changed), chain(experiment), strict=True):
        deps = asset.inputs(changed)
        differs = (
            asset is not shared
            or asset.about.settings(changed) != asset.about.settings(experiment)
            or deps != asset.inputs(experiment)
        )
        if differs or any(dep in own for dep in deps):
            own[asset.about.name] = f"{asset.about.name}_{variant}"
    return own | {LOG: f"{LOG}_{variant}"}


def keys_of(experiment: Experiment, asset: str) -> dict[str, str]:
    """An asset of the experiment, as `tuned` has it, and those that stand for it, by variant."""
    own = {name: own_keys(experiment, name).get(asset, asset) for name in experiment.variants}
    return {"tuned": asset, **own}


def variant_assets(
    experiment: Experiment, models: dg.PartitionsDefinition
) -> list[dg.AssetsDefinition]:
    """The assets of all variants."""
    return [
        asset.define(experiment.variant(name), models, keys)
        for name in experiment.variants
        for keys in [own_keys(experiment, name)]
        for asset in chain(experiment.variant(name))
        if asset.about.name in keys
    ]
