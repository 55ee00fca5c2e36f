"""Which asset has the model that tuning starts from.

It is apart from the asset itself: what imports this does not change with how a model is prepared.
"""

from symtune_pipeline.experiment import Experiment


def tuned_from(experiment: Experiment) -> str:
    """The asset whose weights and tokenizer are tuned."""
    return "pretrained_model" if experiment.tuning.model == "pretrained" else "base_model"


def needs_parent(experiment: Experiment) -> bool:
    """Whether the pretrained parent is asked, or a variant is tuned from it."""
    variants = map(experiment.variant, experiment.variants)
    return experiment.evaluation.pretrained or "pretrained_model" in map(tuned_from, variants)
