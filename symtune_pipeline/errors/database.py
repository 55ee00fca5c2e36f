"""What DuckDB finds wrong with SQL, as a part of a sentence."""

from __future__ import annotations

import re

# How it names what may be meant, below its first line.
MEANT = re.compile(r"^(?:Candidate (?:bindings|tables):|Did you mean)[ :]*(\".+\")", re.MULTILINE)


def sql_fault(error: Exception) -> str:
    """The first line of an error of DuckDB's, and the names that it takes to be meant, if any."""
    fault = str(error).splitlines()[0].rstrip(".!")
    fault = re.sub(r"\. (\w)", lambda found: f"; {found[1].lower()}", fault)
    meant = MEANT.search(str(error))
    return f"{fault}; perhaps {' or '.join(meant[1].split(', '))} is meant" if meant else fault
