"""What several commands load: a model to generate with."""

from __future__ import annotations

from typing import Any


def load_model(name: str, adapter: str | None = None, dtype: str = "auto") -> tuple[Any, Any]:
    """A causal model, with a PEFT adapter or without, on this process's device, and its tokenizer.

    Raises:
        FileNotFoundError: neither a folder nor a repository that can be reached.
        ValueError: an adapter, and peft is not installed.
    """
    from accelerate import PartialState
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
        if adapter:
            try:
                from peft import PeftModel
            except ImportError as error:
                raise ValueError('--adapter needs peft: pip install "sae-posttrain[peft]"') from error
            model = PeftModel.from_pretrained(model, adapter)
    except OSError as error:
        raise FileNotFoundError(f"cannot load {adapter or name}: {error}") from error
    return model.to(PartialState().device), tokenizer
