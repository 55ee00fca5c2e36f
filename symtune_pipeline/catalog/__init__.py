"""Facts about datasets, models, GPUs and prompt formats: YAML files, each with its typed loader.

A dataset or a model is data, never code. This room knows nothing about how either is used.
"""
