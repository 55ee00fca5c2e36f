"""Scoring under a genuine limit of memory, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import save_tiny_model

pytestmark = pytest.mark.slow

# Arguments: the model, the number of queries, the tokens of their second label, and the bytes that
# may be had beyond what the process holds.
SCRIPT = """
import resource, sys
from pathlib import Path
import torch
from symtune_pipeline.models.loading import load_model
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.scorer import score
from symtune_pipeline.models.trees import Query, Tree

model = load_model(Path(sys.argv[1]), torch.float32, "cpu").eval()
queries, label_tokens, more = map(int, sys.argv[2:])
labels = [[8], [9] * label_tokens]
trees = [Tree([5, 6, 7], [Query([11 + i, 12], labels) for i in range(queries)])]
free = score(model, trees)
passes, done = [], []
model.register_forward_hook(lambda *_: passes.append(1))  # only of those that memory sufficed for
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))
try:
    limited = score(model, trees, progress=done.append)
except UserError as error:
    sys.exit(str(error))
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
difference = (torch.tensor(free) - torch.tensor(limited)).abs().max().item()
print(len(passes), done[-1], difference)
"""


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny but for its vocabulary, so that logits are what memory is needed for."""
    return save_tiny_model(tmp_path_factory.mktemp("wide"), vocab_size=50_000)


def score_within_limit(
    model: Path, queries: int, label_tokens: int
) -> subprocess.CompletedProcess[str]:
    """Score with 150 MB to be had; every token predicted needs 0.2 MB for its logits."""
    numbers = map(str, (queries, label_tokens, 150_000_000))
    command = [sys.executable, "-c", SCRIPT, str(model), *numbers]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limit of address space")
def test_a_pass_that_runs_out_of_memory_is_halved_until_it_fits(wide_model: Path) -> None:
    ended = score_within_limit(wide_model, queries=600, label_tokens=2)
    assert ended.returncode == 0, ended.stderr
    passes, queries, difference = ended.stdout.split()
    assert int(passes) > 1  # without the limit all is one pass
    assert int(queries) == 600
    assert float(difference) < 1e-4


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limit of address space")
def test_memory_that_holds_not_one_query_is_a_user_error(wide_model: Path) -> None:
    ended = score_within_limit(wide_model, queries=1, label_tokens=2_000)
    assert ended.returncode == 1
    assert ended.stderr.strip().endswith(
        "runs out of memory on a prompt of 2004 tokens; lower evaluation.exemplars_per_class or use a"
        " machine with more memory."
    ), ended.stderr
