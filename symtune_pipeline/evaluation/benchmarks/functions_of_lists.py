"""The 250 list functions of BIG-bench, c001 to c250, as code.

A function takes a list of non-negative integers to a list of integers.

Source: Rule, "The child as hacker" (2020), by way of the BIG-bench task List Functions. Its
descriptions, here in our own words, are followed where no published pair contradicts them. Some do:
c023 and c024 insert 8 for *less than* 5, else 5; c113 keeps ones digits *less* than element 1; c211
always inserts before the last three; c224 is the mirror image of c179's layout. Conventions:

- Elements and indices count from 1. Numbers have two digits: the tens digit of 7 is 0.
- An element beyond the end is no element: taking it gives nothing, removing or replacing it
  changes nothing, inserting there appends. (c053 makes a second element where there is none.)
- The sum of nothing is 0, its product 1, its largest element none.
- "Each value once" keeps the first occurrence; sorting is stable; division rounds down.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from math import prod
from typing import Literal

Category = Literal[
    "access",
    "slice",
    "filter",
    "edit",
    "join",
    "order",
    "arithmetic",
    "summary",
    "series",
    "constant",
]

CATEGORIES: dict[Category, str] = {
    "access": "one element, by its position",
    "slice": "some elements kept or dropped, by their position",
    "filter": "some elements kept or dropped, by their value",
    "edit": "elements inserted, replaced or swapped at certain positions; the rest stays",
    "join": "the input with something before, after or between, or repeated",
    "order": "the same elements in another order",
    "arithmetic": "numbers computed from each element or from neighbours",
    "summary": "one or a few numbers about the whole list: length, largest, sum, counts",
    "series": "consecutive numbers or repetitions, as many as the input says",
    "constant": "always the same output, or the input itself",
}

Values = list[int]
Predicate = Callable[[Values], bool]


@dataclass(frozen=True)
class ListFunction:
    """One function, and what makes an input for it typical.

    A fresh input has at least `shortest` elements and `fits`. Where the function has two ways to
    go, half of the fresh inputs meet `branch`.
    """

    name: str
    category: Category
    description: str
    function: Callable[[Values], Values]
    shortest: int = 0
    fits: Predicate = lambda values: True
    branch: Predicate | None = None


def _nth(x: Values, n: int) -> Values:
    return x[n - 1 : n]


def _between(x: Values, first: int, last: int) -> Values:
    return x[first - 1 : last]


def _without(x: Values, *indices: int) -> Values:
    return [v for i, v in enumerate(x, 1) if i not in indices]


def _replace(x: Values, n: int, value: int) -> Values:
    return [value if i == n else v for i, v in enumerate(x, 1)]


def _insert(x: Values, n: int, *values: int) -> Values:
    n = max(n, 1)
    return [*x[: n - 1], *values, *x[n - 1 :]]


def _swap(x: Values, i: int, j: int) -> Values:
    if i == j:
        return x
    return x[: i - 1] + _nth(x, j) + x[i : j - 1] + _nth(x, i) + x[j:]


def _rotate(x: Values, n: int) -> Values:
    return x[n % len(x) :] + x[: n % len(x)] if x else []


def _count(first: int, last: int, step: int = 1) -> Values:
    return list(range(first, last + 1, step))


def _flat(lists: Iterable[Iterable[int]]) -> Values:
    return list(chain.from_iterable(lists))


def _weave(x: Values, y: Iterable[int]) -> Values:
    return _flat(zip(x, y, strict=True))


def _unique(x: Values) -> Values:
    return list(dict.fromkeys(x))


def _has_repeats(x: Values) -> bool:
    return len(set(x)) < len(x)


def _tens(v: int) -> int:
    return v // 10 % 10


def _ones(v: int) -> int:
    return v % 10


def _digits(v: int) -> Values:
    return [_tens(v), _ones(v)]


def _fan(x: Values) -> Values:
    """Laid out from the middle, in turn before and behind, so that the last one lies behind."""
    return x[-2::-2] + x[::-2][::-1]


def _walk(a: int, b: int) -> Values:
    """The steps from a (left out) up or down to b."""
    return list(range(a + 1, b + 1)) if a < b else list(range(a - 1, b - 1, -1))


def _sublists(x: Values) -> list[Values]:
    """The stretches between 0s that are not empty."""
    stretches: list[Values] = [[]]
    for v in x:
        if v == 0:
            stretches.append([])
        else:
            stretches[-1].append(v)
    return [stretch for stretch in stretches if stretch]


_F = ListFunction

# One function a line is the whole point of the table, so the formatter is kept out of it.
# fmt: off
_ALL = [
    _F("c001", "access", "element 3", lambda x: _nth(x, 3), 3),
    _F("c002", "access", "element 3, if there is one",
       lambda x: _nth(x, 3), 2, branch=lambda x: len(x) > 2),
    _F("c003", "access", "element 7", lambda x: _nth(x, 7), 7),
    _F("c004", "access", "element 7, if there is one",
       lambda x: _nth(x, 7), 2, branch=lambda x: len(x) > 6),
    _F("c005", "access", "element N + 1, N = element 1",
       lambda x: _nth(x, x[0] + 1), 2, fits=lambda x: x[0] < len(x)),
    _F("c006", "slice", "the first 2 elements", lambda x: x[:2], 3),
    _F("c007", "slice", "the first 2 elements, or all", lambda x: x[:2]),
    _F("c008", "slice", "the first 6 elements", lambda x: x[:6], 7),
    _F("c009", "slice", "the first 6 elements, or all",
       lambda x: x[:6], branch=lambda x: len(x) > 6),
    _F("c010", "slice", "elements 2 to N + 1, N = element 1",
       lambda x: _between(x, 2, x[0] + 1), 2, fits=lambda x: x[0] < len(x)),
    _F("c011", "slice", "elements 2 to 4", lambda x: _between(x, 2, 4)),
    _F("c012", "slice", "elements 2 to 4", lambda x: _between(x, 2, 4), 1),
    _F("c013", "slice", "elements 3 to 7", lambda x: _between(x, 3, 7), 1),
    _F("c014", "slice", "elements 3 to 7", lambda x: _between(x, 3, 7), 1),
    _F("c015", "slice", "elements M + 2 to N + 2, M = element 1, N = element 2",
       lambda x: _between(x, x[0] + 2, x[1] + 2), 4, fits=lambda x: x[0] <= x[1] <= len(x) - 2),
    _F("c016", "edit", "8 in place of element 2", lambda x: _replace(x, 2, 8), 2),
    _F("c017", "edit", "8 in place of element 2, if there is one",
       lambda x: _replace(x, 2, 8) if len(x) > 1 else x),
    _F("c018", "edit", "3 in place of element 6", lambda x: _replace(x, 6, 3), 6),
    _F("c019", "edit", "3 in place of element 6, if there is one",
       lambda x: _replace(x, 6, 3) if len(x) > 5 else x, branch=lambda x: len(x) > 5),
    _F("c020", "edit", "the last element in place of the first",
       lambda x: _replace(x, 1, x[-1]), 2),
    _F("c021", "edit", "8 inserted as element 2", lambda x: _insert(x, 2, 8), 2),
    _F("c022", "edit", "5 inserted as element 2", lambda x: _insert(x, 2, 5), 2),
    _F("c023", "edit", "inserted as element 2: 8 if there are less than 5 elements, else 5",
       lambda x: _insert(x, 2, 8 if len(x) < 5 else 5), 2, branch=lambda x: len(x) < 5),
    _F("c024", "edit", "inserted as element 2: 8 if element 1 is less than 5, else 5",
       lambda x: _insert(x, 2, 8 if x[0] < 5 else 5), 2, branch=lambda x: x[0] < 5),
    _F("c025", "slice", "all but element 2", lambda x: _without(x, 2), 2),
    _F("c026", "slice", "all but element 3", lambda x: _without(x, 3), 3),
    _F("c027", "slice", "all but element 2 if it equals element 1, else all but element 3",
       lambda x: _without(x, 2 if x[0] == x[1] else 3), 3, branch=lambda x: x[0] == x[1]),
    _F("c028", "slice", "all but element 2 if it is less than element 1, else all but element 3",
       lambda x: _without(x, 2 if x[0] > x[1] else 3), 3, branch=lambda x: x[0] > x[1]),
    _F("c029", "slice", "all but the first two elements", lambda x: x[2:], 2),
    _F("c030", "slice", "all but the last two elements", lambda x: x[:-2], 3),
    _F("c031", "slice", "without the first two elements if these are equal, else the last two",
       lambda x: x[2:] if x[0] == x[1] else x[:-2] if x[-2] == x[-1] else x,
       3, fits=lambda x: (x[0] == x[1]) != (x[-2] == x[-1]), branch=lambda x: x[0] == x[1]),
    _F("c032", "slice", "without the first two elements if element 1 > last, else the last two",
       lambda x: x[2:] if x[0] > x[-1] else x[:-2], 5, branch=lambda x: x[0] > x[-1]),
    _F("c033", "edit", "elements 1 and 4 swapped", lambda x: _swap(x, 1, 4), 4),
    _F("c034", "edit", "elements 2 and 3 swapped", lambda x: _swap(x, 2, 3), 3),
    _F("c035", "edit", "elements 1 and 4 swapped if elements 2 and 3 are equal, else 2 and 3",
       lambda x: _swap(x, 1, 4) if x[1] == x[2] else _swap(x, 2, 3),
       4, branch=lambda x: x[1] == x[2]),
    _F("c036", "edit", "elements 2 and 3 swapped if 2 is more than 3, else 1 and 4",
       lambda x: _swap(x, 2, 3) if x[1] > x[2] else _swap(x, 1, 4),
       4, branch=lambda x: x[1] > x[2]),
    _F("c037", "join", "3 appended", lambda x: [*x, 3]),
    _F("c038", "join", "9 appended", lambda x: [*x, 9]),
    _F("c039", "join", "3 appended to three elements, 9 to nine",
       lambda x: [*x, len(x)] if len(x) in (3, 9) else x, branch=lambda x: len(x) in (3, 9)),
    _F("c040", "join", "3 appended if there is a 3, else 9 if there is a 9",
       lambda x: [*x, 3] if 3 in x else [*x, 9] if 9 in x else x, 2, branch=lambda x: 3 in x),
    _F("c041", "constant", "[9]", lambda x: [9]),
    _F("c042", "constant", "[5, 2]", lambda x: [5, 2]),
    _F("c043", "constant", "[8, 2, 7, 0, 3]", lambda x: [8, 2, 7, 0, 3]),
    _F("c044", "constant", "[1, 9, 4, 3, 2, 5, 8, 0, 4, 9]",
       lambda x: [1, 9, 4, 3, 2, 5, 8, 0, 4, 9]),
    _F("c045", "constant", "the input", lambda x: x),
    _F("c046", "join", "7 prepended", lambda x: [7, *x]),
    _F("c047", "join", "[9, 6, 3, 8, 5], then the input", lambda x: [9, 6, 3, 8, 5, *x]),
    _F("c048", "access", "element 1", lambda x: x[:1], 2),
    _F("c049", "slice", "all but element 1", lambda x: x[1:], 1),
    _F("c050", "join", "element 1 prepended", lambda x: x[:1] + x, 1),
    _F("c051", "join", "element 1 prepended five times", lambda x: x[:1] * 5 + x, 1),
    _F("c052", "series", "element 1 ten times", lambda x: x[:1] * 10, 1),
    _F("c053", "edit", "element 1 in place of element 2", lambda x: x[:1] * 2 + x[2:], 1),
    _F("c054", "edit", "element 3 in place of elements 1 and 2",
       lambda x: _nth(x, 3) * 2 + x[2:], 4),
    _F("c055", "edit", "elements 1 and 3, and 2 and 4, swapped", lambda x: x[2:4] + x[:2] + x[4:]),
    _F("c056", "slice", "all but element 5", lambda x: _without(x, 5), 6),
    _F("c057", "edit", "4 inserted as element 7", lambda x: _insert(x, 7, 4)),
    _F("c058", "slice", "all but the first 7 elements", lambda x: x[7:], 7),
    _F("c059", "edit", "elements 4 and 8 swapped", lambda x: _swap(x, 4, 8), 8),
    _F("c060", "edit", "elements 3, 2 and 1, then 4, then elements 5 and 7",
       lambda x: [*x[2::-1], 4, *_nth(x, 5), *_nth(x, 7)], 9),
    _F("c061", "access", "the last element", lambda x: x[-1:], 2),
    _F("c062", "slice", "all but the last element", lambda x: x[:-1], 1),
    _F("c063", "slice", "all but the first N + 1 elements, N = element 1",
       lambda x: x[x[0] + 1 :], 1, fits=lambda x: x[0] < len(x)),
    _F("c064", "slice", "all but the first and the last element", lambda x: x[1:-1], 3),
    _F("c065", "join", "9 prepended and 7 appended", lambda x: [9, *x, 7]),
    _F("c066", "order", "rotated left by 1", lambda x: _rotate(x, 1), 2),
    _F("c067", "edit", "the first and the last element swapped", lambda x: _swap(x, 1, len(x)), 2),
    _F("c068", "join", "the input, then [7, 3, 8, 4, 3]", lambda x: [*x, 7, 3, 8, 4, 3]),
    _F("c069", "join", "[9, 3, 4, 0], the input, [7, 2, 9, 1]",
       lambda x: [9, 3, 4, 0, *x, 7, 2, 9, 1]),
    _F("c070", "join", "the input twice", lambda x: x + x, 1),
    _F("c071", "arithmetic", "2 added to each element", lambda x: [v + 2 for v in x]),
    _F("c072", "join", "each element twice", lambda x: _weave(x, x), 1),
    _F("c073", "arithmetic", "its index added to each element",
       lambda x: [v + i for i, v in enumerate(x, 1)]),
    _F("c074", "filter", "the elements of at least 8", lambda x: [v for v in x if v >= 8], 1),
    _F("c075", "slice", "the elements with odd indices", lambda x: x[::2]),
    _F("c076", "summary", "maximum, last element, length, first element, minimum",
       lambda x: [max(x), x[-1], len(x), x[0], min(x)], 1),
    _F("c077", "summary", "the length", lambda x: [len(x)]),
    _F("c078", "summary", "the largest element", lambda x: sorted(x)[-1:], 2),
    _F("c079", "summary", "the sum", lambda x: [sum(x)]),
    _F("c080", "order", "reversed", lambda x: x[::-1], 2),
    _F("c081", "access", "element 3", lambda x: _nth(x, 3), 3),
    _F("c082", "access", "element 3, if there is one",
       lambda x: _nth(x, 3), 1, branch=lambda x: len(x) > 2),
    _F("c083", "access", "element 7", lambda x: _nth(x, 7), 7),
    _F("c084", "access", "element 7, if there is one",
       lambda x: _nth(x, 7), 2, branch=lambda x: len(x) > 6),
    _F("c085", "access", "element N + 1, N = element 1",
       lambda x: _nth(x, x[0] + 1), 2, fits=lambda x: x[0] < len(x)),
    _F("c086", "edit", "elements 1 and 4 swapped", lambda x: _swap(x, 1, 4), 4),
    _F("c087", "edit", "elements 2 and 3 swapped", lambda x: _swap(x, 2, 3), 3),
    _F("c088", "edit", "elements 1 and 4 swapped if elements 2 and 3 are equal, else 2 and 3",
       lambda x: _swap(x, 1, 4) if x[1] == x[2] else _swap(x, 2, 3),
       4, branch=lambda x: x[1] == x[2]),
    _F("c089", "edit", "elements 2 and 3 swapped if 2 is more than 3, else 1 and 4",
       lambda x: _swap(x, 2, 3) if x[1] > x[2] else _swap(x, 1, 4),
       4, branch=lambda x: x[1] > x[2]),
    _F("c090", "constant", "[18, 42, 77, 20, 36]", lambda x: [18, 42, 77, 20, 36]),
    _F("c091", "constant", "[81, 99, 41, 23, 22, 75, 68, 30, 24, 69]",
       lambda x: [81, 99, 41, 23, 22, 75, 68, 30, 24, 69]),
    _F("c092", "join", "[92, 63, 34, 18, 55], then the input", lambda x: [92, 63, 34, 18, 55, *x]),
    _F("c093", "series", "element 1 ten times", lambda x: x[:1] * 10, 1),
    _F("c094", "edit", "elements 1 and 3, and 2 and 4, swapped",
       lambda x: x[2:4] + x[:2] + x[4:], 4),
    _F("c095", "slice", "all but the first and the last element", lambda x: x[1:-1], 2),
    _F("c096", "join", "98 prepended and 37 appended", lambda x: [98, *x, 37]),
    _F("c097", "join", "[11, 21, 43, 19], the input, [7, 89, 0, 57]",
       lambda x: [11, 21, 43, 19, *x, 7, 89, 0, 57]),
    _F("c098", "arithmetic", "its index added to each element",
       lambda x: [v + i for i, v in enumerate(x, 1)], 1),
    _F("c099", "filter", "the elements of at least 50", lambda x: [v for v in x if v >= 50], 1),
    _F("c100", "order", "reversed", lambda x: x[::-1], 2),
    _F("c101", "constant", "[11, 19, 24, 33, 42, 5, 82, 0, 64, 9]",
       lambda x: [11, 19, 24, 33, 42, 5, 82, 0, 64, 9]),
    _F("c102", "constant", "the input", lambda x: x),
    _F("c103", "summary", "the length", lambda x: [len(x)]),
    _F("c104", "summary", "the largest element", lambda x: sorted(x)[-1:], 2),
    _F("c105", "join", "all but the last element, then all but the first",
       lambda x: x[:-1] + x[1:], 3),
    _F("c106", "order", "ascending", lambda x: sorted(x), 2),
    _F("c107", "filter", "each value once", lambda x: _unique(x)),
    _F("c108", "summary", "the sum", lambda x: [sum(x)]),
    _F("c109", "summary", "the product", lambda x: [prod(x)], 2),
    _F("c110", "summary", "the three largest elements, ascending", lambda x: sorted(x)[-3:], 4),
    _F("c111", "series", "the largest element as many times as the smallest says",
       lambda x: [max(x)] * min(x), 1),
    _F("c112", "series", "1 to the last element", lambda x: _count(1, x[-1]), 1),
    _F("c113", "filter", "the elements whose ones digit is less than element 1",
       lambda x: [v for v in x if _ones(v) < x[0]], 2),
    _F("c114", "join", "the last element prepended", lambda x: x[-1:] + x, 2),
    _F("c115", "join", "each value once, and their sum before and after",
       lambda x: [sum(set(x)), *_unique(x), sum(set(x))]),
    _F("c116", "join", "the input mirrored at its first element", lambda x: x[:0:-1] + x, 2),
    _F("c117", "order", "rotated left by 3", lambda x: _rotate(x, 3), 3),
    _F("c118", "order", "rotated left by N, N = last element",
       lambda x: _rotate(x, x[-1]), 3, fits=lambda x: x[-1] <= len(x)),
    _F("c119", "join", "8 put before and after, unless it is there",
       lambda x: [8] * (x[0] != 8) + x + [8] * (x[-1] != 8),
       1, branch=lambda x: 8 in (x[0], x[-1])),
    _F("c120", "access", "element 1", lambda x: x[:1], 2),
    _F("c121", "access", "the last element", lambda x: x[-1:], 1),
    _F("c122", "access", "the last element but one", lambda x: x[-2:-1], 2),
    _F("c123", "access", "element N, N = last element",
       lambda x: _nth(x, x[-1]), 2, fits=lambda x: 0 < x[-1] <= len(x)),
    _F("c124", "access", "element M, M = element N, N = element 1",
       lambda x: _nth(x, sum(_nth(x, x[0]))),
       2, fits=lambda x: 0 < x[0] <= len(x) and 0 < x[x[0] - 1] <= len(x)),
    _F("c125", "filter", "the elements whose tens digit is that of element 1",
       lambda x: [v for v in x if _tens(v) == _tens(x[0])]),
    _F("c126", "slice", "all but element 1", lambda x: x[1:], 1),
    _F("c127", "slice", "all but the last element", lambda x: x[:-1], 1),
    _F("c128", "order", "all but elements 1, 2 and 5, ascending",
       lambda x: sorted(_without(x, 1, 2, 5)), 6),
    _F("c129", "slice", "elements M + 2 to N + 2, M = element 1, N = element 2",
       lambda x: _between(x, x[0] + 2, x[1] + 2), 3, fits=lambda x: x[0] <= x[1] <= len(x) - 2),
    _F("c130", "slice", "elements 2 to N + 1, N = element 1",
       lambda x: _between(x, 2, x[0] + 1), 2, fits=lambda x: x[0] < len(x)),
    _F("c131", "filter", "the elements whose tens digit is even",
       lambda x: [v for v in x if _tens(v) % 2 == 0]),
    _F("c132", "slice", "all but element 3", lambda x: _without(x, 3), 3),
    _F("c133", "slice", "all but elements 2 to 5", lambda x: _without(x, 2, 3, 4, 5), 6),
    _F("c134", "slice", "all but elements M to N, M = element 1, N = element 2",
       lambda x: _without(x, *_count(x[0], x[1])), 4, fits=lambda x: 0 < x[0] <= x[1] <= len(x)),
    _F("c135", "filter", "all but the first 7",
       lambda x: _without(x, x.index(7) + 1) if 7 in x else x, 1),
    _F("c136", "filter", "all but the first of the largest elements",
       lambda x: _without(x, x.index(max(x)) + 1), 2),
    _F("c137", "filter", "all but the 3s", lambda x: [v for v in x if v != 3], 2),
    _F("c138", "filter", "all but the elements equal to element 1",
       lambda x: [v for v in x if v != x[0]], 2),
    _F("c139", "filter", "all but the smallest and the largest elements",
       lambda x: [v for v in x if v not in (min(x), max(x))], 3),
    _F("c140", "edit", "9 in place of element 2", lambda x: _replace(x, 2, 9), 2),
    _F("c141", "edit", "after the pair M, N that it begins with: element M + 2 replaced by N",
       lambda x: _replace(x, x[0] + 2, x[1])[2:], 5, fits=lambda x: 0 < x[0] <= len(x) - 2),
    _F("c142", "arithmetic", "both digits of each element (7 is 07)",
       lambda x: _flat(_digits(v) for v in x), 1),
    _F("c143", "edit", "the smallest element in place of each of the largest",
       lambda x: [min(x) if v == max(x) else v for v in x], 2),
    _F("c144", "edit", "their difference in place of each of the largest and smallest elements",
       lambda x: [max(x) - min(x) if v in (min(x), max(x)) else v for v in x], 1),
    _F("c145", "series", "element 1 as many times as there are elements", lambda x: x[:1] * len(x)),
    _F("c146", "arithmetic", "the differences of neighbours",
       lambda x: [abs(a - b) for a, b in pairwise(x)], 2),
    _F("c147", "join", "each element, followed by its index",
       lambda x: _weave(x, _count(1, len(x)))),
    _F("c148", "series", "1 to each element in turn", lambda x: _flat(_count(1, v) for v in x), 3),
    _F("c149", "arithmetic", "element 1 times each of the others",
       lambda x: [v * x[0] for v in x[1:]], 2),
    _F("c150", "series", "element 1 up to each element in turn, or just that if it is less",
       lambda x: _flat(_count(min(x[0], v), v) for v in x), 3),
    _F("c151", "series", "each element as many times as it says",
       lambda x: _flat([v] * v for v in x), 3),
    _F("c152", "arithmetic", "the product of both digits of each element (7 is 07)",
       lambda x: [prod(_digits(v)) for v in x], 1),
    _F("c153", "summary", "each value, followed by how often it occurs",
       lambda x: _flat(Counter(x).items()), fits=_has_repeats),
    _F("c154", "arithmetic", "the even elements times 3, the odd ones as they are",
       lambda x: [v * 3 if v % 2 == 0 else v for v in x], 2),
    _F("c155", "arithmetic", "each element times its index",
       lambda x: [v * i for i, v in enumerate(x, 1)], 4),
    _F("c156", "arithmetic", "reversed, then its index added to each element",
       lambda x: [v + i for i, v in enumerate(x[::-1], 1)], 4),
    _F("c157", "join", "each element, followed by 0 if it is even, 1 if odd",
       lambda x: _weave(x, (v % 2 for v in x)), 1),
    _F("c158", "arithmetic", "1 for each element that equals its index, else 0",
       lambda x: [int(v == i) for i, v in enumerate(x, 1)],
       6, fits=lambda x: any(v == i for i, v in enumerate(x, 1))),
    _F("c159", "summary", "how often each of 1, 2, ... up to the largest element occurs",
       lambda x: [x.count(n) for n in _count(1, max(x))], 4),
    _F("c160", "arithmetic", "99 minus each element", lambda x: [99 - v for v in x], 1),
    _F("c161", "arithmetic", "to each element added how many come after it",
       lambda x: [v + len(x) - i for i, v in enumerate(x, 1)], 2),
    _F("c162", "arithmetic", "each element times 3, plus 7", lambda x: [3 * v + 7 for v in x], 4),
    _F("c163", "arithmetic", "each element times 2, minus 10",
       lambda x: [2 * v - 10 for v in x], 3),
    _F("c164", "arithmetic", "each element divided by 4, rounded down, plus 5",
       lambda x: [v // 4 + 5 for v in x], 1),
    _F("c165", "filter", "the even elements, reversed",
       lambda x: [v for v in x[::-1] if v % 2 == 0], 2),
    _F("c166", "order", "each value once, by ascending sum of digits",
       lambda x: sorted(_unique(x), key=lambda v: sum(_digits(v))), 2),
    _F("c167", "filter", "the multiples of 3", lambda x: [v for v in x if v % 3 == 0], 2),
    _F("c168", "series", "1 to 10 without the length",
       lambda x: [n for n in _count(1, 10) if n != len(x)], 1),
    _F("c169", "summary", "the second largest element", lambda x: sorted(x)[-2:-1], 2),
    _F("c170", "slice", "the first and the last element", lambda x: x[:1] + x[1:][-1:], 2),
    _F("c171", "arithmetic", "the sums so far", lambda x: list(accumulate(x)), 2),
    _F("c172", "arithmetic", "the products so far",
       lambda x: [prod(x[:n]) for n in _count(1, len(x))], 3),
    _F("c173", "arithmetic", "the largest so far", lambda x: list(accumulate(x, max)), 2),
    _F("c174", "slice", "the first N elements, N = number of different values",
       lambda x: x[: len(set(x))], 2),
    _F("c175", "filter", "the elements larger than all before",
       lambda x: [v for i, v in enumerate(x) if all(v > u for u in x[:i])], 2),
    _F("c176", "arithmetic", "the sums of neighbours",
       lambda x: [a + b for a, b in pairwise(x)], 2),
    _F("c177", "join", "the input and its reverse in turn", lambda x: _weave(x, x[::-1]), 1),
    _F("c178", "filter", "the elements followed by an even one",
       lambda x: [a for a, b in pairwise(x) if b % 2 == 0], 2),
    _F("c179", "order", "a fan from the largest in the middle out, the smallest last behind",
       lambda x: _fan(sorted(x)[::-1]), 3),
    _F("c180", "order", "a fan from the smallest in the middle out, the largest last behind",
       lambda x: _fan(sorted(x)), 3),
    _F("c181", "order", "the elements with even indices in reverse order, the others in place",
       lambda x: [v if i % 2 else x[len(x) // 2 * 2 + 1 - i] for i, v in enumerate(x, 1)], 4),
    _F("c182", "slice", "every third element", lambda x: x[2::3], 3),
    _F("c183", "summary", "the indices, less 1, of the later elements equal to element 1",
       lambda x: [i for i, v in enumerate(x[1:], 1) if v == x[0]], 3),
    _F("c184", "filter", "the odd elements with even indices",
       lambda x: [v for v in x[1::2] if v % 2], 2),
    _F("c185", "edit", "the first element, the sum of those between, the last element",
       lambda x: [x[0], sum(x[1:-1]), x[-1]], 3),
    _F("c186", "filter", "the elements more than element 1",
       lambda x: [v for v in x if v > x[0]], 2),
    _F("c187", "join", "the input twice with a 0 between", lambda x: [*x, 0, *x]),
    _F("c188", "arithmetic", "1 for each multiple of 3, else 0",
       lambda x: [int(v % 3 == 0) for v in x], 3, fits=lambda x: any(v % 3 == 0 for v in x)),
    _F("c189", "series", "the smallest to the largest element",
       lambda x: _count(min(x), max(x)), 3),
    _F("c190", "series", "the first to the last element in steps of 2",
       lambda x: _count(x[0], x[-1], 2), 3, fits=lambda x: x[0] < x[-1] and x[0] % 2 == x[-1] % 2),
    _F("c191", "series", "each element as many times as its tens digit",
       lambda x: _flat([v] * _tens(v) for v in x)),
    _F("c192", "arithmetic", "the tens digit of each element", lambda x: [_tens(v) for v in x], 1),
    _F("c193", "order", "ascending, without one smallest and one largest element",
       lambda x: sorted(x)[1:-1], 3),
    _F("c194", "join", "reversed, and the length before and after",
       lambda x: [len(x), *x[::-1], len(x)], 1),
    _F("c195", "edit", "element 1, then 23, 68, 42, 99, 71, then the last element",
       lambda x: [x[0], 23, 68, 42, 99, 71, x[-1]], 3),
    _F("c196", "join", "[17, 38, 82], the input, [1, 55, 27]",
       lambda x: [17, 38, 82, *x, 1, 55, 27], 1),
    _F("c197", "arithmetic", "how often each element occurs",
       lambda x: [x.count(v) for v in x], fits=_has_repeats),
    _F("c198", "order", "each value once, descending",
       lambda x: sorted(set(x), reverse=True), 2, fits=_has_repeats),
    _F("c199", "order", "ascending, each element after its rank",
       lambda x: _weave(_count(1, len(x)), sorted(x))),
    _F("c200", "arithmetic", "the tens digits, ascending",
       lambda x: sorted(_tens(v) for v in x), 2),
    _F("c201", "order", "the elements more than element 1, then those less",
       lambda x: [v for v in x if v > x[0]] + [v for v in x if v < x[0]], 1),
    _F("c202", "summary", "the indices of the even elements",
       lambda x: [i for i, v in enumerate(x, 1) if v % 2 == 0], 2),
    _F("c203", "series", "the first M multiples of the smallest element, M = length",
       lambda x: [min(x) * n for n in _count(1, len(x))], 2),
    _F("c204", "filter", "the elements followed by 0",
       lambda x: [a for a, b in pairwise(x) if b == 0], 2),
    _F("c205", "summary", "the product of the multiples of 4",
       lambda x: [prod(v for v in x if v % 4 == 0)], 2, fits=lambda x: any(v % 4 == 0 for v in x)),
    _F("c206", "filter", "the elements between the first two in value",
       lambda x: [v for v in x if min(x[:2]) < v < max(x[:2])], 3),
    _F("c207", "arithmetic", "each element plus the one at its place in the reverse",
       lambda x: [a + b for a, b in zip(x, x[::-1], strict=True)], 2),
    _F("c208", "slice", "the last N elements, N = last element",
       lambda x: x[max(0, len(x) - x[-1]) :], 2, fits=lambda x: x[-1] <= len(x)),
    _F("c209", "edit", "ascending, with the sum of smallest and largest inserted as element 3",
       lambda x: _insert(sorted(x), 3, min(x) + max(x)), 3),
    _F("c210", "edit", "each value once, and the last element inserted at M, M = element 1",
       lambda x: _insert(_unique(x), x[0], x[-1]), 2, fits=lambda x: 0 < x[0] <= len(set(x))),
    _F("c211", "edit", "reversed, with elements 4 and 5 inserted before the last three",
       lambda x: x[:2:-1] + _between(x, 4, 5) + x[2::-1], 5),
    _F("c212", "edit", "3 inserted three times as element 3", lambda x: _insert(x, 3, 3, 3, 3), 2),
    _F("c213", "summary", "the three smallest elements, ascending", lambda x: sorted(x)[:3], 3),
    _F("c214", "slice", "all but elements 1 and N + 1, N = element 1",
       lambda x: _without(x, 1, x[0] + 1), 2, fits=lambda x: 0 < x[0] < len(x)),
    _F("c215", "edit", "the length in place of element M + 1, without element 1, M = element 1",
       lambda x: _replace(x, x[0] + 1, len(x))[1:], 2, fits=lambda x: 0 < x[0] < len(x)),
    _F("c216", "order", "by ascending tens digit", lambda x: sorted(x, key=_tens), 2),
    _F("c217", "order", "by ascending ones digit", lambda x: sorted(x, key=_ones), 2),
    _F("c218", "filter", "the later elements equal to element 1",
       lambda x: [v for v in x[1:] if v == x[0]], 3),
    _F("c219", "slice", "every other element, the last one among them", lambda x: x[::-2][::-1], 2),
    _F("c220", "arithmetic", "each element times 2 if the length is even, else times 3",
       lambda x: [v * (3 if len(x) % 2 else 2) for v in x], 1, branch=lambda x: len(x) % 2 == 0),
    _F("c221", "summary", "the sum of the even elements",
       lambda x: [sum(v for v in x if v % 2 == 0)], 2),
    _F("c222", "series", "the length in place of every element", lambda x: [len(x)] * len(x), 1),
    _F("c223", "arithmetic", "the digits of each element swapped",
       lambda x: [_ones(v) * 10 + _tens(v) for v in x], 1),
    _F("c224", "order", "a fan from element 1 in the middle out, the last element in front",
       lambda x: _fan(x)[::-1], 3),
    _F("c225", "slice", "all but the first two and the last two elements", lambda x: x[2:-2], 5),
    _F("c226", "slice", "without the first M and last N, M = element 1, N = last element",
       lambda x: x[x[0] : max(0, len(x) - x[-1])], 2, fits=lambda x: x[0] + x[-1] <= len(x)),
    _F("c227", "order", "each value once, of the input and its reverse in turn",
       lambda x: _unique(_weave(x, x[::-1]))),
    _F("c228", "arithmetic", "how often each element has occurred so far",
       lambda x: [x[:i].count(v) for i, v in enumerate(x, 1)], 2, fits=_has_repeats),
    _F("c229", "slice", "the first N elements of the reversed input, N = element 1",
       lambda x: x[::-1][: x[0]], 2, fits=lambda x: x[0] <= len(x)),
    _F("c230", "series", "the smallest to the largest element in steps of 2",
       lambda x: _count(min(x), max(x), 2), 3, fits=lambda x: min(x) % 2 == max(x) % 2),
    _F("c231", "summary", "how often each value occurs, ascending",
       lambda x: sorted(Counter(x).values()), 2, fits=_has_repeats),
    _F("c232", "summary", "the mean, rounded down", lambda x: [sum(x) // len(x)], 2),
    _F("c233", "summary", "how often each value occurs",
       lambda x: list(Counter(x).values()), 2, fits=_has_repeats),
    _F("c234", "filter", "the repetitions, by the first occurrence of their value",
       lambda x: list((Counter(x) - Counter(set(x))).elements()), 3),
    _F("c235", "series", "from each element up or down to the next in steps of 1",
       lambda x: x[:1] + _flat(_walk(a, b) for a, b in pairwise(x)), 3),
    _F("c236", "arithmetic", "half of each even element",
       lambda x: [v // 2 for v in x if v % 2 == 0], 2),
    _F("c237", "arithmetic", "the sums so far of each value once",
       lambda x: list(accumulate(_unique(x))), 2, fits=_has_repeats),
    _F("c238", "filter", "the elements that occur once",
       lambda x: [v for v in x if x.count(v) == 1], 2),
    _F("c239", "summary", "the number of repetitions", lambda x: [len(x) - len(set(x))]),
    _F("c240", "summary", "how many elements equal the length", lambda x: [x.count(len(x))], 2),
    _F("c241", "summary", "how many elements are even", lambda x: [sum(v % 2 == 0 for v in x)], 2),
    _F("c242", "order", "c179 of the different values",
       lambda x: _fan(sorted(set(x), reverse=True)), 3, fits=_has_repeats),
    _F("c243", "summary", "how many elements are odd", lambda x: [sum(v % 2 for v in x)], 2),
    _F("c244", "summary", "how many 3s", lambda x: [x.count(3)], 2),
    _F("c245", "summary", "how many later elements equal element 1",
       lambda x: [x[1:].count(x[0])], 2, branch=lambda x: x[0] in x[1:]),
    _F("c246", "summary", "how many different values", lambda x: [len(set(x))]),
    _F("c247", "slice", "the elements before the first 0, or all",
       lambda x: x[: x.index(0)] if 0 in x else x, 2),
    _F("c248", "slice", "the elements after the last 0, or all",
       lambda x: x[len(x) - x[::-1].index(0) :] if 0 in x else x, 2),
    _F("c249", "slice", "the first element of each stretch between 0s",
       lambda x: [part[0] for part in _sublists(x)], 4, fits=lambda x: 0 in x[1:-1]),
    _F("c250", "order", "the stretches between 0s, each reversed, without the 0s",
       lambda x: _flat(part[::-1] for part in _sublists(x)), 4, fits=lambda x: 0 in x[1:-1]),
]
# fmt: on

FUNCTIONS: dict[str, ListFunction] = {function.name: function for function in _ALL}
"""Every function by its name, c001 to c250 in order."""
