"""The code location that Dagster loads: the graph of the experiment that SYMTUNE_EXPERIMENT names."""

import sys
from pathlib import Path

# The repository's folders are importable from wherever this file is loaded.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from assets.location import code_location
from resources.console import end_in_one_sentence
from symtune_pipeline.environment import experiment_name
from symtune_pipeline.experiment import load_experiment

end_in_one_sentence()
defs = code_location(load_experiment(experiment_name()))
