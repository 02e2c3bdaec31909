"""Does SASFT halve code-switching in ms-swift too, at no more than 1% higher held-out loss, by its own command line?

    python benchmarks/lab_ms_swift.py [--base FOLDER]

Run it where ms-swift is installed, such as in `.nox/swift`. Seed 0 of `lab_sasft.py`, whose settings it takes;
everything else is ms-swift's default: full-parameter training with reentrant checkpointing and `logits_to_keep`, AdamW
with a weight decay of 0.1. With --base it takes the base model and SAEs of an earlier `sae-posttrain demo`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from _lab_effect import LANGUAGE, SEED, SETTINGS, arguments, measure_effect

from sae_posttrain.integrations import ms_swift

TEMPLATE = Path(__file__).with_name("_swift_template.py")


def train(base: Path, data: Path, features: Path | None, output: Path) -> Path:
    """One run of `swift sft`."""
    given = {
        "model": base,
        "model_type": "qwen3",
        "template": "sae_posttrain_lab",
        "dataset": data,
        "columns": '{"language": "channel"}',
        "split_dataset_ratio": 0,
        "tuner_type": "full",
        "torch_dtype": "float32",
        "use_cpu": "true",
        "learning_rate": SETTINGS.learning_rate,
        "warmup_steps": 20,
        "per_device_train_batch_size": SETTINGS.batch,
        "gradient_accumulation_steps": 1,
        "max_steps": SETTINGS.steps,
        "save_steps": SETTINGS.steps,
        "save_only_model": "true",
        "seed": SEED,
        "check_model": "false",
        "report_to": "none",
        "add_version": "false",
        "output_dir": output,
    }
    plugins, environment = [TEMPLATE], {**os.environ, "MODELSCOPE_CACHE": str(output.parent / "cache")}
    if features is not None:
        plugins.append(Path(ms_swift.__file__))
        given["callbacks"] = "sasft"
        environment |= {"SASFT_FEATURES": str(features), "SASFT_SUPPRESS": LANGUAGE}
        environment |= {"SASFT_WEIGHT": str(SETTINGS.weight), "SASFT_SCALE": SETTINGS.scale}
    options = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    command = [str(Path(sys.executable).with_name("swift")), "sft", *options, "--external_plugins", *map(str, plugins)]
    with output.with_suffix(".log").open("w", encoding="utf-8") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=log)
    if done.returncode:
        sys.exit(output.with_suffix(".log").read_text(encoding="utf-8")[-4000:])
    return output / f"checkpoint-{SETTINGS.steps}"


if __name__ == "__main__":
    measure_effect("lab_ms_swift", "ms-swift", train, arguments(__doc__).base)
