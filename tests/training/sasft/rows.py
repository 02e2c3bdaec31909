"""The exactness rows of one process: every way to train that a user can choose."""

from typing import Any

import torch
from tiny_models import EXPERTS, IDS_IN_VOCABULARY, LINEAR_ATTENTION, QWEN_VISION, SIGLIP, TEXT
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from trl import SFTTrainer
from versions import GEMMA_3_AVERAGES_MEANS, TRL_NEEDS_ITS_OWN_LOGITS

from .exactness import Example, Row, adapted, answers, chats, streamed, texts
from .world import NUM_LAYERS, World, build_rows

# As the features want it, with weights so large that the auxiliary term can be seen.
SHAPE = {**TEXT, "num_hidden_layers": NUM_LAYERS, "initializer_range": 0.3}


def mixture(world: World) -> nn.Module:
    torch.manual_seed(1)
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE, **EXPERTS, output_router_logits=True))


def gemma3_multimodal(world: World) -> nn.Module:
    torch.manual_seed(1)
    images = {"image_token_index": 60, "boi_token_index": 61, "eoi_token_index": 62, "mm_tokens_per_image": 4}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config={**SHAPE, "sliding_window": 8}, vision_config=SIGLIP, **images)
    )


def qwen3_5_multimodal(world: World) -> nn.Module:
    torch.manual_seed(1)
    layers = ["linear_attention", "linear_attention", "full_attention"]  # the family puts every fourth in full
    text = {**SHAPE, **LINEAR_ATTENTION, "layer_types": layers}
    return Qwen3_5ForConditionalGeneration(
        Qwen3_5Config(text_config=text, vision_config=QWEN_VISION, **IDS_IN_VOCABULARY)
    )


def in_order(world: World) -> tuple[Any, list[Example]]:
    """What `wrapped` packing makes of the rows: one stream of tokens, cut anywhere."""
    dataset, examples = answers(world)
    ids = [token for example in examples for token in example[0]]
    labels = [label for example in examples for label in example[1]]
    codes = [example[2] for example in examples for _ in example[0]]
    cuts = range(0, len(ids), WRAPPED["max_length"])
    pieces = [slice(cut, cut + WRAPPED["max_length"]) for cut in cuts]
    return dataset, [(ids[piece], [-100, *labels[piece][1:]], codes[piece]) for piece in pieces]


class Noise:
    """NEFTune's noise, taken down while the trainer trains and added again while the reference is computed."""

    def __init__(self) -> None:
        self.of: dict[tuple[int, ...], Tensor] = {}

    def recorded(self, world: World) -> nn.Module:
        model = world.make_model()
        ids: list[Tensor] = []

        def keep(module: Any, args: Any, kwargs: Any) -> None:
            if not model.training:
                return
            for row, hidden in zip(ids[-1], args[0], strict=True):
                row = row[row != world.tokenizer.pad_token_id]
                embedded = model.model.embed_tokens.weight[row]
                self.of[tuple(row.tolist())] = (hidden[: len(row)] - embedded).detach()

        model.model.embed_tokens.register_forward_pre_hook(lambda module, args: ids.append(args[0]))
        model.model.layers[0].register_forward_pre_hook(keep, with_kwargs=True)
        return model

    def replayed(self, world: World) -> nn.Module:
        model = world.make_model()
        model.model.embed_tokens.register_forward_hook(
            lambda module, args, output: output + self.of[tuple(args[0][0].tolist())]
        )
        return model

    def was_heard(self, trainer: SFTTrainer) -> bool:
        return all(bool(noise.any()) for noise in self.of.values())


def summed_over_items(outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
    logits = outputs.logits[:, :-1].flatten(0, 1)
    return cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100, reduction="sum") / num_items_in_batch


def checkpoints(trainer: SFTTrainer) -> bool:
    return trainer.model.is_gradient_checkpointing


def packs(trainer: SFTTrainer) -> bool:
    return len(trainer.train_dataset) < len(build_rows())


def compiles(trainer: SFTTrainer) -> bool:
    return torch._dynamo.utils.counters["frames"]["ok"] > 0


def averages_means(trainer: SFTTrainer) -> bool:
    """The model declares that its loss takes no token count: every micro-batch takes the mean of its own tokens."""
    return not trainer.model_accepts_loss_kwargs


def learns_routing(trainer: SFTTrainer) -> bool:
    return trainer.state.log_history[0]["aux_loss"] > 0


TWO_STEPS = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
FOUR_STEPS = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
OWN_MEANS: dict[str, Any] = {
    "settings": {**FOUR_STEPS, "train_sampling_strategy": "sequential", "shuffle_dataset": False},
    "parts": 4,
    "meant": averages_means,
}
CHECKPOINTED = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
REENTRANT = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
COMPILED = {"torch_compile": True}
PACKED = {"packing": True, "max_length": 24}
WRAPPED: dict[str, Any] = {"packing": True, "packing_strategy": "wrapped", "max_length": 16, "shuffle_dataset": False}
NO_METRICS = "TRL before 1.15 fails without its own logits" if TRL_NEEDS_ITS_OWN_LOGITS else ""
NO_BOUNDARY = {"with_callback": "no boundary between examples"}
NOISE = Noise()
ROWS: dict[str, Row] = {
    "plain": Row(),
    "accumulation of 2": Row(TWO_STEPS),
    "accumulation of 4": Row(FOUR_STEPS),
    "checkpointing": Row(CHECKPOINTED, meant=checkpoints),
    "checkpointing, reentrant": Row(REENTRANT, meant=checkpoints),
    "LoRA": Row(make=adapted()),
    "LoRA, checkpointing": Row(CHECKPOINTED, adapted(), meant=checkpoints),
    "LoRA, checkpointing, reentrant": Row(REENTRANT, adapted(), meant=checkpoints),
    "DoRA": Row(make=adapted(use_dora=True)),
    "LoRA, modules_to_save": Row(make=adapted(modules_to_save=["embed_tokens"])),
    "packing bfd": Row({**PACKED, "packing_strategy": "bfd"}, meant=packs),
    "packing bfd, accumulation": Row({**PACKED, "packing_strategy": "bfd", **FOUR_STEPS}, meant=packs),
    "packing bfd_split": Row({**PACKED, "packing_strategy": "bfd_split"}, meant=packs),
    "packing wrapped": Row(WRAPPED, data=in_order, refused=NO_BOUNDARY),
    "padding-free": Row({"padding_free": True, "max_length": None}, meant=lambda trainer: trainer.padding_free),
    "completion-only loss": Row({"completion_only_loss": True}),
    "assistant-only loss": Row({"assistant_only_loss": True}, data=chats),
    "full-sequence loss": Row(data=texts),
    "loss_type dft": Row({"loss_type": "dft"}),
    "loss_type dft, accumulation": Row({"loss_type": "dft", **FOUR_STEPS}),
    "label smoothing": Row({"label_smoothing_factor": 0.1}, broken=NO_METRICS),
    "compute_loss_func, accumulation": Row({"compute_loss_func": summed_over_items, **FOUR_STEPS}, broken=NO_METRICS),
    "NEFTune": Row({"neftune_noise_alpha": 5.0}, NOISE.recorded, make_reference=NOISE.replayed, meant=NOISE.was_heard),
    "torch_compile, eager": Row({"torch_compile": True, "torch_compile_backend": "eager"}, meant=compiles),
    "torch_compile, inductor": Row(
        {"torch_compile": True, "torch_compile_backend": "inductor"}, slow=True, meant=compiles
    ),
    "mixture of experts, router loss": Row(make=mixture, meant=learns_routing),
    "mixture of experts, accumulation": Row(FOUR_STEPS, mixture, meant=learns_routing),
    "multimodal Gemma-3 on text": Row(make=gemma3_multimodal),
    "multimodal Gemma-3 on text, accumulation": Row(
        make=gemma3_multimodal, **OWN_MEANS if GEMMA_3_AVERAGES_MEANS else {"settings": FOUR_STEPS}
    ),
    "multimodal Qwen3.5 on text": Row(make=qwen3_5_multimodal, louder=10),
    "multimodal Qwen3.5 on text, accumulation": Row(make=qwen3_5_multimodal, louder=10, **OWN_MEANS),
    "streamed dataset": Row({"shuffle_dataset": False}, data=streamed),
}
