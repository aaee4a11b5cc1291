"""The processes that train one policy together: alone, or as `accelerate launch` started them.

Each holds the same weights and answers its own share of every rollout batch; gradients and
sums are added up over all, so that n processes learn what one would from the same batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta

import torch
from torch import Tensor, distributed

from rlhf_engine.errors import PlanError

WAIT = timedelta(hours=6)
"""How long one process waits for another: a rollout of a large policy takes its time."""


class Processes:
    """This process (`rank`) among `count`; each sees one GPU at most (own_gpu.py)."""

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.count > 1 and not distributed.is_initialized():
            if not distributed.is_available():
                raise PlanError("this build of torch cannot train in several processes")
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            distributed.init_process_group(backend, timeout=WAIT)

    @property
    def first(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def share(self, items: list[int]) -> list[int]:
        """The items that this process works on."""
        return items[self.rank :: self.count]

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            # NCCL adds up what is on its device only.
            carried = tensor.cuda() if torch.cuda.is_available() else tensor
            distributed.all_reduce(carried)
            tensor.copy_(carried)
        return tensor

    def add_up_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add the gradients up over all processes; a process without any adds zeros."""
        if self.count == 1:
            return
        trained = list(parameters)
        flat = torch.cat([_gradient(parameter).flatten() for parameter in trained])
        distributed.all_reduce(flat)
        start = 0
        for parameter in trained:
            end = start + parameter.numel()
            parameter.grad = flat[start:end].view_as(parameter)
            start = end

    def moments(self, values: Tensor) -> tuple[float, float, float]:
        """Count, mean and population variance of all processes' values together; 0 of none."""
        wide = values.double()
        sums = self.add_up(torch.stack([wide.new_tensor(float(len(wide))), wide.sum()]))
        count, mean = float(sums[0]), float(sums[1] / sums[0].clamp(min=1))
        squares = self.add_up(((wide - mean) ** 2).sum())
        return count, mean, float(squares) / max(count, 1.0)

    def wait(self) -> None:
        """Until every process has come this far."""
        if self.count > 1:
            distributed.barrier()

    def any(self, flag: bool) -> bool:
        """Whether it holds in one of the processes at least."""
        if self.count == 1:
            return flag
        return bool(self.add_up(torch.tensor(float(flag))) > 0)


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
