"""Unlikelihood of a set of tokens from hidden states, against all logits at once."""

# B batch, S sequence, D model width, N penalised positions, V vocabulary, K token tables, T suppressed languages

from typing import Any

import pytest
import torch
from torch import Tensor

from sae_posttrain.training.sasft import unlikelihood
from sae_posttrain.training.sasft.head import LogitTransform
from sae_posttrain.training.sasft.unlikelihood import Positions, token_unlikelihood

B, S, D, V = 2, 5, 6, 17
TRANSFORMS = {
    "plain": LogitTransform(),
    "scaled": LogitTransform(scale=0.3),
    "soft-capped": LogitTransform(scale=2.0, softcap=3.0),
}


class Case:
    """Positions of a batch, with two suppressed languages; the second table is soft, and one position is of neither."""

    def __init__(self, dtype: torch.dtype = torch.float32, spread: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return (spread * torch.randn(shape, generator=generator)).to(dtype).requires_grad_()

        self.hidden_BSD, self.weight_VD, self.bias_V, self.after_DV = draw(B, S, D), draw(V, D), draw(V), draw(D, V)
        self.member_KV = torch.rand(3, V, generator=generator)
        self.member_KV[0] = (self.member_KV[0] > 0.7).float()
        self.positions = Positions(
            place_N=torch.tensor([0, 3, 4, 7, 8, 8]),
            table_NT=torch.tensor([[0, 1], [0, 2], [2, 1], [0, 0], [1, 2], [0, 1]]),
            weight_NT=torch.tensor([[1.0, 0.5], [0.0, 1.0], [2.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.3, 0.0]]),
        )

    @property
    def inputs(self) -> list[Tensor]:
        return [self.hidden_BSD, self.weight_VD, self.bias_V]

    def gradients(self, loss: Tensor, passed_BSD: Tensor) -> tuple[Tensor, ...]:
        """With what follows the hidden state, as the head does, and a factor as of the trainer's normalisation."""
        following = (passed_BSD @ self.after_DV).sin().sum()
        return torch.autograd.grad(0.7 * loss + following, [one for one in self.inputs if one.requires_grad])


def by_hand(case: Case, transform: LogitTransform) -> tuple[Tensor, Tensor]:
    """The loss and the masses from the logits of every position."""
    logits_EV = (case.hidden_BSD.float() @ case.weight_VD.float().T + case.bias_V.float()).flatten(0, 1)
    logits_EV = transform.scale * logits_EV
    if transform.softcap is not None:
        logits_EV = transform.softcap * torch.tanh(logits_EV / transform.softcap)
    chosen_NV = logits_EV[case.positions.place_N].double().softmax(-1)
    mass_NT = (chosen_NV[:, None] * case.member_KV[case.positions.table_NT]).sum(-1)
    return -((1 - mass_NT).log() * case.positions.weight_NT).sum(), mass_NT


@pytest.mark.parametrize("tile", [1, 2 * V, 1 << 20], ids=["a position at a time", "two", "all"])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_loss_masses_and_gradients(transform: LogitTransform, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlikelihood, "TILE", {"cpu": tile})
    case = Case()
    passed_BSD, loss, mass_NT = token_unlikelihood(*case.inputs, case.positions, case.member_KV, transform)
    expected, expected_NT = by_hand(case, transform)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert torch.allclose(mass_NT.double(), expected_NT, rtol=1e-4)
    assert torch.equal(passed_BSD, case.hidden_BSD)
    found, wanted = case.gradients(loss, passed_BSD), case.gradients(expected.float(), case.hidden_BSD)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_frozen_head_gets_no_gradient_and_is_not_kept() -> None:
    case = Case()
    case.weight_VD.requires_grad_(False)
    case.bias_V.requires_grad_(False)
    passed_BSD, loss, _ = token_unlikelihood(*case.inputs, case.positions, case.member_KV, LogitTransform())
    assert loss.grad_fn is not None
    assert getattr(loss.grad_fn, "head") is None  # noqa: B009
    expected, _ = by_hand(case, LogitTransform())
    (found,), (wanted,) = case.gradients(loss, passed_BSD), case.gradients(expected.float(), case.hidden_BSD)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("logit", "tolerance"), [(-20.0, 1e-4), (-9.0, 1e-4), (9.0, 1e-4), (20.0, 1e-4)])
def test_it_is_exact_for_small_and_for_large_masses(logit: float, tolerance: float) -> None:
    """At a mass of 1e-9, 1 − mass is 1 in float32, and its logarithm would be 0."""
    hidden_BSD = torch.tensor([[[1.0]]], requires_grad=True)
    weight_VD = torch.tensor([[logit], [0.0], [0.0]])
    positions = Positions(torch.tensor([0]), torch.tensor([[0]]), torch.tensor([[1.0]]))
    member_KV = torch.tensor([[1.0, 0.0, 0.0]])
    _, loss, _ = token_unlikelihood(hidden_BSD, weight_VD, None, positions, member_KV, LogitTransform())
    (gradient,) = torch.autograd.grad(loss, hidden_BSD)
    odds = torch.tensor(logit, dtype=torch.float64).exp() / 2
    assert float(loss.detach()) == pytest.approx(float(odds.log1p().detach()), rel=tolerance)
    assert float(gradient) == pytest.approx(logit * float(odds / (1 + odds)), rel=tolerance)


def test_no_position_costs_nothing_and_changes_nothing() -> None:
    case = Case()
    nowhere = Positions(torch.zeros(0, dtype=torch.long), torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 2))
    passed_BSD, loss, mass_NT = token_unlikelihood(*case.inputs, nowhere, case.member_KV, LogitTransform())
    assert (float(loss.detach()), mass_NT.shape) == (0.0, (0, 2))
    loss = loss + (passed_BSD @ case.after_DV).sin().sum()
    (gradient,) = torch.autograd.grad(loss, [case.hidden_BSD])
    (expected,) = torch.autograd.grad((case.hidden_BSD @ case.after_DV).sin().sum(), [case.hidden_BSD])
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("autocast", [False, True], ids=["pure", "autocast"])
def test_bfloat16_is_as_near_as_its_logits(autocast: bool) -> None:
    case, exact = Case(torch.float32 if autocast else torch.bfloat16), Case()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        passed_BSD, loss, _ = token_unlikelihood(*case.inputs, case.positions, case.member_KV, LogitTransform())
    found = torch.autograd.grad(loss, case.inputs)
    expected = torch.autograd.grad(by_hand(exact, LogitTransform())[0], exact.inputs)
    for ours, theirs, given in zip(found, expected, case.inputs, strict=True):
        assert ours.dtype == given.dtype
        assert 1e-5 < float((ours - theirs).norm() / theirs.norm()) < 0.03
    assert passed_BSD.dtype == case.hidden_BSD.dtype


def test_without_a_gradient_the_hidden_state_stays_the_same_object() -> None:
    case = Case()
    with torch.no_grad():
        passed_BSD, loss, _ = token_unlikelihood(*case.inputs, case.positions, case.member_KV, LogitTransform())
    assert passed_BSD is case.hidden_BSD
    assert float(loss.detach()) == pytest.approx(float(by_hand(case, LogitTransform())[0].detach()), rel=1e-5)


def test_logits_of_all_positions_are_never_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor larger than a tile, the head's weight or the hidden states, forwards or backwards."""
    vocabulary, width, count = 4096, 8, 512
    monkeypatch.setattr(unlikelihood, "TILE", {"cpu": 16 * vocabulary})
    hidden_BSD = torch.randn(1, count, width, requires_grad=True)
    weight_VD = torch.randn(vocabulary, width, requires_grad=True)
    positions = Positions(torch.arange(count), torch.zeros(count, 1, dtype=torch.long), torch.ones(count, 1))
    member_KV = (torch.rand(1, vocabulary) > 0.8).float()
    largest: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            largest.extend(one.numel() for one in torch.utils._pytree.tree_leaves(found) if isinstance(one, Tensor))
            return found

    with Watch():
        _, loss, _ = token_unlikelihood(hidden_BSD, weight_VD, None, positions, member_KV, LogitTransform())
        loss.backward()
    assert max(largest) == 16 * vocabulary < count * vocabulary
