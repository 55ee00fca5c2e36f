"""Simple Turing Concepts of BIG-bench: the language P3, fresh programs, and the published prompts.

A program of seven instructions reads a binary string from a tape and prints another.

The machine: a cell holds '.' (blank), '0' or '1'. The tape has one blank left of the input and is
blank without end on its right; the head starts on the input's first cell.

    +  step the cell on,  '.' -> '0' -> '1' -> '.'      <  move left      [  skip to ] on a blank
    -  step the cell back, '.' -> '1' -> '0' -> '.'     >  move right     ]  back to [ unless blank
    o  print the cell; on a blank the run ends

Source: Telle, Hernandez-Orallo and Ferri, "The teaching size" (2019), by way of the BIG-bench
task; the rules above and below are those that reproduce its published pairs. What a move beyond
the left end does differs inside the published prompts: the targets (all 2,130
pairs) follow ``edge="end"``, the examples shown before them (all 1,748 pairs, 55 of which tell the
two apart) follow ``edge="leave"``. No single rule fits both, since the same program appears under
each; two different interpreters would explain it, but that is a guess.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, combinations, product
from typing import Literal

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.concepts import Concept, Published, PublishedFormat, solved
from symtune_pipeline.sections import EvaluationConfig

Edge = Literal["end", "leave"]

MAX_STEPS = 1000
"""Instructions after which a run is cut off; the longest published run takes 46."""

INPUT_LENGTH_WEIGHTS = {1: 4, 2: 13, 3: 23, 4: 20, 5: 40}
"""How often, in percent, a published query is so many digits long."""

PROGRAM_LENGTH_WEIGHTS = {3: 3, 4: 7, 5: 17, 6: 21, 7: 28, 8: 18, 9: 6}
"""How often, in percent, a published program is so many instructions long."""

CATEGORY = "P3 program"  # of every program

SHORT_PROGRAMS = {1: 0.2, 2: 1}
"""The same of those that are drawn where instructions are limited: there are few others."""

TRIES = 1_000
"""Draws in a row without a new program after which there are taken to be no more."""

_CYCLE = ".01"
_LOOP_SHARE = 0.6
_MOST_ALIKE = 0.75
_PROBES = ["".join(digits) for length in range(6) for digits in product("01", repeat=length)]


def fresh(config: EvaluationConfig, rng: random.Random, published: Published) -> Iterator[Concept]:
    """Programs that differ from each other and from the published ones, on inputs of their own.

    Where there are fewer than asked for, those that there are: 17 of at most three instructions.
    """
    known = published.concepts("turing_concepts")
    for _ in range(config.turing_programs):
        drawn = (random_program(rng, config.turing_instructions) for _ in range(TRIES))
        program = next((program for program in drawn if program not in known), None)
        if program is None:
            return
        known.add(program)

        def solve(tape: str, program: str = program) -> str:
            return run(program, tape)

        pairs = solved(program, lambda: random_input(rng), solve, config, published)
        yield Concept(program, CATEGORY, pairs)


def run(program: str, text: str, edge: Edge = "end") -> str:
    """What `program` prints for the binary string `text`, at most `MAX_STEPS` instructions long.

    `edge` says what a move beyond the tape's left end does: "end" ends the run; "leave" stays on
    the cell and goes on behind the innermost loop around the move, or, outside loops, behind the
    move. A run that is cut off returns what it has printed by then. Raises `UserError` on another
    character or an unbalanced bracket.
    """
    return _execute(program, text, edge)[0]


def random_program(rng: random.Random, most: int | None = None) -> str:
    """A P3 program of 3 to 9 instructions, or of 1 to `most`, that makes a usable concept.

    On every binary string of up to five digits it ends by itself; its output depends on the
    input (no output covers more than three quarters of them) and is not merely the input; and
    no part of it can be left out unnoticed. Lengths are distributed as in the published ones.
    """
    lengths: Mapping[int, float] = PROGRAM_LENGTH_WEIGHTS
    if most is not None:
        lengths = {n: share for n, share in {**SHORT_PROGRAMS, **lengths}.items() if n <= most}
    (length,) = rng.choices(*_weighted(lengths))
    loops = length >= 5 and rng.random() < _LOOP_SHARE
    while not _is_concept(program := _draw_program(rng, length, loops)):
        pass
    return program


def random_input(rng: random.Random) -> str:
    """A binary string of 1 to 5 digits, its length distributed as in the published queries."""
    (length,) = rng.choices(*_weighted(INPUT_LENGTH_WEIGHTS))
    return "".join(rng.choices("01", k=length))


def _weighted(weights: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(weights), list(weights.values())


def _execute(program: str, text: str, edge: Edge) -> tuple[str, bool]:
    """The output, and whether the run ended by itself."""
    if not set(text) <= {"0", "1"}:
        raise UserError(f"The P3 input {text!r} must hold nothing but the digits 0 and 1.")
    partner, exits = _parse(program)
    tape = [".", *text]
    head, position, output = 1, 0, ""
    for _ in range(MAX_STEPS):
        if position >= len(program):
            return output, True
        if head == len(tape):
            tape.append(".")
        match program[position]:
            case "+":
                tape[head] = _CYCLE[(_CYCLE.index(tape[head]) + 1) % 3]
            case "-":
                tape[head] = _CYCLE[_CYCLE.index(tape[head]) - 1]
            case "o":
                if tape[head] == ".":
                    return output, True
                output += tape[head]
            case ">":
                head += 1
            case "<" if head > 0:
                head -= 1
            case "<":
                if edge == "end":
                    return output, True
                position = exits[position]
            case "[":
                if tape[head] == ".":
                    position = partner[position]
            case "]":
                if tape[head] != ".":
                    position = partner[position]
        position += 1
    return output, position >= len(program)


@lru_cache(maxsize=256)
def _parse(program: str) -> tuple[dict[int, int], dict[int, int]]:
    """Each bracket's partner; each position's innermost closing bracket (itself outside loops)."""
    if stray := set(program) - set("+-<>[]o"):
        raise UserError(
            f"The P3 program {program!r} holds {min(stray)!r}; its instructions are + - < > [ ] o."
        )
    partner: dict[int, int] = {}
    exits = {position: position for position in range(len(program))}
    open_brackets: list[int] = []
    for position, instruction in enumerate(program):
        if instruction == "[":
            open_brackets.append(position)
        elif instruction == "]" and open_brackets:
            start = open_brackets.pop()
            partner[start], partner[position] = position, start
            for inside in range(start + 1, position):
                # An inner loop closes first, so what it has claimed stays its own.
                if exits[inside] == inside:
                    exits[inside] = position
        elif instruction == "]":
            open_brackets.append(position)
            break
    if open_brackets:
        raise UserError(
            f"The P3 program {program!r} has an unmatched {program[open_brackets[-1]]!r} at "
            f"position {open_brackets[-1] + 1}; give every [ its ]."
        )
    return partner, exits


def _draw_program(rng: random.Random, length: int, loops: bool) -> str:
    instructions = rng.choices("+-<>o", k=length - 2 * loops)
    if loops:
        start = rng.randrange(len(instructions))
        instructions.insert(rng.randint(start + 1, len(instructions)), "]")
        instructions.insert(start, "[")
    return "".join(instructions)


def _is_concept(program: str) -> bool:
    outputs = []
    for text in _PROBES:
        output, ended = _execute(program, text, "end")
        if not ended:
            return False
        outputs.append(output)
    ((_, most),) = Counter(outputs).most_common(1)
    if most > _MOST_ALIKE * len(_PROBES) or outputs == _PROBES:
        return False
    printed = list(zip(_PROBES, outputs, strict=True))
    return not any(
        all(_execute(shorter, text, "end") == (output, True) for text, output in printed)
        for shorter in _shortened(program)
    )


def _shortened(program: str) -> Iterator[str]:
    """The program without any one stretch of it whose brackets are balanced."""
    for start, end in combinations(range(len(program) + 1), 2):
        if _is_balanced(program[start:end]):
            yield program[:start] + program[end:]


def _is_balanced(stretch: str) -> bool:
    depths = list(accumulate((char == "[") - (char == "]") for char in stretch))
    return min(depths) >= 0 and depths[-1] == 0


def _select(
    config: EvaluationConfig, programs: Sequence[str], rng: random.Random
) -> Collection[str]:
    """A sample of as many published programs as are asked for, of as many instructions at most."""
    most = config.turing_instructions
    short = [program for program in programs if len(program) <= (most or len(program))]
    return rng.sample(short, min(config.turing_programs, len(short)))


PUBLISHED = PublishedFormat(
    files="simple_turing_concept_*.jsonl",
    pair=re.compile(r"Input: (.*)\nOutput: ?(.*)"),
    concept=re.compile(r"^\['([^']+)'"),
    category=lambda program: CATEGORY,
    select=_select,
)
