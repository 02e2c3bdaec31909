"""Model cards that say how a model was trained, in every folder that a trainer of this package saves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Trainer as _Trainer
else:
    _Trainer = object


def default_output_dir(model: Any, method: str) -> str:
    """`<model>-<method>`, the folder that TRL uses for a trainer without `args`.

    Args:
        model: the model, or the name or folder that it is loaded from.
        method: what follows the model's name, such as `SASFT`.
    """
    name = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "")
    return f"{name.rstrip('/').split('/')[-1]}-{method}"


class CardMixin(_Trainer):
    """Base class before a TRL trainer. It writes a model card with the trainer's `_name`, `_tag_names` and `_paper`.

    TRL writes a card only with a checkpoint, so a run without checkpoints would have none. PEFT writes an empty
    template into every folder without a card to which it saves an adapter.
    """

    _name: str
    _tag_names: list[str]
    _paper: dict[str, str]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        folder = Path(output_dir or str(self.args.output_dir))
        if folder == Path(str(self.args.output_dir)) or (folder / "README.md").exists():
            self._write_card(folder)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        super().create_model_card(*args, **kwargs)
        model: Any = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if self.is_world_process_zero() and hasattr(model, "create_or_update_model_card"):
            model.create_or_update_model_card(self.args.output_dir)  # adds the adapter's library, tags and base model

    def _write_card(self, folder: Path) -> None:
        name = (self.args.hub_model_id or Path(str(self.args.output_dir)).name).split("/")[-1]
        place = self.args.output_dir
        self.args.output_dir = str(folder)  # TRL writes its card to output_dir only
        try:
            self.create_model_card(model_name=name)
        finally:
            self.args.output_dir = place

    def _use_card_of(self, trainer: type) -> None:
        """State the name, tags and paper of TRL's own trainer, for a run in which nothing of this package is active."""
        plain: Any = trainer
        self._name, self._tag_names, self._paper = plain._name, plain._tag_names, plain._paper
