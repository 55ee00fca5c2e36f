"""How ranks of one machine meet: by a file, and over the loopback interface only.

PyTorch's own meeting point listens on every interface, asks for no password, and what is written
there is unpickled: whoever reaches it runs code. A file has the rights of its folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil

LOOPBACK = "127.0.0.1"
RUN = "TORCHELASTIC_RUN_ID"  # in which torchrun tells its ranks the name of the run


def meeting_folder() -> Path:
    """A new folder, in one for this user alone, in which the ranks of one start meet.

    Its parent goes when they have ended: torchrun makes a folder of logs beside this one, by its name.
    """
    folder = Path(mkdtemp(prefix="symtune-ranks-")) / "run"
    folder.mkdir()
    return folder


def keep_to_loopback() -> None:
    """Let Gloo and NCCL of this process, and of those that it starts, use the loopback interface."""
    names = [
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(address.address == LOOPBACK for address in addresses)
    ]
    for library in ("GLOO", "NCCL"):
        os.environ[f"{library}_SOCKET_IFNAME"] = names[0]


def torchrun_options(folder: Path) -> list[str]:
    """How torchrun is told to meet its ranks in a folder, which is also the name of the run."""
    return [
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={folder / 'launcher'}",
        "--rdzv-conf=store_type=file",
        f"--rdzv-id={folder}",
        f"--local-addr={LOOPBACK}",
        f"--log-dir={folder / 'logs'}",
    ]


def meeting() -> dict[str, Any]:
    """What init_process_group is told under torchrun: the file where `on_torchrun` has named one.

    Where somebody has started torchrun itself it is told nothing: a file will not do for other machines.
    """
    from torch.distributed.elastic.utils.api import get_env_variable_or_raise as of_torchrun

    folder = Path(of_torchrun(RUN))
    if not (folder.is_absolute() and folder.is_dir()):
        return {}
    return {
        "init_method": (folder / "ranks").as_uri(),
        "rank": int(of_torchrun("RANK")),
        "world_size": int(of_torchrun("WORLD_SIZE")),
    }
