"""A SASFT run that is killed in the middle of it: `python -m training.sasft.killed_run FOLDER ROUTE [SETTING…]`."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from trl import SFTTrainer

from sae_posttrain.training.sasft import refresh, weight

from .routes import with_callback, with_trainer
from .world import build_world

ROUTES = {route.__name__: route for route in (with_callback, with_trainer)}
SETTINGS = {
    **{"optim": "adamw_torch", "learning_rate": 1e-2, "max_steps": 8, "per_device_train_batch_size": 3},
    **{"save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2},
}
KILLED_AT = 5


class Kill(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)


def make_trainer(folder: Path, route: str, weight: Any = 0.5, **settings: Any) -> SFTTrainer:
    """Dropout is on, so that a resumed run must find its random numbers too."""
    world = build_world(folder)
    model = world.make_model(attention_dropout=0.2)
    return world.run(ROUTES[route], model=model, weight=weight, **{**SETTINGS, **settings})


if __name__ == "__main__":
    refresh.MIN_TOKENS, weight.FEWEST = 1, 2  # the test's own process has them patched
    trainer = make_trainer(Path(sys.argv[1]), sys.argv[2], **json.loads(sys.argv[3]))
    trainer.add_callback(Kill())
    trainer.train()
