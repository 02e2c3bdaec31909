"""`python -m sae_posttrain`, and `accelerate launch -m sae_posttrain`."""

import sys

from .cli import main

sys.exit(main())
