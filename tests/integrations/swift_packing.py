"""A plugin for ms-swift: packing with any attention.

ms-swift packs with Flash Attention only, which needs a GPU. On a CPU the attention of torch keeps packed examples apart
too, since transformers makes a mask from the positions. Everything else is ms-swift's own.
"""

from swift.arguments import SftArguments


def allow(self: SftArguments) -> None:
    self.padding_free = self.padding_free or self.packing


SftArguments._check_padding_free = allow
