"""Write prompts for stories, lists and explanations, on which a small chat model falls into loops now and then.

python recipes/real_weights/prompts.py --output real_weights/texts/story_prompts.jsonl
python recipes/real_weights/prompts.py --split held_out --count 400 --output real_weights/texts/held_out_prompts.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path

FORMS = (
    "Write a short story about {}.",
    "Tell me a story about {} for children.",
    "List twenty facts about {}.",
    "Write a list of ideas for a party about {}.",
    "Describe {} in detail.",
    "Write a poem about {}.",
    "Explain step by step how to take care of {}.",
    "Give me a long list of questions about {}.",
)
# No subject is in two splits: `train` is for discovery and training, `held_out` for the published figures alone.
SUBJECTS: dict[str, tuple[str, ...]] = {
    "train": (
        *("a lighthouse", "an old bicycle", "a garden in winter", "a lost key", "three brothers", "a small village"),
        *("a train at night", "the sea", "a clever cat", "a kitchen", "a mountain hut", "a paper boat"),
        *("a busy market", "an orchestra", "a desert", "a library", "a robot", "a bakery", "a school trip"),
        *("the first snow", "a tall tree", "a fisherman", "an island", "a museum", "a quiet street", "a river"),
        *("a broken clock", "a football team", "a letter", "a castle", "a rainy day", "a farm", "a bridge"),
        *("a painter", "a wedding", "a hospital", "a fox", "the moon", "a ferry", "a dance", "a tailor", "a storm"),
        *("a jar of honey", "a neighbour", "an airport", "a choir"),
    ),
    "calibration": ("a windmill", "a carpenter", "a parrot", "a birthday", "a tunnel", "the harvest"),
    "validation": (
        *("a sailor", "a circus", "a wooden chest", "a puppy", "a glacier", "a violin", "a picnic", "a lake"),
        *("a chess game", "a bus driver", "a campfire", "a rainbow"),
    ),
    "held_out": (
        *("a forest", "a teacher", "a red umbrella", "a horse", "a volcano", "a bookshop", "a baker's daughter"),
        *("a snowman", "a submarine", "a spider", "a grandmother", "a waterfall", "a piano", "a king", "a beach"),
        *("a treasure map", "a goldfish", "a balloon", "a cave", "a doctor", "a tent", "a rocket", "a rose garden"),
        *("a football match", "a ghost", "a candle", "a detective", "an elephant", "a mirror", "a theatre"),
        *("a swimming pool", "a postman", "an apple tree", "a thunderstorm", "a pair of shoes", "a monastery"),
        *("a turtle", "a photographer", "a hotel", "a drum", "an astronaut", "a canal", "a blacksmith", "a shadow"),
        *("a bee", "a tram", "a frozen pond", "a secret door", "a big city", "a donkey"),
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help=".jsonl file to write")
    parser.add_argument(
        "--split", choices=list(SUBJECTS), default="train", help="which subjects (default: %(default)s)"
    )
    parser.add_argument("--count", type=int, default=360, help="prompts at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of their order (default: %(default)s)")
    args = parser.parse_args(arguments)
    rows = [
        {"prompt": form.format(subject), "subject": subject} for form, subject in product(FORMS, SUBJECTS[args.split])
    ]
    random.Random(args.seed).shuffle(rows)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with args.output.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows[: args.count])


if __name__ == "__main__":
    main()
