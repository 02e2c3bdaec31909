"""Features read in a block's hook, where the residual passes: what follows may do anything to it."""

# B batch, S sequence, D model width, F features

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from sae_posttrain.residual import hook_residuals
from sae_posttrain.training.sasft.reading import read_features

B, S, D, F = 2, 3, 4, 2


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    residual_BSD, rows_FD, weight_D = (torch.randn(shape, generator=generator) for shape in ((B, S, D), (F, D), (D,)))
    return residual_BSD.to(dtype).requires_grad_(), rows_FD.to(dtype), weight_D.to(dtype).requires_grad_()


def late(residual_BSD: Tensor, rows_FD: Tensor) -> tuple[Tensor, Tensor]:
    """The plain way."""
    return residual_BSD, linear(residual_BSD, rows_FD)


def scaled_in_place(passed_BSD: Tensor, weight_D: Tensor) -> Tensor:
    passed_BSD[:, 1] *= 2
    passed_BSD += 1
    return (passed_BSD * weight_D).sin().sum()


FOLLOWING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a product": lambda passed_BSD, weight_D: (passed_BSD * weight_D).sin().sum(),
    "an edit in place": scaled_in_place,
    "an expanded gradient": lambda passed_BSD, weight_D: passed_BSD.sum() * weight_D.sum(),
    "a transposed gradient": lambda passed_BSD, weight_D: (passed_BSD.transpose(0, 2).contiguous().sin()).sum(),
    "nothing": lambda passed_BSD, weight_D: weight_D.sum(),
}


@pytest.mark.parametrize("following", FOLLOWING.values(), ids=FOLLOWING)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float16, 1e-2), (torch.bfloat16, 1e-1)]
)
def test_gradients_are_those_of_the_plain_way(
    following: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    gradients = []
    for read in (read_features, late):
        residual_BSD, rows_FD, weight_D = inputs(dtype)
        passed_BSD, read_BSF = read(1 * residual_BSD, rows_FD)
        (following(passed_BSD, weight_D) + read_BSF.square().sum()).backward()
        gradients.append((residual_BSD.grad, weight_D.grad))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_gradients_of_gradients() -> None:
    def once(residual_BSD: Tensor) -> Tensor:
        passed_BSD, read_BSF = read_features(residual_BSD, inputs()[1])
        return passed_BSD.pow(3).sum() + read_BSF.pow(3).sum()

    assert torch.autograd.gradgradcheck(once, inputs()[0])


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(D, dtype=torch.float64))

    def forward(self, residual_BSD: Tensor) -> tuple[Tensor, str]:
        return (residual_BSD @ self.weight).sin(), "something else"


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])

    def forward(self, residual_BSD: Tensor, checkpointed: bool) -> Tensor:
        for block in self.layers:
            residual_BSD, _ = (
                checkpoint(block, residual_BSD, use_reentrant=False) if checkpointed else block(residual_BSD)
            )
        return residual_BSD.square().sum()


@pytest.mark.parametrize("checkpointed", [False, True])
def test_in_a_block_whose_hooks_lie_inside_a_checkpoint(checkpointed: bool) -> None:
    """The second run of a checkpoint does not read: the engine's loss is long made by then."""
    gradients, rows_FD = [], inputs()[1]
    for read in (read_features, late):
        residual_BSD = inputs()[0]
        model = Decoder()
        found: dict[Any, Any] = {}

        def see(layer: int, passed_BSD: Tensor, read: Callable = read, found: dict = found) -> Tensor | None:  # type: ignore[type-arg]
            if layer in found:
                return None
            passed_BSD, found[layer] = read(passed_BSD, rows_FD)
            return passed_BSD

        hook_residuals(model, [0, 1], see)
        loss = model(residual_BSD, checkpointed and read is read_features)
        (loss + sum(one.square().sum() for one in found.values())).backward()
        gradients.append([residual_BSD.grad, *(parameter.grad for parameter in model.parameters())])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
