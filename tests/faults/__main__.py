"""`make test-faults`: tries every kind of fault, and says how many were survived.

    PYTHONPATH=tests python -m faults --seed 0

The same seed tries the same, but for the moments of kills. `--only` names kinds, `--share 0.01` tries a
hundredth of each. Two kinds are tried at a time, the longest first.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from faults import runs
from faults.kinds import KINDS, counts, tried


def main() -> int:
    """Try all, print what did harm and a line for each kind; returns 1 where anything did."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the tries of each kind")
    parser.add_argument("--only", nargs="*", choices=KINDS, default=list(KINDS))
    asked = parser.parse_args()
    total: Counter[str] = Counter()
    with TemporaryDirectory(prefix="symtune-faults-") as name, _bucket(Path(name)):
        runs.golden(Path(name) / "any")  # with which every kind compares
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            each = [
                pool.submit(tried, kind, asked.seed, asked.share, Path(name))
                for kind in KINDS
                if kind in asked.only
            ]
            for done in as_completed(each):
                total += done.result()
    print(f"all: {counts(total)}")
    return 1 if total["lost"] or total["silently wrong"] else 0


@contextmanager
def _bucket(folder: Path) -> Iterator[None]:
    """A bucket on a server of this machine, and a home of nobody else's for the commands."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",  # pragma: allowlist secret
        "AWS_DEFAULT_REGION": "us-east-1",
        "SYMTUNE_HOME": str(folder / "golden-local" / "home"),
        "SYMTUNE_EXPERIMENT": "smoke",
    }
    boto3.client("s3").create_bucket(Bucket="bucket")
    try:
        yield
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
