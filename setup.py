"""What pyproject.toml cannot say: the packages are found, and one of them lies elsewhere."""

from setuptools import find_namespace_packages, setup

SHIPPED = "symtune_pipeline.experiments"  # in a wheel; in a checkout they are at its top

setup(
    packages=[*find_namespace_packages(include=["symtune_pipeline*"]), SHIPPED],
    package_dir={SHIPPED: "experiments"},
)
