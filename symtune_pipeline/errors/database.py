"""What DuckDB finds wrong with SQL, in a sentence without its full stop."""

from __future__ import annotations

import re

import duckdb

# How it names what may be meant, below its first line.
MEANT = re.compile(r"^(?:Candidate (?:bindings|tables):|Did you mean)[ :]*(\".+\")", re.MULTILINE)


def sql_fault(error: duckdb.Error, where: str) -> str:
    """What is wrong, which name may be meant, and that `where` is to be corrected if SQL is at fault."""
    fault = str(error).splitlines()[0].rstrip(".!")
    fault = re.sub(r"\. (\w)", lambda found: f"; {found[1].lower()}", fault)
    if meant := MEANT.search(str(error)):
        fault += f"; perhaps {meant[1].split(', ')[0]} is meant"  # the nearest comes first
    of_sql = isinstance(error, duckdb.ProgrammingError | duckdb.DataError)
    return f"{fault}; correct {where}" if of_sql else fault
