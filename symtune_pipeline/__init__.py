"""Symbol tuning (Wei et al. 2023): the method as a library. It imports no Dagster."""
