"""Where a model's weights came from, in words: what its provenance.json says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def in_words(provenance: Mapping[str, Any]) -> str:
    """The end of a sentence that begins with the weights, such as 'those of … on the hub'."""
    if provenance["source"] == "package":
        return (
            f"quantised ones from the Python package {provenance['package']} ({provenance['file']}),"
            " because no hub answered"
        )
    if provenance["source"] == "hub":
        return f"those of {provenance['repository']} at {provenance['revision']} on the hub"
    return str(provenance["source"])
