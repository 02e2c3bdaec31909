"""Diagnosis in a world with a planted cause, its ranking and its ablation against arithmetic by hand, and the command.

The blocks of the model write nothing, so that a token's residual is its embedding. One direction makes the head say
`bad`; the embeddings of `bad` and of `t…` words have it, those of `g…` words do not.
"""

# S sequence, D model width, K dictionary size, V vocabulary

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sae_posttrain import FeatureSet
from sae_posttrain.artefacts import DIAGNOSIS
from sae_posttrain.cli import main
from sae_posttrain.cli.diagnose import NOT_PROVED, _rows
from sae_posttrain.inspection import diagnose
from sae_posttrain.inspection.diagnose_answers import ProofSettings
from sae_posttrain.inspection.diagnose_cases import (
    Case,
    EncodedCase,
    SwitchFault,
    TextFault,
    encode_cases,
)
from sae_posttrain.inspection.diagnose_features import Diagnosis
from sae_posttrain.inspection.diagnose_proof import prove_causes
from sae_posttrain.inspection.diagnose_tokens import FirstTokens
from sae_posttrain.metrics import SwitchCriteria
from sae_posttrain.sae import SparseAutoencoder
from sae_posttrain.sae.activations import ReLU
from sae_posttrain.sampling import SamplingSettings
from sae_posttrain.steering import typical_contributions

WIDTH, LAYER, CULPRIT = tiny_models.WIDTH, 2, 4
TRIGGERS, FINE = [f"t{n}" for n in range(12)], [f"g{n}" for n in range(12)]
FAULT = TextFault("bad")
BAD = [Case(f"{one} {one}", f"{one} bad bad", fault=(len(one) + 1, len(one) + 8)) for one in TRIGGERS]
GOOD = [Case(f"{one} {one}", f"{one} {one} {one}") for one in FINE]
SETTINGS = ProofSettings(SamplingSettings(0.0, 1.0, 3), alpha=3.0, controls=2, batch_size=50)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_models.word_tokenizer(["bad", *TRIGGERS, *FINE], "<pad>", "<end>")


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    made = tiny_models.qwen3(len(tokenizer), tie_word_embeddings=False)
    with torch.no_grad():
        for block in made.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        words_VD, head_VD = made.get_input_embeddings().weight, made.get_output_embeddings().weight
        words_VD.normal_(generator=torch.Generator().manual_seed(1))
        words_VD[:, 0] = 0.0
        head_VD.copy_(words_VD)
        bad = tokenizer.convert_tokens_to_ids("bad")
        words_VD[[bad, *tokenizer.convert_tokens_to_ids(TRIGGERS)], 0] = 6.0
        head_VD[bad] = 0.0
        head_VD[bad, 0] = 20.0
    return made


@pytest.fixture(scope="module")
def saes() -> dict[int, SparseAutoencoder]:
    """One feature reads and writes the planted direction; the others read random ones without it."""
    encoder_KD = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(3)) / WIDTH**0.5
    encoder_KD[:, 0] = 0.0
    encoder_KD[CULPRIT] = torch.eye(WIDTH)[0]
    return {
        LAYER: SparseAutoencoder(encoder_KD, torch.zeros(8), encoder_KD, torch.zeros(WIDTH), ReLU(), LAYER),
    }


@pytest.fixture(scope="module")
def found(model: Any, tokenizer: Any, saes: Any) -> Diagnosis:
    return diagnose(
        *(model, tokenizer, saes, BAD, GOOD), fault=FAULT, layers=[LAYER], top=2, proof=SETTINGS, progress=False
    )


def residuals(model: Any, ids: Any) -> Tensor:
    with torch.no_grad():
        states = model(torch.tensor([list(ids)]), output_hidden_states=True).hidden_states
    residual_SD: Tensor = states[LAYER + 1][0]
    return residual_SD


def test_the_ranking_is_that_of_a_count_by_hand(found: Diagnosis, model: Any, tokenizer: Any, saes: Any) -> None:
    means = []
    for cases in (BAD, GOOD):
        of_case = []
        for case in encode_cases(tokenizer, cases, chat=False, max_length=64):
            first, last = (case.fault[0] - 1, case.fault[1]) if case.fault else (case.start, len(case.ids))
            of_case.append(saes[LAYER].encode(residuals(model, case.ids)[first:last]).mean(0))
        means.append(torch.stack(of_case).mean(0))
    score_K = means[0] - means[1]
    assert found.suspects[0].feature == CULPRIT == int(score_K.argmax())
    for one in found.suspects:
        assert one.score == pytest.approx(float(score_K[one.feature]), abs=1e-5)
        assert one.fault == pytest.approx(float(means[0][one.feature]), abs=1e-5)
    assert "".join(text for text, _ in found.suspects[0].pieces).strip().endswith("bad bad")


def test_ablating_the_cause_cures_and_amplifying_it_breaks(found: Diagnosis) -> None:
    assert found.proof is not None
    assert (found.proof.before.hits, found.proof.before.total) == (12, 12)
    culprit = next(trial for trial in found.proof.trials if trial.members == ((LAYER, CULPRIT),))
    other = next(trial for trial in found.proof.trials if len(trial.members) == 1 and trial != culprit)
    together = found.proof.trials[-1]
    one, all_of_them, another = culprit.answers, together.answers, other.answers
    assert one is not None
    assert all_of_them is not None
    assert another is not None
    assert one.ablated.hits == all_of_them.ablated.hits == 0
    assert one.random_ablated.hits == one.random_ablated.total == 24
    assert another.ablated.hits == 12
    assert one.dense_ablated is not None
    assert one.dense_ablated.hits == 0  # the triggers differ from good words in the planted direction alone
    assert one.amplified is not None
    assert one.random_amplified is not None
    assert one.amplified.hits == 12
    assert one.random_amplified.rate < 0.5
    assert culprit.is_cause
    assert culprit.corrected_p == pytest.approx(3 * culprit.p_value)
    assert not other.verdict
    assert found.features is not None
    assert [layer.ids for layer in found.features.layers] == [(CULPRIT,)]
    assert found.features.targets == ("fault",)
    assert found.features.layers[0].threshold is not None


def test_the_ablation_is_that_of_the_equation(found: Diagnosis, model: Any, tokenizer: Any) -> None:
    """x' = x − d at the token before the fault, through the final norm and the head."""
    assert found.proof is not None
    trial = found.proof.trials[-1]
    direction_D = typical_contributions(found.ranked)[LAYER]
    before, after = 0.0, 0.0
    for case in encode_cases(tokenizer, BAD, chat=False, max_length=64):
        assert case.fault is not None
        first = case.fault[0]
        residual_D = residuals(model, case.ids[:first])[-1]
        embedded_D = model.get_input_embeddings().weight[case.ids[first - 1]]
        for number, state_D in enumerate((embedded_D, embedded_D - direction_D)):
            logits_V = model.get_output_embeddings()(model.model.norm(state_D))
            probability = float(logits_V.softmax(-1)[case.ids[first]].detach())
            before, after = (before + probability, after) if number == 0 else (before, after + probability)
        assert residual_D.shape == direction_D.shape
    assert found.proof.probability == pytest.approx(before / len(BAD), rel=1e-4)
    assert trial.token.left == pytest.approx(after / before, rel=1e-4)
    assert trial.token.left < 0.1 < min(trial.token.random_left)


def test_a_cause_is_proved_without_sampling(model: Any, tokenizer: Any, saes: Any) -> None:
    """Each feature alone, beside 20 random directions and the difference of means."""
    settings = ProofSettings(by="probability", members=("each",))
    how: dict[str, Any] = {"fault": FAULT, "layers": [LAYER], "proof": settings, "progress": False}
    found = diagnose(*(model, tokenizer, saes, BAD, GOOD), top=2, **how)
    assert found.proof is not None
    assert found.proof.before is None
    assert (found.proof.controls, found.proof.cases) == (20, 12)
    culprit = next(trial for trial in found.proof.trials if trial.members == ((LAYER, CULPRIT),))
    (other,) = (trial for trial in found.proof.trials if trial != culprit)
    assert culprit.is_cause
    assert culprit.token.lower == 1.0
    assert len(culprit.token.random_left) == 20
    assert culprit.token.dense_left == pytest.approx(culprit.token.left, abs=0.05)
    assert culprit.p_value == max(culprit.token.over_cases, culprit.token.over_draws)
    assert not other.verdict
    assert "has a mean probability of" in found.table()
    (given,) = found.ranked.layers
    other_alone = replace(found.ranked, layers=(given.take([given.ids.index(other.members[0][1])]),))
    again = diagnose(*(model, tokenizer, saes, BAD, GOOD), suspects=other_alone, **how)
    assert [one.feature for one in again.suspects] == [other.members[0][1]]
    assert again.features is None
    few = diagnose(*(model, tokenizer, saes, BAD[:3], GOOD), top=1, **how)
    assert few.proof is not None
    assert few.proof.trials[0].verdict == "hint"
    assert few.features is not None


def test_a_switch_is_read_by_all_tokens_of_its_script(model: Any, tokenizer: Any, saes: Any) -> None:
    """Of a tokenizer with two Han words, both count; in good answers, the probability of both is read too."""
    words = tokenizer.backend_tokenizer.to_str().replace('"bad"', '"坏"').replace('"g3"', '"好"')
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(words), pad_token="<pad>")
    bad = [Case(f"{one} {one}", f"{one} 坏 坏", "en", (len(one) + 1, len(one) + 4)) for one in TRIGGERS]
    good = [Case(f"{one} {one}", f"{one} {one}", "en") for one in FINE if one != "g3"]
    encoded, fine = (encode_cases(tokenizer, some, chat=False, max_length=64) for some in (bad, good))
    fault = SwitchFault(SwitchCriteria(to="zh"), "zh")
    found = diagnose(
        *(model, tokenizer, saes, bad, good),
        **{"fault": fault, "layers": [LAYER], "top": 1, "progress": False},
        proof=ProofSettings(SamplingSettings(1.3, 1.0, 3), by="probability"),
    )
    assert found.proof is not None
    han = tokenizer.convert_tokens_to_ids(["坏", "好"])
    with torch.no_grad():
        logits = [model(torch.tensor([list(one.ids)])).logits[0, one.fault[0] - 1] for one in encoded if one.fault]
    by_hand = [float((logits_V / 1.3).softmax(-1)[han].sum()) for logits_V in logits]
    assert found.proof.probability == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-4)
    (trial,) = found.proof.trials
    assert trial.is_cause
    assert trial.token.raised is not None
    assert trial.token.random_raised is not None
    assert trial.token.raised >= max(trial.token.random_raised)
    read = FirstTokens.of(model, tokenizer, fault, 1.3).after_good(fine, encoded, [found.ranked], 1.0)
    assert read is not None
    assert len(read[0]) == len(read[1]) == len(good)


def test_the_beginning_of_a_bad_response_serves_where_there_is_no_good_one(
    model: Any, tokenizer: Any, saes: Any
) -> None:
    cases = [Case("g1 g2", "g3 g4 g5 bad bad", fault=(9, 16))]
    found = diagnose(*(model, tokenizer, saes, cases), fault=FAULT, layers=[LAYER], top=1, proof=None, progress=False)
    assert [one.feature for one in found.suspects] == [CULPRIT]
    assert found.proof is None
    assert found.good == 0
    with pytest.raises(ValueError, match="Give good cases"):
        diagnose(
            *(model, tokenizer, saes, [Case("g1", "bad", fault=(0, 3))]), fault=FAULT, layers=[LAYER], progress=False
        )
    with pytest.raises(ValueError, match="none of 1 answers to 1 bad cases"):
        diagnose(*(model, tokenizer, saes, cases), fault=FAULT, layers=[LAYER], proof=SETTINGS, progress=False)


def test_a_case_without_a_prompt_cannot_be_proved(model: Any, tokenizer: Any, found: Diagnosis) -> None:
    case = EncodedCase(Case(None, "x"), (5, 6), 0, (1, 2))
    with pytest.raises(ValueError, match="A case has no prompt"):
        prove_causes(model, tokenizer, found.ranked, TextFault("x"), [case], [])
    at_the_start = EncodedCase(Case(None, "x"), (5, 6), 0, (0, 1))
    with pytest.raises(ValueError, match="at the first token"):
        prove_causes(model, tokenizer, found.ranked, TextFault("x"), [at_the_start], [])


@pytest.fixture(scope="module")
def place(model: Any, tokenizer: Any, saes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, the SAE as a file of the Qwen-Scope layout, and cases."""
    folder = tmp_path_factory.mktemp("place")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "SAE-tiny-L0_8").mkdir()
    sae = saes[LAYER]
    tensors = {"W_enc": sae.encoder, "W_dec": sae.decoder.T.contiguous(), "b_enc": sae.bias, "b_dec": sae.decoder_bias}
    torch.save(tensors, folder / "SAE-tiny-L0_8" / f"layer{LAYER}.sae.pt")
    rows = [{"prompt": one.prompt, "response": one.response} for one in (*BAD, *GOOD)]
    (folder / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_the_command_on_a_file_of_cases(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run" / "diagnosis.json"
    command = ["diagnose", "--model", str(place / "model"), "--sae", str(place / "SAE-tiny-L0_8"), "--no-chat"]
    command += ["--cases", str(place / "cases.jsonl"), "--fault-text", "bad", "--top", "2", "--alpha", "3"]
    assert main([*command, "--controls", "2", "--max-new-tokens", "3", "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "12 bad and 12 good answers." in shown
    assert f"layer {LAYER} feature {CULPRIT}" in shown
    assert json.loads(output.read_text(encoding="utf-8"))[DIAGNOSIS]["kept"] == [[LAYER, CULPRIT]]
    features = FeatureSet.load(output.with_suffix(".safetensors"))
    assert features.layers[0].ids == (CULPRIT,)
    other = next(one for one in range(8) if one != CULPRIT)
    suspects = tmp_path / "suspects.safetensors"
    replace(features, layers=(replace(features.layers[0], ids=(other,)),)).save(suspects)
    innocent = [*command, "--suspects", str(suspects), "--controls", "2", "--max-new-tokens", "3"]
    assert main([*innocent, "--output", str(output)]) == NOT_PROVED
    shown = capsys.readouterr().out
    assert "no feature set was written" in shown
    assert f"Removed {output.with_suffix('.safetensors')}, which an earlier run wrote" in shown
    assert not output.with_suffix(".safetensors").exists()


def test_the_language_given_is_that_of_rows_without_one(tmp_path: Path) -> None:
    rows = [{"response": "a", "language": "fr"}, {"response": "b"}, {"response": "c", "language": ""}]
    file = tmp_path / "cases.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = {"cases": str(file), **dict.fromkeys(("against", "prompt", "response")), "no_proof": False}
    found, _ = _rows(Namespace(**given, language="en", prove_by="auto"))
    assert [row["language"] for row in found] == ["fr", "en", "en"]


def test_the_command_on_one_case(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "diagnosis.json"
    command = ["diagnose", "--model", str(place / "model"), "--sae", str(place / "SAE-tiny-L0_8"), "--no-chat"]
    command += ["--output", str(output)]
    one = [*command, "--prompt", "g1 g2", "--response", "g3 g4 bad bad"]
    assert main([*one, "--fault-text", "bad", "--no-proof"]) == 0
    assert FeatureSet.load(output.with_suffix(".safetensors")).layers[0].ids[0] == CULPRIT
    assert main([*one, "--fault-text", "bad", "--top", "1", "--prove-by", "probability"]) == NOT_PROVED
    assert "a hint, not a proof" in capsys.readouterr().out
    for wrong, message in (
        (one, "Name the faulty words with --fault-text"),
        ([*command, "--response", "bad"], "--response needs --prompt"),
        (command, "or --cases with a file"),
        ([*command, "--cases", "cases.jsonl", "--prompt", "g1"], "--prompt belongs to --response"),
        ([*one, "--fault-text", "missing"], "None of 1 answers has the fault"),
        ([*one, "--fault-text", "bad", "--output", str(tmp_path / "a.txt")], "ending in .json"),
    ):
        capsys.readouterr()
        assert main(wrong) == 2
        assert message in capsys.readouterr().err
