"""What every asset of the graph has: an owner, links to its code, and when it is made by itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import AutomationCondition

OWNER = "team:symbol-tuning"
ROOT = Path(__file__).resolve().parent.parent
TREE = "/tree/"  # stands between a repository and its branch, in the address of a branch


def with_attributes(
    assets: Iterable[dg.AssetsDefinition], experiment: str, git_tree: str | None
) -> list[dg.AssetsDefinition]:
    """The assets with the experiment's name, an owner, an automation condition and references to their code.

    The references are paths on this machine, or links where `git_tree` is the address of a branch,
    such as https://github.com/<owner>/<repository>/tree/main.
    """
    assets = list(assets)
    partitioned = {spec.key for asset in assets for spec in asset.specs if spec.partitions_def}

    def complete(spec: dg.AssetSpec) -> dg.AssetSpec:
        sums_up = not spec.partitions_def and any(dep.asset_key in partitioned for dep in spec.deps)
        return spec.merge_attributes(metadata={"experiment": experiment}).replace_attributes(
            owners=[OWNER], automation_condition=when_inputs_change(sums_up)
        )

    described = _linked(dg.map_asset_specs(complete, assets), git_tree)
    return [asset for asset in described if isinstance(asset, dg.AssetsDefinition)]


def _linked(assets: Sequence[Any], git_tree: str | None) -> Sequence[Any]:
    """The assets with their code references as links into a branch, where there is one."""
    if not git_tree:
        return assets
    repository, _, branch = git_tree.partition(TREE)
    return dg.link_code_references_to_git(
        assets,
        git_url=repository.removesuffix("/-"),  # as GitLab writes it
        git_branch=branch or "main",
        file_path_mapping=dg.AnchorBasedFilePathMapping(ROOT / "definitions.py", "definitions.py"),
    )


def when_inputs_change(sums_up: bool) -> AutomationCondition:
    """Wanted when an input's content or the asset's own settings change, or when it is gone.

    An input that was made again with the same content changes nothing. An asset that `sums_up` the
    partitions of its inputs takes those that there are, unless a blocking check of one has failed;
    any other waits for all its inputs and their blocking checks.
    """
    wanted = (
        AutomationCondition.newly_missing()
        | AutomationCondition.code_version_changed()
        | _changed()
    ).since_last_handled()  # type: ignore[misc]  # is declared for what suits checks too
    idle = ~AutomationCondition.any_deps_in_progress() & ~AutomationCondition.in_progress()
    return wanted & idle & (_none_failed() if sums_up else _all_there())


def _changed() -> AutomationCondition:
    return AutomationCondition.any_deps_match(
        (
            AutomationCondition.data_version_changed()
            & ~AutomationCondition.executed_with_root_target()
        )
        | AutomationCondition.will_be_requested()
    ).with_label("an input has changed")


def _none_failed() -> AutomationCondition:
    failed = AutomationCondition.any_checks_match(
        AutomationCondition.check_failed(), blocking_only=True
    )
    return ~AutomationCondition.any_deps_match(failed).with_label("a blocking check has failed")


def _all_there() -> AutomationCondition:
    passed = AutomationCondition.all_deps_blocking_checks_passed()
    return passed & ~AutomationCondition.any_deps_missing()
