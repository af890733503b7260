"""Dropout that is cheap on any processor."""

import torch
from torch import Tensor, nn

LEVELS = 2**16  # the chance of keeping a number is a whole number of these


class Dropout(nn.Dropout):
    """As torch's (Srivastava et al. 2014, inverted), which draws one number after another on
    processors other than Intel's: a sixth of a step of the head. Here each number drawn decides
    about four."""

    def forward(self, features: Tensor) -> Tensor:
        if not self.training or not self.p or features.device.type != "cpu":
            return super().forward(features)
        kept = max(round((1 - self.p) * LEVELS), 1)
        return features * draw_mask(features.shape, kept).to(features.dtype).mul_(LEVELS / kept)


def draw_mask(shape: torch.Size, kept: int) -> Tensor:
    """Booleans of this shape, each true with a chance of `kept` in 65,536, from torch's global
    generator."""
    n = shape.numel()
    bits = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None)
    return (bits.view(torch.int16)[:n] < kept - LEVELS // 2).view(shape)
