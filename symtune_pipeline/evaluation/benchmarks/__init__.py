"""The algorithmic benchmarks: a module by the key of each in `tables.BENCHMARKS`."""
