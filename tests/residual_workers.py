"""What the processes of a distributed test run; a module of its own, so that spawned processes can import it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed
from tiny_models import BLOCKS, make, token_ids
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from sae_posttrain.residual import capture, decoder_blocks, text_config

Worker = Callable[[int], None]
RANKS = 2
LAYER = BLOCKS - 2


def run(rank: int, workers: Sequence[Worker], store: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    try:
        for worker in workers:
            worker(rank)
        # A process that leaves while its peer still talks to it takes the peer down.
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


def ddp(rank: int) -> None:
    base = make()
    check(DistributedDataParallel(base), rank)


def fsdp2(rank: int) -> None:
    base = make()
    mesh = init_device_mesh("cpu", (RANKS,))
    for block in decoder_blocks(base):
        fully_shard(block, mesh=mesh)
    check(fully_shard(base, mesh=mesh), rank)


def check(model: nn.Module, rank: int) -> None:
    """Each rank captures its own rows, and gradients are the mean over ranks: as one process finds both."""
    with capture(model, range(BLOCKS)) as residuals:
        logits = model(input_ids=token_ids(seed=rank)).logits
    expected, gradients = alone(rank)
    for layer in range(BLOCKS - 1):
        assert_close(residuals[layer], expected[layer])
    loss(logits, residuals[LAYER]).backward()
    block: Any = decoder_blocks(model)[0]
    parameter = block.mlp.down_proj.weight
    gradient = parameter.grad.full_tensor() if hasattr(parameter.grad, "full_tensor") else parameter.grad
    assert_close(gradient, torch.stack(gradients).mean(dim=0))
    assert text_config(model).num_hidden_layers == BLOCKS


def loss(logits: Tensor, residual: Tensor) -> Tensor:
    """A term on the output, as in training (DDP waits for every parameter), and one on a residual."""
    return logits.square().mean() + residual.square().sum()


def alone(rank: int) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """Of one process: this rank's block outputs, and one parameter's gradient for the rows of every rank."""
    outputs, gradients = [], []
    for seed in range(RANKS):
        model = make()
        output = model(input_ids=token_ids(seed=seed), output_hidden_states=True)
        states = output.hidden_states[1:]
        parameter = model.model.layers[0].mlp.down_proj.weight
        gradients += torch.autograd.grad(loss(output.logits, states[LAYER]), parameter)
        outputs.append(states)
    return outputs[rank], gradients
