"""The small network that defects are planted in: the operators of a mobile classifier."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

SIZE = 64
CLASSES = 10
MANY_CLASSES = 1000


class _Norm(nn.Sequential):
    """Convolution and batch norm, as ``conv`` and ``bn``, then ReLU."""

    def __init__(
        self, source: int, target: int, kernel: int, *, stride: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        groups = source if kernel == 3 and source == target else 1
        self.conv = nn.Conv2d(
            source, target, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(target)
        if relu:
            self.relu = nn.ReLU()


class _Bottleneck(nn.Module):
    def __init__(self, source: int, middle: int, target: int, *, stride: int = 1) -> None:
        super().__init__()
        self.expand = _Norm(source, middle, 1)
        self.depthwise = _Norm(middle, middle, 3, stride=stride)
        self.project = _Norm(middle, target, 1, relu=False)
        self.residual = source == target and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class _PaddedPool(nn.Module):
    """Max-pooling of ReLU's result behind an explicit Pad, whose constant no window chooses."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(functional.pad(x, (1, 1, 1, 1), value=-0.5), 3, 2)


class _Gate(nn.Module):
    """Scales every channel by a sigmoid of all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.logits = nn.Conv2d(channels, channels, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.sigmoid(self.logits(x.mean((2, 3), keepdim=True)))
        return out


class PlantedNet(nn.Module):
    """``[N, 3, 64, 64]`` to ``[N, 10]``, 18 layers of which 9 have weights.

    With ``probabilities`` it ends in a softmax of a thousand classes.
    """

    def __init__(self, *, probabilities: bool = False) -> None:
        super().__init__()
        self.stem = _Norm(3, 16, 3, stride=2)
        self.pool = _PaddedPool()
        self.block1 = _Bottleneck(16, 48, 16)
        self.block2 = _Bottleneck(16, 64, 24, stride=2)
        self.gate = _Gate(24)
        self.head = _Norm(24, 64, 1)
        self.classifier = nn.Linear(64, MANY_CLASSES if probabilities else CLASSES)
        self.softmax = nn.Softmax(-1) if probabilities else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(self.block2(self.block1(self.pool(self.stem(x)))))
        out: Tensor = self.softmax(self.classifier(self.head(x).mean((2, 3))))
        return out
