"""Classifiers of pictures without training by steps: what every network is held against."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MajorityClass(nn.Module):
    """The shares of the classes, the same for every picture: popularity's place among pictures."""

    log_shares: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("log_shares", torch.zeros(classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits float32 [B, classes]; images [B, side, side] are not looked at."""
        return (images * 0).sum(dim=(1, 2)).unsqueeze(1) + self.log_shares.unsqueeze(0)


class ClassMeans(nn.Module):
    """The class whose mean picture is nearest, by the squared distance over all pixels."""

    means: Tensor
    variance: Tensor

    def __init__(self, classes: int, *, side: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(classes, side * side))
        self.register_buffer("variance", torch.ones(1))  # of a picture around its class's mean

    def forward(self, images: Tensor) -> Tensor:
        """Return logits float32 [B, classes] from images float32 [B, side, side]."""
        lengths = (self.means * self.means).sum(dim=1)
        return (images.flatten(1) @ self.means.t() - 0.5 * lengths) / self.variance
