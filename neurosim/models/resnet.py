"""CIFAR-style residual networks with parameter-free (option-A) shortcuts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from neurosim.errors import UsageError
from neurosim.models.normalise import Normalise
from neurosim.models.widths import widths


class Shortcut(nn.Module):
    """Option A: keep every ``stride``-th pixel and pad the missing channels with zeros, half on each side.

    Shapes: (B, in, H, W) -> (B, out, ceil(H / stride), ceil(W / stride)); no parameters.

    >>> import torch
    >>> Shortcut(16, 32, stride=2)(torch.ones(1, 16, 5, 5)).sum(dim=(0, 2, 3))[7:10]
    tensor([0., 9., 9.])
    """

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (planes - in_planes) // 2
        self.after = planes - in_planes - self.before

    def forward(self, x: Tensor) -> Tensor:
        kept = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(kept, (0, 0, 0, 0, self.before, self.after))


class Block(nn.Module):
    """y = ReLU(BN(conv(ReLU(BN(conv x)))) + shortcut(x)), both convolutions 3x3 without bias.

    Shapes: (B, in, H, W) -> (B, planes, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        same = stride == 1 and in_planes == planes
        self.shortcut: nn.Module = nn.Identity() if same else Shortcut(in_planes, planes, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self.shortcut(x)
        result: Tensor = self.relu2(out)
        return result


class ResNet(nn.Module):
    """conv 3x3, three stages of blocks (the second and third halve the image), mean over pixels, dense.

    With n blocks a stage it has 6n + 2 weighted layers: (5, 5, 5) is ResNet32, 464,154 parameters on
    3x32x32 and 10 classes.  Convolutions start from He's normal distribution (fan in).  Reference:
    He, Zhang, Ren, Sun, CVPR 2016, section 4.2 (arXiv:1512.03385).

    Args:
        num_classes: number of logits.
        in_chans, image_size: channels and (height, width) of the input; any size.
        input_mean, input_std: stored statistics of :class:`Normalise`.
        blocks: blocks in each of the three stages.
        planes: channels of each stage; never fewer than the stage before.

    Shapes: (B, C, H, W) in [0, 1] -> (B, num_classes).

    >>> import torch
    >>> net = ResNet(num_classes=10, in_chans=3, image_size=(32, 32), blocks=(1, 1, 1)).eval()
    >>> net(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_chans: int,
        image_size: tuple[int, int],  # any size works: the last stage is averaged over pixels
        input_mean: float | Sequence[float] = 0.0,
        input_std: float | Sequence[float] = 1.0,
        blocks: Sequence[int] = (5, 5, 5),
        planes: Sequence[int] = (16, 32, 64),
    ) -> None:
        super().__init__()
        blocks = widths("blocks", blocks, length=3)
        planes = widths("planes", planes, length=3)
        if list(planes) != sorted(planes):
            raise UsageError(f"expected planes that never shrink (option-A shortcuts only add); got {planes}")
        self.normalise = Normalise(input_mean, input_std, in_chans)
        self.conv1 = nn.Conv2d(in_chans, planes[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.relu1 = nn.ReLU()
        self.stage1 = _stage(planes[0], planes[0], blocks[0], stride=1)
        self.stage2 = _stage(planes[0], planes[1], blocks[1], stride=2)
        self.stage3 = _stage(planes[1], planes[2], blocks[2], stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.classifier = nn.Linear(planes[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(self.normalise(x))))
        x = self.stage3(self.stage2(self.stage1(x)))
        logits: Tensor = self.classifier(self.flatten(self.pool(x)))
        return logits


def _stage(in_planes: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(in_planes, planes, stride)
    return nn.Sequential(first, *(Block(planes, planes, 1) for _ in range(blocks - 1)))
