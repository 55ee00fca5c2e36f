"""Dagster's default would pickle an asset's return value; here assets keep their own files."""

import dagster as dg


class NoPickle(dg.ConfigurableIOManager):
    """Refuses to store or load a Python object."""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Reached only by an asset that returns something else than a MaterializeResult."""
        raise dg.DagsterInvariantViolationError(
            f"Asset {context.asset_key.to_user_string()} returned a value; keep it in the store."
        )

    def load_input(self, context: dg.InputContext) -> object:
        """Reached only by an asset that takes another as an argument."""
        raise dg.DagsterInvariantViolationError(
            f"Asset {context.asset_key.to_user_string()} is no argument to load; read it in the store."
        )
