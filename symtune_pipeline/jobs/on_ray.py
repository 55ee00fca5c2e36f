"""A job on a Ray cluster: `python -m symtune_pipeline.jobs.on_ray --workers 2 -m <package> --config …`.

Each worker is a rank. Where one dies, all start again and go on where they were.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

from symtune_pipeline.errors import UserError
from symtune_pipeline.errors.interrupts import run_command, unbroken

if TYPE_CHECKING:
    from ray.train.torch import TorchConfig
    from ray.util.queue import Queue

    from symtune_pipeline.jobs.job import Job, Say

# Read when Ray is imported. The first keeps Ray on the loopback address, as it otherwise stays on
# Windows and macOS only. By the second, workers are no nicer than the job is with other launchers:
# Ray's 15 leaves them 3% of a core that anything else uses.
LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def main() -> int:
    """Run the job that the command line describes."""
    parser = argparse.ArgumentParser(
        prog="python -m symtune_pipeline.jobs.on_ray", description=__doc__
    )
    parser.add_argument("-m", dest="package", required=True, help="the job's package")
    parser.add_argument("--config", required=True, help="the job's JSON file")
    parser.add_argument("--local", action="store_true", help="start a cluster here, for the job")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cpus-per-worker", type=int, default=1)
    parser.add_argument("--gpus-per-worker", type=int, default=0)
    parser.add_argument("--max-failures", type=int, default=3, help="how often to start again")
    options = parser.parse_args()

    def launched() -> int:
        with unbroken():  # once the command can be interrupted, whose imports take seconds
            from symtune_pipeline.jobs.job import Program
            from symtune_pipeline.jobs.launched import run_launched

        return run_launched(options.config, Program(options.package), partial(run_on_ray, options))

    return run_command(launched, import_module(options.package).INTERRUPTED)


def run_on_ray(options: argparse.Namespace, config: Job, say: Say) -> Path:
    """Run the job on workers and pass their lines on; returns the folder of the result.

    Ray ends the workers when this program ends, which is after the launcher was told the result or
    the error: Ray kills the program if the thread is still waiting for workers that are no more.
    """
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a thread that outlives a cluster starts no other
    if options.local:
        os.environ.update(LOCAL)
    from ray.util.queue import Queue

    _connect(options)
    messages = Queue(actor_options={"num_cpus": 0})
    Thread(target=_fit, args=(options, config, messages), daemon=True).start()
    while True:
        kind, text = messages.get()
        if kind == "result":
            return Path(text)
        if kind == "error":
            raise UserError(text)
        say(text)


def _connect(options: argparse.Namespace) -> None:
    """Join the cluster that runs this program as a job, or start one that only this machine sees."""
    import ray

    if not options.local:
        ray.init(address="auto")
        return
    try:
        ray.init(
            address="local",
            num_cpus=options.workers * options.cpus_per_worker,
            include_dashboard=False,
        )
    except Exception as error:  # a bare one where Ray's own processes take more than 30 seconds
        raise UserError(
            f"Ray does not start on this machine ({error}); start again when less runs on it, or"
            " use another launcher."
        ) from error
    gpus = options.workers * options.gpus_per_worker
    found = int(ray.cluster_resources().get("GPU", 0))
    if found < gpus:
        raise UserError(
            f"The launcher asks for {gpus} GPUs and this machine has {found}; lower workers or"
            " gpus_per_worker in the launcher file."
        )


def _fit(options: argparse.Namespace, config: Job, messages: Queue) -> None:
    """Run the ranks; the last message is the result or an error."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        _rank,  # type: ignore[arg-type]
        torch_config=_meeting_in(config.output_folder / "ray") if options.local else None,
        train_loop_config={
            "package": config.package,
            "config": config.model_dump_json(),
            "messages": messages,
        },
        scaling_config=ScalingConfig(
            num_workers=options.workers,
            use_gpu=options.gpus_per_worker > 0,
            resources_per_worker={"CPU": options.cpus_per_worker, "GPU": options.gpus_per_worker},
        ),
        run_config=RunConfig(
            storage_path=str(config.output_folder / "ray"),
            failure_config=FailureConfig(max_failures=options.max_failures),
        ),
    )
    try:
        messages.put(("result", trainer.fit().return_value))  # type: ignore[attr-defined]
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].rstrip(".")
        messages.put(
            (
                "error",
                f"The workers of the {config.name} failed more than {options.max_failures} times"
                f" ({reason}); starting it again {config.goes_on}.",
            )
        )


def _meeting_in(folder: Path) -> TorchConfig:
    """How ranks of one machine meet by a file in a folder; Ray's way listens on every interface."""
    import ray
    from ray.train.torch import config as of_ray

    from symtune_pipeline.jobs.on_one_machine import keep_to_loopback

    class Meeting(of_ray._TorchBackend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            gpus = worker_group.get_resources_per_worker().get("GPU", 0)
            folder.mkdir(parents=True, exist_ok=True)
            worker_group.execute(keep_to_loopback)
            worker_group.execute(of_ray._set_torch_distributed_env_vars)
            arguments = {
                "backend": "nccl" if gpus else "gloo",
                "world_size": len(worker_group),
                "init_method": (folder.absolute() / f"ranks-{uuid4().hex}").as_uri(),
                "timeout_s": backend_config.timeout_s,
            }
            setup = of_ray._setup_torch_process_group
            ray.get(
                [
                    worker_group.execute_single_async(i, setup, world_rank=i, **arguments)
                    for i in range(len(worker_group))
                ]
            )

    class Config(of_ray.TorchConfig):
        @property
        def backend_cls(self) -> type[Meeting]:
            return Meeting

    return Config()


def _rank(settings: dict[str, Any]) -> str:
    """What a worker does; its return value is the result's folder."""
    from symtune_pipeline.jobs.job import Program

    messages, program = settings["messages"], Program(settings["package"])
    config = program.config.model_validate_json(settings["config"])
    try:
        return str(program.run(config, lambda line: messages.put(("line", line))))
    except UserError as error:  # ends the job at once: no number of attempts would help
        messages.put(("error", str(error)))
        raise


def _end(status: int) -> NoReturn:
    """End Ray, then this process at once: it may abort at Python's end while the thread still waits."""
    import ray

    ray.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _end(main())
