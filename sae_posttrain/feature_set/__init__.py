"""FeatureSet: the few SAE features that training needs, in one file that is small enough for an e-mail."""

# D model width, F features of one layer

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi

from .. import __version__
from .card import card_of, public_name, short_name
from .checks import active_elsewhere, check_tensors
from .file import FILE_NAME, file_bytes, find_feature_file, read_file
from .layer import LayerFeatures

__all__ = ["FeatureSet", "LayerFeatures", "Provenance"]


@dataclass(frozen=True)
class Provenance:
    """Where a feature set came from: enough to reproduce it, and to reject a model that it does not fit."""

    base_model: str
    d_model: int
    num_layers: int
    sae: str
    sae_sha256: Mapping[str, str]
    """SAE file → its hash: `layer3.sae.pt`, or `layer3/sae.safetensors` where the name does not say the layer."""
    texts_sha256: str
    selection: str
    """`monolinguality`, `repetition contrast`, `contrast of activation`, …, or `random` for the control."""
    library_version: str = __version__


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Selected SAE features of one or more layers. Discovery writes a feature set, and training reads it.

    Args:
        layers: the selected features of each layer.
        provenance: the model, SAE files and texts that the features were found with.
        alpha: calibrated strength for steering, in units of typical strength; None if it was not calibrated.

    Example:
        >>> features = FeatureSet.load("features.safetensors")
        >>> print(features.summary())
        >>> features.select(["zh"], top=2).save("features-zh.safetensors")

    Source: our own file format; the baselines are those of arXiv:2507.14894.
    """

    layers: tuple[LayerFeatures, ...]
    provenance: Provenance
    alpha: float | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets of the features, sorted: languages, or `repetition`."""
        return tuple(sorted({target for layer in self.layers for target in layer.targets}))

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages for which baselines were measured, sorted."""
        return tuple(sorted({code for layer in self.layers for code in layer.baselines}))

    @property
    def groups(self) -> tuple[str, ...]:
        """The languages or kinds of text in which mean activations were measured, sorted."""
        return tuple(sorted({group for layer in self.layers for group in layer.activations}))

    def select(
        self, targets: Iterable[str] | None = None, *, layers: Iterable[int] | None = None, top: int | None = None
    ) -> FeatureSet:
        """Some of the features; layers left without any are dropped.

        Args:
            targets: what the features stand for: languages, or `repetition`. Default: all.
            layers: decoder blocks. Default: all.
            top: features per target and layer, the first ones, which discovery ranked highest. Default: all.

        Returns:
            A feature set. It keeps the calibrated alpha unless `layers` or `top` left out features of the targets.

        Raises:
            ValueError: a target or a layer has no features, no feature has both, or `top` is below 1.

        Example:
            >>> features.select(["zh"], layers=[14, 16], top=2).save("features-zh.safetensors")
        """
        wanted = self.targets if targets is None else tuple(sorted(set(targets)))
        missing = [target for target in wanted if target not in self.targets]
        if missing:
            raise ValueError(
                f"No feature stands for {', '.join(missing)}: this set has {', '.join(self.targets) or 'none'}. Run "
                f"`sae-posttrain discover language` with texts in {', '.join(missing)}."
            )
        there = [layer.layer for layer in self.layers]
        kept = set(there if layers is None else layers)
        if not kept <= set(there):
            raise ValueError(f"No features of layers {sorted(kept - set(there))}: this set has layers {there}.")
        if top is not None and top < 1:
            raise ValueError(f"top must be at least 1, got {top}.")
        whole = [layer.select(wanted) for layer in self.layers]
        found = [layer.first(top) for layer in whole if layer.layer in kept]
        if wanted and not any(layer.ids for layer in found):
            of = [layer.layer for layer in whole if layer.ids]
            raise ValueError(f"No feature of layers {sorted(kept)} stands for {', '.join(wanted)}; layers {of} have.")
        fewer = sum(len(layer.ids) for layer in found) < sum(len(layer.ids) for layer in whole)
        return replace(self, layers=tuple(layer for layer in found if layer.ids), alpha=None if fewer else self.alpha)

    def active_elsewhere(self) -> tuple[str, ...]:
        """One sentence for each feature that is also active in texts without its target.

        A language feature should not be active in other languages, and a repetition feature not in ordinary text.
        Features that were drawn at random are not checked.
        """
        selection = self.provenance.selection
        return () if selection == "random" else tuple(active_elsewhere(self.layers, selection))

    def check_model(self, config: Any, name: str | None = None) -> None:
        """Check that the features can belong to a model; warn if only its name differs.

        Args:
            config: the transformers configuration of the model to train.
            name: the name that the model was loaded by. Default: the name in its configuration.

        Raises:
            ValueError: the model has another width or another number of layers.
        """
        text = config.get_text_config()
        source = self.provenance
        if text.hidden_size != source.d_model or text.num_hidden_layers != source.num_layers:
            raise ValueError(
                f"These features were found in {source.base_model} ({source.num_layers} layers of width "
                f"{source.d_model}), but the model has {text.num_hidden_layers} layers of width {text.hidden_size}. "
                "Discover features for this model."
            )
        name = name or getattr(config, "_name_or_path", "")
        if name and short_name(name) != short_name(source.base_model):
            warnings.warn(
                f"These features were found in {source.base_model}, and the model is {name}. Its shape fits, so "
                "they are used: features of a base model mostly carry over to its post-trained checkpoints. If it is "
                "another model altogether, discover features for it.",
                stacklevel=2,
            )

    def summary(self) -> str:
        """A table: each feature, what it stands for, its score, and its mean activation in every group of texts.

        Where thresholds were measured, it also shows them, and how often they disagree with the SAE.
        """
        told = any(layer.threshold is not None for layer in self.layers)
        header = ["layer", "feature", "for", "score", "typical", *(["threshold", "disagree"] if told else [])]
        header += self.groups
        rows = [
            [str(layer.layer), str(layer.ids[f]), layer.targets[f], f"{layer.score[f]:.3f}", f"{layer.typical[f]:.3f}"]
            + (list(layer.told(f)) if told else [])
            + [f"{layer.activations[group][f]:.3f}" if group in layer.activations else "" for group in self.groups]
            for layer in self.layers
            for f in range(len(layer.ids))
        ]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]
        ]
        return "\n".join(lines)

    def save(self, path: str | Path) -> Path:
        """Write one `.safetensors` file. The same features always give the same bytes.

        Raises:
            ValueError: `load` could not read it, for example because a number is not finite.
        """
        path = Path(path)
        check_tensors(self.layers, self.provenance, self.alpha, f"{path} was not written")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file_bytes(self))
        return path

    @property
    def sha256(self) -> str:
        """Hash of the file that `save` writes. The same features have the same hash."""
        return hashlib.sha256(file_bytes(self)).hexdigest()

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Upload the file and a model card to the Hugging Face hub, and return the address of the commit.

        Args:
            repo_id: the repository; created if it does not exist.
            private: whether a new repository is private. Default: the account's or organisation's setting.
            token: the access token. Default: the one that is logged in.
        """
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        source = self.provenance
        public = replace(source, base_model=public_name(source.base_model), sae=public_name(source.sae))
        published = replace(self, provenance=public)
        with TemporaryDirectory() as folder:
            published.save(Path(folder) / FILE_NAME)
            card_of(published).save(Path(folder) / "README.md")
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload feature set"))

    @property
    def disagreement(self) -> float | None:
        """Mean over the features of how often threshold and SAE disagree; None where it was not measured."""
        measured = [layer.disagreement for layer in self.layers if layer.disagreement is not None]
        shares = [share for one in measured for share in one.tolist()]
        return sum(shares) / len(shares) if shares else None

    @classmethod
    def of(cls, features: FeatureSet | str | Path) -> FeatureSet:
        """Return a feature set unchanged, or load it from the file, folder or repository with that name."""
        return features if isinstance(features, FeatureSet) else cls.load(features)

    @classmethod
    def load(cls, source: str | Path, *, revision: str | None = None) -> FeatureSet:
        """Read a file, a folder that holds `features.safetensors`, or a Hugging Face repository.

        Raises:
            FileNotFoundError: there is no such file, and no such repository that can be reached.
            ValueError: the file is not a feature set, is damaged, or was written by a newer version.
        """
        path = find_feature_file(source, revision)
        loaded = cls(*read_file(path))
        check_tensors(loaded.layers, loaded.provenance, loaded.alpha, f"{path} is damaged")
        return loaded
