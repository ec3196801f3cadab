"""What optimised codes must keep to, so that the quantizer chooses their scales again.

It divides a channel's largest weight, or sum of a pair (``pair_scales``), by 127. So the codes of
what is the largest are fixed, and no other code or sum of two may exceed 127.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mnv4_deploy.exporters.pair_scales import LARGEST_CODE, WeightGrid, k_order, partners


@dataclass(frozen=True)
class CodeLimits:
    """Limits of codes ``[G, O, n]``: G groups of O output channels with n weights each.

    ``pinned`` has the codes of what sets the scale, and NaN elsewhere. ``partners`` is the place
    of the code that each is added to, ``[n]``, n for none.
    """

    pinned: Tensor
    partners: Tensor

    @classmethod
    def of(cls, steps: Tensor, shape: torch.Size, weights: WeightGrid) -> CodeLimits:
        """Of the weights ``steps``, in units of their scales, of a layer's ``shape``."""
        count = steps.shape[2]
        largest = steps.abs().argmax(dim=2, keepdim=True)
        single = steps.gather(2, largest)
        free = torch.full_like(steps, torch.nan)
        pinned = free.scatter(2, largest, torch.round(single))
        if weights == "full" or count == 1:
            return cls(pinned, torch.full((count,), count))
        order = torch.from_numpy(k_order(shape))
        firsts, seconds = order[: count // 2 * 2].view(-1, 2).unbind(dim=1)
        sums = steps[..., firsts] + steps[..., seconds]
        pair = sums.abs().argmax(dim=2, keepdim=True)
        total, first = sums.gather(2, pair), firsts[pair]
        code = torch.round(steps.gather(2, first))
        both = free.scatter(2, first, code).scatter(2, seconds[pair], torch.round(total) - code)
        pinned = torch.where(total.abs() > single.abs(), both, pinned)
        return cls(pinned, torch.from_numpy(partners(shape)))

    def keep(self, codes: Tensor) -> Tensor:
        """``codes`` of nearest rounding, changed where a pair of them is beyond the limits."""
        codes = torch.where(self.pinned.isnan(), codes, self.pinned)
        least, most = codes_beside(functional.pad(codes, (0, 1))[..., self.partners])
        # One of the two gives way: the one that comes later.
        later = self.partners < torch.arange(len(self.partners))
        return torch.where(later, codes.clamp(least, most), codes)


def codes_beside(others: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest code that a partner's, 0 for none, leaves."""
    least = (-LARGEST_CODE - others).clamp(min=-LARGEST_CODE)
    return least, (LARGEST_CODE - others).clamp(max=LARGEST_CODE)
