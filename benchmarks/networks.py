"""Networks that the benchmarks share, with a batch of inputs each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurosim import models


class Residual(nn.Module):
    """A basic block of a residual network."""

    def __init__(self, planes: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(planes, out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(out), nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride != 1 or planes != out:
            self.shortcut = nn.Sequential(nn.Conv2d(planes, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Sequential):
    """ResNet-18 (He et al. 2016, doi:10.1109/CVPR.2016.90) as used at 32×32: 3×3 first; 11.2 million."""

    def __init__(self, classes: int = 10) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        planes = 64
        for out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            layers += [Residual(planes, out, stride), Residual(out, out, 1)]
            planes = out
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


class Block(nn.Module):
    """A layer of a vision transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.proj(y)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViTTiny(nn.Module):
    """ViT-Ti/16 (Touvron et al. 2021, doi:10.48550/arXiv.2012.12877): 12 layers of width 192, 5.7 million."""

    def __init__(
        self, size: int = 224, patch: int = 16, width: int = 192, depth: int = 12, heads: int = 3
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 1 + (size // patch) ** 2, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def _mlp() -> nn.Module:
    return models.create("mlp", num_classes=10, in_chans=1, image_size=28, hidden=(512, 512))


def _cnn() -> nn.Module:
    return models.create("cnn", num_classes=10, in_chans=1, image_size=28)


ROWS = {
    "mlp": (_mlp, (10_000, 1, 28, 28)),
    "mlp-1000": (_mlp, (1_000, 1, 28, 28)),
    "cnn": (_cnn, (2_000, 1, 28, 28)),
    "resnet18": (ResNet18, (500, 3, 32, 32)),
    "vit-tiny": (ViTTiny, (200, 3, 224, 224)),
}
"""Builder and shape of the batch, by name."""


def network(name: str) -> tuple[nn.Module, Tensor]:
    """The network, channels-last where it convolves images, and its shared batch of inputs."""
    build, shape = ROWS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build().eval()
    x = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    if name in ("cnn", "resnet18"):
        # by hand: torch takes an image of one channel for channels-last already
        net, x = net.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    return net, x
