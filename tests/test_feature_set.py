"""Feature sets survive a file, refuse what they do not fit, and say what is wrong with a damaged one."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config, Qwen3Config

from sae_posttrain import FeatureSet
from sae_posttrain.feature_set import LayerFeatures, Provenance, file
from sae_posttrain.feature_set.card import card_of
from sae_posttrain.feature_set.file import file_bytes


@pytest.fixture
def features() -> FeatureSet:
    def layer(number: int) -> LayerFeatures:
        return LayerFeatures(
            layer=number,
            ids=(7, 3, 11),
            targets=("zh", "zh", "ko"),
            encoder=torch.randn(3, 8),
            bias=torch.randn(3),
            direction=torch.randn(3, 8),
            score=torch.rand(3),
            typical=torch.rand(3) + 1,
            baselines={"ko": torch.randn(3), "zh": torch.randn(3), "en": torch.randn(3)},
            activations={"ko": torch.rand(3), "zh": torch.rand(3), "en": torch.rand(3)},
        )

    provenance = Provenance("owner/tiny-base", 8, 4, "owner/SAE-L0_4", {"layer2.sae.pt": "ab"}, "cd", "monolinguality")
    return FeatureSet((layer(2), layer(3)), provenance)


def rewrite(path: Path, tensors: dict[str, Any] | None = None, **description: Any) -> None:
    """Change a saved file's tensors or description."""
    with safe_open(path, "pt") as opened:
        known = json.loads(opened.metadata()["sae_posttrain"])
    save_file({**load_file(path), **(tensors or {})}, path, {"sae_posttrain": json.dumps({**known, **description})})


def test_a_file_gives_back_what_was_saved(features: FeatureSet, tmp_path: Path) -> None:
    loaded = FeatureSet.load(features.save(tmp_path / "deep" / "features.safetensors"))
    assert loaded.provenance == features.provenance
    for ours, theirs in zip(loaded.layers, features.layers, strict=True):
        assert (ours.layer, ours.ids, ours.targets) == (theirs.layer, theirs.ids, theirs.targets)
        for name in ("encoder", "bias", "direction", "score", "typical"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))
        for name in ("baselines", "activations"):
            for code, values in getattr(theirs, name).items():
                assert torch.equal(getattr(ours, name)[code], values)
    assert FeatureSet.load(tmp_path / "deep").summary() == features.summary()


def test_tensors_that_share_memory_are_saved(features: FeatureSet, tmp_path: Path) -> None:
    """As of an SAE whose decoder is its encoder transposed, or of languages that were given one tensor."""
    layer = features.layers[0]
    block = torch.randn(4, 8)
    same = layer.baselines["en"]
    tied = replace(
        layer, encoder=block[:3], direction=block[1:], baselines={"ko": same, "zh": same[:], "en": same}, bias=same
    )
    apart = replace(
        tied,
        encoder=block[:3].clone(),
        direction=block[1:].clone(),
        baselines={code: same.clone() for code in ("ko", "zh", "en")},
        bias=same.clone(),
    )
    saved = replace(features, layers=(tied,))
    loaded = FeatureSet.load(saved.save(tmp_path / "features.safetensors"))
    assert torch.equal(loaded.layers[0].direction, block[1:])
    assert saved.sha256 == loaded.sha256 == replace(features, layers=(apart,)).sha256


def test_alpha_survives_the_file_and_is_stated(features: FeatureSet, tmp_path: Path) -> None:
    calibrated = replace(features, alpha=2.5)
    assert FeatureSet.load(calibrated.save(tmp_path / "features.safetensors")).alpha == 2.5
    assert calibrated.select(["ko"]).alpha == 2.5
    assert calibrated.sha256 != features.sha256
    assert "Calibrated alpha: 2.5" in card_of(calibrated).text
    assert "alpha" not in card_of(features).text


def test_a_file_from_before_alpha_is_read_and_written_as_it_was(features: FeatureSet, tmp_path: Path) -> None:
    path = features.save(tmp_path / "features.safetensors")
    with safe_open(path, "pt") as opened:
        description = json.loads(opened.metadata()["sae_posttrain"])
    assert description.keys() == {"format", "provenance", "layers"}
    assert description["layers"][0].keys() == {"layer", "ids", "targets", "languages"}
    assert FeatureSet.load(path).alpha is None


def test_activations_of_texts_that_are_no_languages(features: FeatureSet, tmp_path: Path) -> None:
    def of_repetition(layer: LayerFeatures) -> LayerFeatures:
        groups = {"last period": torch.rand(3), "ordinary text": torch.rand(3)}
        return replace(layer, targets=("repetition",) * 3, baselines={}, activations=groups)

    layers = tuple(map(of_repetition, features.layers))
    repetition = replace(features, layers=layers)
    loaded = FeatureSet.load(repetition.save(tmp_path / "features.safetensors"))
    assert torch.equal(loaded.layers[0].activations["ordinary text"], layers[0].activations["ordinary text"])
    assert loaded.languages == ()
    assert loaded.groups == ("last period", "ordinary text")
    assert loaded.summary() == repetition.summary()
    assert "ordinary text" in loaded.summary()
    card: Any = card_of(repetition)
    assert card.data.language is None
    assert "baselines" not in card.text


def test_selecting_keeps_rows_together(features: FeatureSet) -> None:
    selected = features.select(["ko"])
    assert selected.targets == ("ko",)
    for ours, all_of in zip(selected.layers, features.layers, strict=True):
        assert ours.ids == (11,)
        assert torch.equal(ours.encoder, all_of.encoder[2:])
        assert torch.equal(ours.baselines["en"], all_of.baselines["en"][2:])
    with pytest.raises(ValueError, match="No feature stands for ru: this set has ko, zh"):
        features.select(["ru", "zh"])


def test_the_summary_lists_every_feature(features: FeatureSet) -> None:
    lines = features.summary().splitlines()
    assert lines[0].split() == ["layer", "feature", "for", "score", "typical", "en", "ko", "zh"]
    assert len(lines) == 1 + 6
    assert lines[1].split()[:3] == ["2", "7", "zh"]


class TestModels:
    def test_one_that_fits(self, features: FeatureSet) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            features.check_model(Qwen3Config(hidden_size=8, num_hidden_layers=4), name="elsewhere/tiny-base")

    def test_a_multimodal_one_is_judged_by_its_text(self, features: FeatureSet) -> None:
        text = {"hidden_size": 8, "num_hidden_layers": 4}
        features.check_model(Gemma3Config(text_config=text), name="tiny-base")

    @pytest.mark.parametrize("change", [{"hidden_size": 16}, {"num_hidden_layers": 5}])
    def test_another_shape(self, features: FeatureSet, change: dict[str, int]) -> None:
        config = Qwen3Config(**{"hidden_size": 8, "num_hidden_layers": 4, **change})
        with pytest.raises(ValueError, match="Discover features for this model"):
            features.check_model(config)

    def test_another_name_is_a_warning_with_the_reason(self, features: FeatureSet) -> None:
        config = Qwen3Config(hidden_size=8, num_hidden_layers=4)
        with pytest.warns(UserWarning, match="they are used: features of a base model mostly carry over"):
            features.check_model(config, name="owner/tiny-instruct")


class TestDamage:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="discover"):
            FeatureSet.load(tmp_path / "features.safetensors")

    @pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 100])
    def test_not_safetensors(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "features.safetensors"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a feature set, or is damaged"):
            FeatureSet.load(path)

    def test_a_git_lfs_pointer(self, tmp_path: Path) -> None:
        path = tmp_path / "features.safetensors"
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n", "utf-8")
        with pytest.raises(ValueError, match="run `git lfs pull`"):
            FeatureSet.load(path)

    def test_truncated(self, features: FeatureSet, tmp_path: Path) -> None:
        path = features.save(tmp_path / "features.safetensors")
        path.write_bytes(path.read_bytes()[:-50])
        with pytest.raises(ValueError, match="not a feature set, or is damaged"):
            FeatureSet.load(path)

    def test_another_safetensors_file(self, tmp_path: Path) -> None:
        save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match="not a feature set"):
            FeatureSet.load(tmp_path / "model.safetensors")

    def test_a_newer_format(self, features: FeatureSet, tmp_path: Path) -> None:
        path = features.save(tmp_path / "features.safetensors")
        rewrite(path, format=99)
        with pytest.raises(ValueError, match="format 99; this version reads 1"):
            FeatureSet.load(path)

    @pytest.mark.parametrize(
        "tensors",
        [
            {"2.encoder": torch.ones(3, 9)},
            {"2.bias": torch.full((3,), float("nan"))},
            {"3.typical": torch.zeros(3)},
            {"3.baselines.en": torch.ones(2)},
        ],
    )
    def test_wrong_numbers(self, tensors: dict[str, Any], features: FeatureSet, tmp_path: Path) -> None:
        path = features.save(tmp_path / "features.safetensors")
        rewrite(path, tensors)
        with pytest.raises(ValueError, match="is damaged"):
            FeatureSet.load(path)

    @pytest.mark.parametrize("alpha", [float("inf"), "2"])
    def test_an_alpha_that_is_no_number(self, alpha: Any, features: FeatureSet, tmp_path: Path) -> None:
        path = features.save(tmp_path / "features.safetensors")
        rewrite(path, alpha=alpha)
        with pytest.raises(ValueError, match="is damaged: alpha"):
            FeatureSet.load(path)

    @pytest.mark.parametrize("numbers", [(2, 4), (-1, 3), (3, 3)])
    def test_impossible_layers(self, numbers: tuple[int, int], features: FeatureSet, tmp_path: Path) -> None:
        moved = (replace(layer, layer=number) for layer, number in zip(features.layers, numbers, strict=True))
        path = tmp_path / "features.safetensors"
        path.write_bytes(file_bytes(replace(features, layers=tuple(moved))))
        with pytest.raises(ValueError, match="is damaged: it has layers"):
            FeatureSet.load(path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"direction": torch.full((3, 8), float("nan"))}, "direction of layer 2"),
            ({"typical": torch.zeros(3)}, "one positive typical activation"),
            ({"layer": 4}, "layers"),
        ],
    )
    def test_what_could_not_be_loaded_is_not_saved(
        self, change: dict[str, Any], message: str, features: FeatureSet, tmp_path: Path
    ) -> None:
        path = tmp_path / "features.safetensors"
        with pytest.raises(ValueError, match=f"was not written: .*{message}"):
            replace(features, layers=(replace(features.layers[0], **change),)).save(path)
        assert not path.exists()

    def test_a_description_without_a_layer(self, features: FeatureSet, tmp_path: Path) -> None:
        path = features.save(tmp_path / "features.safetensors")
        rewrite(path, layers=[{"layer": 9, "ids": [1], "targets": ["zh"], "languages": ["en"]}])
        with pytest.raises(ValueError, match="not a feature set, or is damaged"):
            FeatureSet.load(path)


class TestHub:
    def test_a_repository_is_asked_for_one_file(
        self, features: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = features.save(tmp_path / "features.safetensors")
        asked = []

        def download(repo: str, name: str, revision: str | None = None) -> str:
            asked.append((repo, name, revision))
            return str(path)

        monkeypatch.setattr(file, "hf_hub_download", download)
        assert FeatureSet.load("owner/features", revision="v1").summary() == features.summary()
        assert asked == [("owner/features", "features.safetensors", "v1")]

    @pytest.mark.parametrize("source", ["owner/no-such-features", "~no-such-user/features"])
    def test_a_repository_out_of_reach(self, source: str) -> None:
        with pytest.raises(FileNotFoundError, match="neither a file nor a Hugging Face repository"):
            FeatureSet.load(source)

    def test_pushing_uploads_the_file_and_a_card(self, features: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
        uploaded: dict[str, bytes] = {}

        def upload(self: Any, *, repo_id: str, folder_path: str, **kwargs: Any) -> str:
            uploaded.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir()})
            return f"https://example.org/{repo_id}"

        monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, repo_id, **kwargs: None)
        monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
        assert features.push_to_hub("owner/features") == "https://example.org/owner/features"
        card: Any = huggingface_hub.ModelCard(uploaded["README.md"].decode())
        assert card.data.base_model == "owner/tiny-base"
        assert card.data.language == ["ko", "zh"]
        for stated in ("owner/SAE-L0_4", "monolinguality", features.summary()):
            assert stated in card.text
        assert set(uploaded) == {"README.md", "features.safetensors"}

    def test_local_paths_are_not_published(self, features: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
        uploaded: dict[str, bytes] = {}

        def upload(self: Any, *, folder_path: str, **kwargs: Any) -> str:
            uploaded.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir()})
            return ""

        monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, repo_id, **kwargs: None)
        monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
        provenance = replace(features.provenance, base_model="/home/me/models/tiny", sae="../saes/SAE-L0_4")
        replace(features, provenance=provenance).push_to_hub("owner/features")
        described: Any = huggingface_hub.ModelCard(uploaded["README.md"].decode()).data
        assert described.base_model is None
        for content in uploaded.values():
            assert b"/home/me" not in content
            assert b"../saes" not in content
            assert b"SAE-L0_4" in content
