"""Write prompts for stories, lists and explanations, on which a small chat model falls into loops now and then.

python recipes/real_weights/prompts.py --output real_weights/prompts.jsonl
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
SUBJECTS = (
    *("a lighthouse", "an old bicycle", "a garden in winter", "a lost key", "three brothers", "a small village"),
    *("a train at night", "the sea", "a clever cat", "a kitchen", "a mountain hut", "a paper boat", "a busy market"),
    *("an orchestra", "a desert", "a library", "a robot", "a bakery", "a school trip", "the first snow", "a tall tree"),
    *("a fisherman", "an island", "a museum", "a quiet street", "a river", "a broken clock", "a football team"),
    *("a letter", "a castle", "a rainy day", "a farm", "a bridge", "a painter", "a wedding", "a hospital", "a fox"),
    *(
        "the moon",
        "a ferry",
        "a dance",
        "a tailor",
        "a storm",
        "a jar of honey",
        "a neighbour",
        "an airport",
        "a choir",
    ),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help=".jsonl file to write")
    parser.add_argument("--count", type=int, default=360, help="prompts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of their order (default: %(default)s)")
    args = parser.parse_args(arguments)
    prompts = [form.format(subject) for form, subject in product(FORMS, SUBJECTS)]
    random.Random(args.seed).shuffle(prompts)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with args.output.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts[: args.count])


if __name__ == "__main__":
    main()
