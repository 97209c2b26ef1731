"""A small residual network that names the class of a grey picture."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

SHRINKS = 4  # each axis of the picture, by the two strides


class _Convolution(nn.Sequential):
    """3x3 convolution, batch normalisation, ReLU."""

    def __init__(self, channels: int, made: int, stride: int = 1) -> None:
        convolution = nn.Conv2d(channels, made, 3, stride=stride, padding=1, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(made), nn.ReLU())


class _Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _Convolution(channels, channels)
        self.second = _Convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, H, W], as it came in."""
        return x + self.second(self.first(x))


class PictureNet(nn.Module):
    """Stem, then twice a halving, residual blocks after each, then a weighted sum over places.

    `widths` are the channels of the picture at full, half and quarter side, `blocks` how many residual
    blocks there are of each.

    Catalogue pictures are centred, so that places differ in what they tell: each channel learns
    its own weights of them where global average pooling has equal ones.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        classes: int,
        *,
        side: int,
        widths: Sequence[int],
        blocks: Sequence[int] = (0, 1, 1),
        mirrored: bool = False,
    ) -> None:
        super().__init__()
        stem, middle, last = widths
        at_full, at_half, at_quarter = blocks
        self.mirrored = mirrored  # the mean over the picture and its mirror image is served
        self.trunk = nn.Sequential(
            _Convolution(1, stem),
            *(_Residual(stem) for _ in range(at_full)),
            _Convolution(stem, middle, stride=2),
            *(_Residual(middle) for _ in range(at_half)),
            _Convolution(middle, last, stride=2),
            *(_Residual(last) for _ in range(at_quarter)),
        )
        places = -(-side // SHRINKS)
        self.places = nn.Parameter(torch.full((last, places, places), 1 / places**2))
        self.head = nn.Linear(last, classes)
        self.register_buffer("shift", torch.zeros(1))  # mean and deviation of the train period
        self.register_buffer("scale", torch.ones(1))

    def logits(self, images: Tensor) -> Tensor:
        """Return [B, classes] of images [B, side, side] as they stand."""
        x = self.trunk(((images - self.shift) / self.scale).unsqueeze(1))
        return self.head((x * self.places).sum(dim=(2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits float32 [B, classes] from images float32 [B, side, side], 0 to 1."""
        if self.mirrored and not self.training:
            return 0.5 * (self.logits(images) + self.logits(images.flip(2)))
        return self.logits(images)


def folded(model: nn.Module) -> nn.Module:
    """Return a copy whose batch normalisations are part of the convolutions before them.

    The same function up to rounding, and half the operators for a server to run.
    """
    copied = copy.deepcopy(model).eval()
    for module in copied.modules():
        if isinstance(module, _Convolution):
            convolution, norm = cast("nn.Conv2d", module[0]), cast("nn.BatchNorm2d", module[1])
            module[0] = fuse_conv_bn_eval(convolution, norm)
            module[1] = nn.Identity()
    return copied
