"""Temperature and top-p without sorting the vocabulary: the same tokens as in transformers, from the largest logits.

transformers sorts the whole vocabulary at every step, which takes longer than a small model's forward pass when there
are 262,000 tokens. The nucleus is nearly always among the 1,024 largest logits, and finding those takes linear time.
"""

# B batch, V vocabulary, K the largest logits

from __future__ import annotations

from torch import Tensor
from transformers import LogitsProcessor
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

LARGEST = 1024
# transformers compares sums of float32 probabilities, whose error is far below this margin. When a sum is within the
# margin of top_p, transformers' own sort decides.
MARGIN = 1e-5


class Nucleus(LogitsProcessor):
    """Divides by the temperature and keeps the nucleus, with the same result as transformers' two processors.

    Rows whose nucleus exceeds the `largest` logits, ends within `margin` of top_p, or ends between two equal logits go
    through transformers' own sort.

    Args:
        temperature: above 0.
        top_p: above 0 and below 1.
        largest: how many of the largest logits are used.
        margin: the smallest distance between top_p and a sum of probabilities at which the sort is not needed.

    Source: arXiv:1904.09751, section 3.1.
    """

    def __init__(self, temperature: float, top_p: float, *, largest: int = LARGEST, margin: float = MARGIN) -> None:
        self.scale = TemperatureLogitsWarper(float(temperature)) if temperature != 1 else None
        self.sort = TopPLogitsWarper(top_p)
        self.top_p, self.largest, self.margin = top_p, largest, margin

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scaled_BV = scores if self.scale is None else self.scale(input_ids, scores)
        if scaled_BV.shape[-1] <= 2 * self.largest:
            sorted_BV: Tensor = self.sort(input_ids, scaled_BV)
            return sorted_BV
        smallest_B1, sure_B = self._smallest_kept(scaled_BV)
        kept_BV = scaled_BV.masked_fill(scaled_BV < smallest_B1, self.sort.filter_value)
        if not bool(sure_B.all()):
            unsure_B = ~sure_B
            kept_BV[unsure_B] = self.sort(input_ids, scaled_BV[unsure_B])
        return kept_BV

    def _smallest_kept(self, scaled_BV: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest logit of each row's nucleus `(B, 1)`, and whether the sort would certainly find the same."""
        largest_BK = scaled_BV.topk(self.largest, dim=-1).values
        chance_BK = (largest_BK.double() - scaled_BV.logsumexp(dim=-1, keepdim=True).double()).exp()
        summed_BK = chance_BK.cumsum(dim=-1)
        # A token is kept if the tokens before it sum to less than top_p; the most probable token is always kept.
        kept_B1 = (summed_BK < self.top_p).sum(dim=-1, keepdim=True).clamp(max=self.largest - 2)
        smallest_B1 = largest_BK.gather(1, kept_B1)
        clear_B = ((summed_BK - self.top_p).abs() > self.margin).all(dim=-1)
        reached_B = summed_BK.gather(1, kept_B1).squeeze(1) > self.top_p
        alone_B = (largest_BK.gather(1, kept_B1 + 1) < smallest_B1).squeeze(1)
        return smallest_B1, clear_B & reached_B & alone_B
