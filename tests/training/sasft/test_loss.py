"""The loss and its tables against arithmetic by hand."""

import torch

from sae_posttrain import FeatureSet
from sae_posttrain.training.sasft.loss import Penalty, build_penalty, sasft_loss
from sae_posttrain.training.sasft.segments import language_id


def test_the_loss_of_numbers_done_by_hand() -> None:
    pre_BSF = torch.tensor([[[2.0, -1.0], [5.0, 0.0], [9.0, 9.0]]])
    baseline_LF = torch.tensor([[1.0, -2.0], [0.0, 0.0], [0.0, 0.0]])
    weight_LF = torch.tensor([[0.5, 1.0], [1.0, 0.0], [0.0, 0.0]])
    language_BS = torch.tensor([[0, 1, -1]])
    labelled_BS = torch.tensor([[True, True, True]])
    # token 0: .5*(2-1) + 1*(-1+2); token 1: 1*5 + 0; token 2: no known language
    assert sasft_loss(pre_BSF, baseline_LF, weight_LF, language_BS, labelled_BS) == 6.5
    labelled_BS = torch.tensor([[True, False, True]])
    assert sasft_loss(pre_BSF, baseline_LF, weight_LF, language_BS, labelled_BS) == 1.5


def test_a_relative_lends_its_baseline(features: FeatureSet) -> None:
    penalty = build_penalty(features.layers[0], ["zh"], "mean", "raw")
    for relative, lender in (("uk", "ru"), ("cs", "en")):  # cs by way of pl
        assert torch.equal(penalty.baseline_LF[language_id(relative)], penalty.baseline_LF[language_id(lender)])
        assert penalty.known_L[language_id(relative)]


def test_a_relative_of_the_suppressed_language_is_exempt_like_it(features: FeatureSet) -> None:
    for baseline in ("mean", "zero"):
        assert not build_penalty(features.layers[0], ["zh"], baseline, "raw").weight_LF[language_id("yue")].any()
    assert build_penalty(features.layers[0], ["ru"], "mean", "raw").weight_LF[language_id("yue")].all()


def test_a_language_without_a_baseline_is_penalised_against_zero_only(features: FeatureSet) -> None:
    thai = language_id("th")
    mean = build_penalty(features.layers[0], ["zh"], "mean", "raw")
    assert not mean.weight_LF[thai].any()
    assert not mean.known_L[thai]
    zero = build_penalty(features.layers[0], ["zh"], "zero", "raw")
    assert zero.weight_LF[thai].all()
    assert not zero.baseline_LF.any()


def test_typical_scale_divides_by_the_typical_activation(features: FeatureSet) -> None:
    layer = features.layers[0]
    raw, typical = (build_penalty(layer, ["zh"], "mean", scale) for scale in ("raw", "typical"))
    english = language_id("en")
    assert torch.allclose(typical.weight_LF[english], raw.weight_LF[english] / layer.typical[:2])
    assert raw.weight_LF[english].tolist() == [0.5, 0.5]
    assert raw.weight_LF[language_id("zh")].tolist() == [0, 0]
    assert raw.weight_LF[-1].tolist() == [0, 0]


def test_what_stands_at_positions_that_do_not_count_is_never_read() -> None:
    pre_BSF = torch.tensor([[[float("nan")], [2.0]]], requires_grad=True)
    ones_LF = torch.ones(2, 1)
    loss = sasft_loss(pre_BSF, 0 * ones_LF, ones_LF, torch.tensor([[0, 0]]), torch.tensor([[False, True]]))
    loss.backward()
    assert loss == 2.0
    assert pre_BSF.grad is not None
    assert pre_BSF.grad.flatten().tolist() == [0.0, 1.0]


def test_half_precision_shifts_no_feature() -> None:
    """A channel of thousands, as real residual streams have, times a rounded row would move every token's reading."""
    torch.manual_seed(0)
    residual_BSD = torch.randn(1, 512, 256)
    residual_BSD[..., 7] = 4096.0
    exact_bf16 = residual_BSD.bfloat16()
    encoder_FD, zeros = 0.05 * torch.randn(32, 256), torch.zeros(1, 32)
    penalty = Penalty(0, encoder_FD, zeros[0], zeros, zeros, zeros[:, 0].bool(), zeros)
    exact_BSF = exact_bf16.float() @ encoder_FD.T
    offset_F = (penalty.read(exact_bf16)[1] - exact_BSF).mean((0, 1)).abs()
    rounded_F = (exact_bf16.float() @ encoder_FD.bfloat16().float().T - exact_BSF).mean((0, 1)).abs()
    assert offset_F.max() < 0.2 * rounded_F.max()
