"""Models that several ranks of the job hold together: which ranks, and opening one for them.

Neighbouring ranks are a team. Each team holds one model and runs the same passes at the same time, so what
goes wrong on one of its ranks ends that rank, and the launcher the others: they wait for it inside a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from symtune_pipeline.errors import UserError, brief, is_out_of_memory, memory_as
from symtune_pipeline.evaluation.asking import Answer, Pass
from symtune_pipeline.evaluation.memory import fewest_ranks, room_of
from symtune_pipeline.jobs.job import Say
from symtune_pipeline.jobs.ranks import Ranks
from symtune_pipeline.models import spreading
from symtune_pipeline.models.device import fitting
from symtune_pipeline.models.opening import open_model
from symtune_pipeline.models.trial import class_name, random_strings, run_alone, same_to_rounding

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel

Way = Literal["tensor parallelism", "FSDP2"]


def ranks_per_model(
    asked: int | Literal["auto"], folders: Sequence[Path], dtype: torch.dtype, ranks: Ranks
) -> int:
    """How many ranks hold a model together; a call for all ranks.

    Raises UserError where the ranks cannot be dealt into teams of that size.
    """
    if ranks.count == 1 and asked == "auto":
        return 1
    if asked != "auto":
        if ranks.count % asked:
            raise UserError(
                f"Setting evaluation.ranks_per_model is {asked}, and the job has {ranks.count}"
                f" rank{'s' * (ranks.count > 1)}, which make no whole number of such teams; start"
                f" {asked * -(-ranks.count // asked)} ranks, or set it to a number that divides"
                f" {ranks.count}."
            )
        return asked
    here = max(ranks.all_gather(ranks.local)) + 1
    room = min(ranks.all_gather(room_of(ranks.device, here)))
    bf16, device = dtype == torch.bfloat16, ranks.device.type

    def fewest() -> int:
        if ranks.rank:
            return 1
        return max(
            fewest_ranks(folder, bf16=bf16, device=device, ranks=ranks.count, room=room)
            for folder in folders
        )

    found = ranks.together(fewest)
    return ranks.broadcast(lambda: found)


@dataclass(frozen=True)
class Facts:
    """What rank 0 knows of the whole model: its parameters' types, and what it predicts."""

    types: dict[str, torch.dtype]
    logprobs: list[torch.Tensor]  # [T, V] of each random string


@dataclass(frozen=True)
class RankTeam:
    """The ranks that hold a model together with this one, among the teams of the job."""

    ranks: Ranks
    size: int
    mesh: DeviceMesh
    say: Say

    @classmethod
    def of(cls, ranks: Ranks, size: int, say: Say) -> RankTeam:
        """A call for all ranks; `size` divides their number."""
        return cls(ranks, size, spreading.mesh_of(ranks.device.type, ranks.count, size), say)

    @property
    def number(self) -> int:
        """This team's among those of the job."""
        return self.ranks.rank // self.size

    @property
    def count(self) -> int:
        """How many teams the job has."""
        return self.ranks.count // self.size

    @property
    def leads(self) -> bool:
        """Whether this rank writes the team's answers."""
        return self.ranks.rank % self.size == 0

    def open(self, folder: Path, dtype: torch.dtype, attention: str | None) -> PreTrainedModel:
        """The model in a folder, of which this rank holds a share; a call for all ranks of the job.

        Rank 0 reads the whole on the CPU. A way of sharing it is taken where random strings get the
        log-probabilities that the whole gives. Raises UserError where `open_model` does, where memory runs
        out, and for a model that is right in no way.
        """

        def read() -> tuple[PreTrainedModel, Facts] | None:
            if self.ranks.rank:
                return None
            with fitting(folder):
                whole = open_model(folder, dtype, "cpu", attention).eval()
                return whole, _facts(whole)

        found = self.ranks.together(read)
        facts = self.ranks.broadcast(lambda: found[1] if found else None)
        assert facts is not None
        reasons: list[str] = []
        ways: dict[Way, Callable[[PreTrainedModel, DeviceMesh], None]] = {
            "tensor parallelism": spreading.share_matrices,
            "FSDP2": spreading.share_layers,
        }
        for way, share in ways.items():
            with fitting(folder), torch.no_grad():
                model: PreTrainedModel = open_model(folder, dtype, "meta", attention).eval()
                reason = self._why_not(way, share, model, found and found[0], facts)
            if reason is None:
                why = f" ({'; '.join(reasons)})" if reasons else ""
                self.say(f"held by {self.size} ranks together: {way}{why}")
                return model
            reasons.append(reason)
            del model
        raise UserError(
            f"The model in {folder} cannot be held by {self.size} ranks together ({'; '.join(reasons)}); set"
            " evaluation.ranks_per_model to 1, on GPUs that hold it whole."
        )

    def answering(self, answer: Callable[[Pass], Answer]) -> Callable[[Pass], Answer]:
        """`answer` to a whole pass: a rank whose memory runs out cannot try again without the others."""

        def answered(each: Pass) -> Answer:
            with memory_as(
                f"Rank {self.ranks.rank}, one of {self.size} that hold a model together, runs out of memory;"
                " raise evaluation.ranks_per_model or use GPUs with more memory."
            ):
                return answer(each)

        return answered

    def _why_not(
        self,
        way: Way,
        share: Callable[[PreTrainedModel, DeviceMesh], None],
        model: PreTrainedModel,
        whole: PreTrainedModel | None,
        facts: Facts,
    ) -> str | None:
        """Share the model and fill it; why it is not right then, on any rank."""
        name = class_name(model)
        if way == "tensor parallelism":
            reason = spreading.why_not_tensor_parallel(model, self.size)
            if reason:
                return reason
        try:
            spreading.take_types(model, facts.types)
            share(model, self.mesh)
            spreading.fill(model, whole, self.ranks.device)
            model.tie_weights(recompute_mapping=False)
            strings = random_strings(model)
            found = [run_alone(model, string).cpu() for string in strings]
            pairs = zip(found, facts.logprobs, strict=True)
            right = all(same_to_rounding(own, expected, model.dtype) for own, expected in pairs)
            reason = None if right else f"{name} gives other numbers with {way}"
        except Exception as error:  # whatever a class does that nobody has tried in this way
            if is_out_of_memory(error):
                raise
            reason = f"{name} does not run with {way}: {brief(error)}"
        return next((text for text in self.ranks.all_gather(reason) if text), None)


def _facts(model: PreTrainedModel) -> Facts:
    with torch.no_grad():
        logprobs = [run_alone(model, string) for string in random_strings(model)]
    parameters = model.named_parameters(remove_duplicate=False)
    return Facts({name: parameter.dtype for name, parameter in parameters}, logprobs)
