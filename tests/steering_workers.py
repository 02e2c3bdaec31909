"""What the processes of a distributed steering test run; a module of its own, so that spawned ones can import it."""

from __future__ import annotations

import torch
from residual_workers import RANKS, run
from tiny_models import WIDTH, make, token_ids
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from sae_posttrain import steer
from sae_posttrain.residual import decoder_blocks, unwrap

__all__ = ["RANKS", "run"]


def ddp(rank: int) -> None:
    check(DistributedDataParallel(make()), rank)


def fsdp2(rank: int) -> None:
    base = make()
    mesh = init_device_mesh("cpu", (RANKS,))
    for block in decoder_blocks(base):
        fully_shard(block, mesh=mesh)
    check(fully_shard(base, mesh=mesh), rank)


def check(model: nn.Module, rank: int) -> None:
    """One row of the first rank is steered, none of the second: as one process finds both."""
    mask = torch.tensor([rank == 0, False, False])
    expected, plain = steered(make(), rank, mask), steered(make(), rank, mask & False)
    assert torch.equal(steered(model, rank, mask), expected)
    assert (expected != plain).any(dim=1).tolist() == mask.tolist()


def steered(model: nn.Module, rank: int, mask: Tensor) -> Tensor:
    direction_D = torch.randn(WIDTH, generator=torch.Generator().manual_seed(5))
    with steer(model, {1: direction_D}, rows=mask):
        return unwrap(model).generate(token_ids(seed=rank), max_new_tokens=5, eos_token_id=None, pad_token_id=0)
