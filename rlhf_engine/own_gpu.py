"""Which GPU a training process computes on: one, told to CUDA before torch is imported.

A Trainer that sees several would spread each batch over them, and each of several processes
would take the first.
"""

from __future__ import annotations

from collections.abc import MutableMapping

from rlhf_engine.errors import PlanError

VISIBLE, LOCAL_RANK = "CUDA_VISIBLE_DEVICES", "LOCAL_RANK"
NONE_VISIBLE = ("", "-1")


def see_one_gpu(environment: MutableMapping[str, str]) -> None:
    """Narrow the visible GPUs to the LOCAL_RANK-th one, the first without LOCAL_RANK, which then
    is 0, as of torchrun's --virtual-local-rank.

    Entries may be numbers, or UUIDs of GPUs and of MIG instances. Where the variable hides all
    GPUs nothing changes. PlanError where it lists fewer than there are processes.
    """
    rank = int(environment.get(LOCAL_RANK, "0"))
    listed = environment.get(VISIBLE, ",".join(map(str, range(rank + 1))))
    visible = [entry.strip() for entry in listed.split(",")]
    if visible[0] in NONE_VISIBLE:
        return
    if rank >= len(visible):
        raise PlanError(
            f"{VISIBLE} is {listed}, and this is process {rank + 1} on its machine; start at most "
            "as many processes as it lists, or set it empty to train on CPUs"
        )
    environment[VISIBLE] = visible[rank]
    if LOCAL_RANK in environment:
        environment[LOCAL_RANK] = "0"
