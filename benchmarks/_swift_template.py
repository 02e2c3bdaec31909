"""The lab's chat format as a plugin for ms-swift, whose `--template sae_posttrain_lab` it then is."""

from swift.template import TemplateMeta, register_template

register_template(
    TemplateMeta(
        "sae_posttrain_lab",
        prefix=[],
        prompt=["<|user|>{{QUERY}}<|end|><|assistant|>"],
        chat_sep=["<|end|>"],
        suffix=["<|end|>"],
    )
)
