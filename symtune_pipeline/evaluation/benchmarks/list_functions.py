"""The list functions of BIG-bench: fresh inputs, and the published prompts.

The functions themselves are in `functions_of_lists`.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Collection, Iterator, Sequence

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.benchmarks.functions_of_lists import (
    FUNCTIONS,
    ListFunction,
    Values,
)
from symtune_pipeline.evaluation.concepts import Concept, Published, PublishedFormat, solved
from symtune_pipeline.sections import EvaluationConfig

_REPETITIVE = 0.28
_LONGEST_OUTPUT = 15
_UNDEFINED = (IndexError, ValueError, ZeroDivisionError)


def fresh(config: EvaluationConfig, rng: random.Random, published: Published) -> Iterator[Concept]:
    """The first functions, on inputs that were not published."""
    for name in _names(config):

        def draw(name: str = name) -> str:
            return text(random_input(name, rng))

        def solve(values: str, name: str = name) -> str:
            return text(apply(name, json.loads(values)))

        pairs = solved(name, draw, solve, config, published)
        yield Concept(name, FUNCTIONS[name].category, pairs)


def apply(name: str, values: Values) -> Values:
    """The output of function `name` ("c001" to "c250") for `values`, which stays as it is.

    Raises `UserError` for an unknown name, or for a list too short for the function to mean
    anything, such as "N = element 1" of the empty list.
    """
    function = _find(name)
    try:
        return function.function(list(values))
    except _UNDEFINED as error:
        raise UserError(
            f"The list function {name} ({function.description}) is not defined for "
            f"{text(values)}; give it {function.shortest} or more elements."
        ) from error


def text(values: Values) -> str:
    """The list as the published prompts write it: "[3, 4, 1]"."""
    return f"[{', '.join(map(str, values))}]"


def random_input(name: str, rng: random.Random) -> Values:
    """A fresh input for function `name` in the style of the published ones.

    Up to 10 elements, 0 to 9 for c001 to c080 and 0 to 99 after, about a quarter of the lists
    with repetitions. The output is defined, at most 15 numbers of the same range. Where the
    function has two ways to go, they come equally often; the others do something at least nine
    times in ten (the output is neither the input nor empty nor [0]). Raises `UserError` for an
    unknown name.
    """
    function = _find(name)
    highest = 9 if name <= "c080" else 99
    first_way, any_effect = rng.random() < 0.5, rng.random() < 0.1
    while True:
        values = _draw(rng, function.shortest, highest)
        output = _typical_output(function, values, highest)
        if output is None:
            continue
        if function.branch is not None:
            if function.branch(values) == first_way:
                return values
        elif any_effect or function.category == "constant" or output not in ([], [0], values):
            return values


def _find(name: str) -> ListFunction:
    if name not in FUNCTIONS:
        raise UserError(f"There is no list function {name!r}; the names are c001 to c250.")
    return FUNCTIONS[name]


def _draw(rng: random.Random, shortest: int, highest: int) -> Values:
    length = rng.randint(shortest, 10)
    # Published lists mix one-digit and two-digit numbers; a share per list also yields lists small
    # enough for sums and products to stay in range.
    small = 1.0 if highest == 9 else rng.random()
    distinct: dict[int, None] = {}
    while len(distinct) < length:
        distinct[rng.randint(0, 9) if rng.random() < small else rng.randint(10, 99)] = None
    values = list(distinct)
    if values and rng.random() < _REPETITIVE:
        values = rng.choices(values[: rng.randint(1, length)], k=length)
    return values


def _typical_output(function: ListFunction, values: Values, highest: int) -> Values | None:
    """The output, or None if the input or the output is unlike the published ones."""
    try:
        output = function.function(values) if function.fits(values) else None
    except _UNDEFINED:
        return None
    if output is None or len(output) > _LONGEST_OUTPUT:
        return None
    return output if all(0 <= v <= highest for v in output) else None


def _names(config: EvaluationConfig) -> list[str]:
    return list(FUNCTIONS)[: config.list_functions]


def _category(name: str) -> str | None:
    return FUNCTIONS[name].category if name in FUNCTIONS else None


def _select(config: EvaluationConfig, _: Sequence[str], __: random.Random) -> Collection[str]:
    """The same functions as on fresh inputs."""
    return _names(config)


PUBLISHED = PublishedFormat(
    files="list_functions_*_shot.jsonl",
    pair=re.compile(r"Q: (.*)\nA: ?(.*)"),
    concept=re.compile(r"\b(c\d{3})\b"),
    category=_category,
    select=_select,
    before_target="\nA:",
    pair_files="list_functions_*_concepts.jsonl",
)
