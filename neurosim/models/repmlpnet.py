"""RepMLPNet: a hierarchical network of fully connected layers into which locality is injected.

Reference: Ding, Chen, Zhang, Han, Ding, RepMLPNet: Hierarchical vision MLP with re-parameterized locality
(CVPR 2022, arXiv:2112.11081), and the authors' code, whose names of modules are kept: its weights load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neurosim.errors import UsageError
from neurosim.models.fusing import Fusable, centred, convolution_matrix, fold_batchnorm
from neurosim.models.grouped import GroupedPointwise
from neurosim.models.normalise import Normalise
from neurosim.models.pad import PadTo
from neurosim.models.widths import widths


class GlobalPerceptron(nn.Module):
    """One factor in (0, 1) a channel, from the whole image: sigmoid(W₂·ReLU(W₁·mean(x) + b₁) + b₂).

    Shapes: (B, C, H, W) -> (B, C, 1, 1).

    >>> GlobalPerceptron(8, 2)(torch.zeros(3, 8, 5, 5)).shape
    torch.Size([3, 8, 1, 1])
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.sigmoid(self.fc2(self.relu(self.fc1(self.pool(x)))))
        return gate


class RepMLPBlock(Fusable):
    """y = g(x) · (BN(M x_p) + Σ_k BN_k(K_k ∗ x_p)): matrices over whole parts of the image, and convolutions.

    The image is cut into parts of (h, w) pixels; x_p is one channel of one part.  The C channels share S
    matrices of (h·w, h·w): channel c uses matrix, convolutions and normalisation c mod S.  (fc3 holds the
    matrices as one 1x1 convolution with S groups.)  Convolutions k x k are depthwise and see one part only,
    with zeros around it.  g is the :class:`GlobalPerceptron` of the block's input.

    In evaluation mode :meth:`fuse_` makes the convolutions and normalisations part of the matrices,
    M' = diag(γ/σ) M + Σ_k matrix(K_k γ_k/σ_k), which is the same function.

    The authors' code mixes up channels and parts when there are several parts and 1 < C/S; here every output
    belongs to the channel and the part of its input.  Everywhere else the two agree.

    Args:
        channels: C, a multiple of ``sharesets``.
        height, width: h and w; the image's sides are multiples of them.
        sharesets: S.
        kernels: odd sides of the convolutions, none for no locality.
        reduction: the gate's hidden layer has C // reduction units.
        fused: start in the final form, for weights that were saved in it.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: channels that the share-sets do not divide, an even kernel, or an image that the parts
            do not fill.

    >>> block = RepMLPBlock(8, 4, 4, sharesets=2).eval()
    >>> x = torch.rand(2, 8, 8, 12)
    >>> before = block(x)
    >>> block.fuse_()
    >>> torch.allclose(block(x), before, atol=1e-5), [name for name, _ in block.named_children()]
    (True, ['gp', 'fc3', 'fc3_bn'])
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        *,
        sharesets: int = 1,
        kernels: Sequence[int] = (1, 3),
        reduction: int = 4,
        fused: bool = False,
    ) -> None:
        super().__init__()
        kernels = widths("kernels", kernels)
        if len(set(kernels)) < len(kernels) or any(k % 2 == 0 for k in kernels):
            raise UsageError(f"expected kernels to be different odd numbers; got {kernels!r}")
        if channels % sharesets:
            raise UsageError(f"expected sharesets to divide {channels} channels; got {sharesets}")
        if channels < reduction:
            raise UsageError(f"expected a reduction of at most {channels} channels; got {reduction}")
        self.channels, self.sharesets = channels, sharesets
        self.height, self.width = height, width
        self.kernels = () if fused else kernels
        self.is_fused = fused
        self.gp = GlobalPerceptron(channels, channels // reduction)
        size = sharesets * height * width
        self.fc3 = GroupedPointwise(size, size, groups=sharesets, bias=fused)
        self.fc3_bn: nn.Module = nn.Identity() if fused else nn.BatchNorm2d(sharesets)
        for k in self.kernels:
            self.add_module(_branch(k), _local(sharesets, k))

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gp(x)
        down, across = self._parts(x)
        parts = x.reshape(-1, self.channels, down, self.height, across, self.width).permute(0, 2, 4, 1, 3, 5)
        # consecutive groups of S channels: one vector of all S maps for each group of each part
        maps = parts.reshape(-1, self.sharesets, self.height, self.width)
        y = self.fc3(maps.reshape(-1, self.fc3.in_channels, 1, 1)).reshape(maps.shape)
        y = self.fc3_bn(y)
        if self.kernels:
            y = y + sum(self.get_submodule(_branch(k))(maps) for k in self.kernels)
        y = y.reshape(-1, down, across, self.channels, self.height, self.width)
        image = y.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)
        return image * gate

    def fuse_(self) -> None:
        if self.is_fused:
            return
        with torch.no_grad():
            weight, bias = self._final()
            new = GroupedPointwise(self.fc3.in_channels, self.fc3.out_channels, groups=self.sharesets)
            new = new.to(self.fc3.weight)
            new.get_parameter("weight").copy_(weight.view_as(new.weight))
            new.get_parameter("bias").copy_(bias)
        self.fc3, self.fc3_bn = new.train(self.training), nn.Identity()
        for k in self.kernels:
            delattr(self, _branch(k))
        self.kernels, self.is_fused = (), True

    def extra_repr(self) -> str:
        return f"parts of {self.height}x{self.width}, sharesets={self.sharesets}, fused={self.is_fused}"

    def _final(self) -> tuple[Tensor, Tensor]:
        """Matrices (S·h·w, h·w) and biases (S·h·w,) of the final form, in float64."""
        weight, bias = fold_batchnorm(self.fc3.weight, self.fc3.bias, _norm(self.fc3_bn))
        weight = weight.flatten(1)
        if self.kernels:
            pairs = []
            for k in self.kernels:
                branch = self.get_submodule(_branch(k))
                conv, norm = branch.get_submodule("conv"), _norm(branch.get_submodule("bn"))
                pairs.append(fold_batchnorm(conv.get_parameter("weight"), None, norm))
            kernel = torch.stack([centred(found, max(self.kernels)) for found, _ in pairs]).sum(0)
            weight = weight + convolution_matrix(kernel, self.height, self.width)
            shift = torch.stack([found for _, found in pairs]).sum(0)
            bias = bias + shift.repeat_interleave(self.height * self.width)
        return weight, bias

    def _parts(self, x: Tensor) -> tuple[int, int]:
        rows, columns = x.shape[-2:]
        if rows % self.height or columns % self.width:
            raise UsageError(
                f"expected maps whose sides are multiples of {self.height}x{self.width}; got {rows}x{columns}"
            )
        return rows // self.height, columns // self.width


class FFNBlock(nn.Module):
    """BN(W₂·GELU(BN(W₁ x))) at every pixel, without biases.

    Shapes: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.ffn_fc1 = _conv_bn(channels, hidden, 1)
        self.ffn_fc2 = _conv_bn(hidden, channels, 1)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.ffn_fc2(self.act(self.ffn_fc1(x)))
        return out


class RepMLPNetUnit(nn.Module):
    """y = x + RepMLPBlock(BN(x)); z = y + FFN(BN(y)).

    Args:
        channels: C.
        repmlp_block: over C channels.
        expansion: hidden channels of the FFN, in units of C.

    Shapes: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int, repmlp_block: RepMLPBlock, expansion: int = 4) -> None:
        super().__init__()
        self.repmlp_block = repmlp_block
        self.ffn_block = FFNBlock(channels, channels * expansion)
        self.prebn1 = nn.BatchNorm2d(channels)
        self.prebn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.repmlp_block(self.prebn1(x))
        z: Tensor = y + self.ffn_block(self.prebn2(y))
        return z


class RepMLPNet(nn.Module):
    """Patches, stages of :class:`RepMLPNetUnit`, each at half the resolution, BN, mean over pixels, dense.

    The patch embedding (a convolution with stride ``patch``) and those between stages (2x2, stride 2) are
    followed by BN and ReLU.  Stage i has maps of H / (patch·2^i) pixels, which its blocks cut into parts of
    ``partition[i]``: image sides are multiples of the smallest size that every stage's parts fill (32 for
    the defaults, 224 or 256 for the published networks).  The defaults are ``repmlpnet-tiny``: 278,946
    parameters in training on 3x32x32 and 10 classes, 279,810 fused.

    Args:
        num_classes: number of logits.
        in_chans, image_size: channels and (height, width) of the input.
        input_mean, input_std: stored statistics of :class:`Normalise`.
        patch: side of the patches in pixels.
        channels, blocks, sharesets: C, number of units and S of each stage.
        partition: sides h = w of the parts, one a stage.
        kernels: sides of the local convolutions of every block.
        reduction, expansion: of the gates and of the FFNs.
        pad: put zeros around smaller images, centred, up to the next size that fits (28 becomes 32).
        fused: build the final form, for weights that were saved in it.

    Shapes: (B, C, H, W) in [0, 1] -> (B, num_classes).

    Raises:
        UsageError: options that do not fit each other, or without ``pad`` an image size that does not fit.

    >>> net = RepMLPNet(num_classes=10, in_chans=1, image_size=(28, 28)).eval()
    >>> net(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_chans: int,
        image_size: tuple[int, int],
        input_mean: float | Sequence[float] = 0.0,
        input_std: float | Sequence[float] = 1.0,
        patch: int = 2,
        channels: Sequence[int] = (16, 32, 64),
        blocks: Sequence[int] = (2, 2, 2),
        sharesets: Sequence[int] = (1, 4, 16),
        partition: Sequence[int] = (16, 8, 4),
        kernels: Sequence[int] = (1, 3),
        reduction: int = 4,
        expansion: int = 4,
        pad: bool = True,
        fused: bool = False,
    ) -> None:
        super().__init__()
        channels = widths("channels", channels)
        blocks, sharesets, partition = (
            widths(name, value, length=len(channels))
            for name, value in (("blocks", blocks), ("sharesets", sharesets), ("partition", partition))
        )
        patch, reduction, expansion = widths("patch, reduction, expansion", (patch, reduction, expansion))
        size = _fitting_size(image_size, patch, partition, pad)
        self.pad = PadTo(size)
        self.normalise = Normalise(input_mean, input_std, in_chans)
        self.conv_embedding = _embedding(in_chans, channels[0], patch)
        self.stages = nn.ModuleList()
        self.embeds = nn.ModuleList()
        for i, width in enumerate(channels):
            if i:
                self.embeds.append(_embedding(channels[i - 1], width, 2))
            stage = nn.ModuleList()
            for _ in range(blocks[i]):
                block = RepMLPBlock(
                    width,
                    partition[i],
                    partition[i],
                    sharesets=sharesets[i],
                    kernels=kernels,
                    reduction=reduction,
                    fused=fused,
                )
                stage.append(RepMLPNetUnit(width, block, expansion))
            self.stages.append(stage)
        self.head_norm = nn.BatchNorm2d(channels[-1])
        self.head_pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.head = nn.Linear(channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_embedding(self.normalise(self.pad(x)))
        for i, stage in enumerate(self.stages):
            if i:
                x = self.embeds[i - 1](x)
            for unit in stage.children():
                x = unit(x)
        logits: Tensor = self.head(self.flatten(self.head_pool(self.head_norm(x))))
        return logits


def _branch(kernel: int) -> str:
    return f"repconv{kernel}"


def _conv_bn(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> nn.Sequential:
    result = nn.Sequential()
    result.add_module("conv", nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False))
    result.add_module("bn", nn.BatchNorm2d(outputs))
    return result


def _local(channels: int, kernel: int) -> nn.Sequential:
    """A depthwise convolution that keeps the size of its map, and BN."""
    result = _conv_bn(channels, channels, kernel, padding=kernel // 2, groups=channels)
    if kernel == 1:
        result.conv = GroupedPointwise(channels, channels, groups=channels, bias=False)
    return result


def _embedding(inputs: int, outputs: int, patch: int) -> nn.Sequential:
    result = _conv_bn(inputs, outputs, patch, stride=patch)
    result.add_module("relu", nn.ReLU())
    return result


def _norm(module: nn.Module) -> nn.BatchNorm2d:
    assert isinstance(module, nn.BatchNorm2d)
    return module


def _fitting_size(
    image_size: tuple[int, int], patch: int, partition: Sequence[int], pad: bool
) -> tuple[int, int]:
    """The image size itself if it fits, else with ``pad`` the next that does.

    >>> _fitting_size((28, 40), 2, (16, 8, 4), pad=True)
    (32, 64)
    """
    unit = math.lcm(*(patch * 2**i * side for i, side in enumerate(partition)))
    rows, columns = (-(-side // unit) * unit for side in image_size)
    if (rows, columns) != tuple(image_size) and not pad:
        raise UsageError(
            f"expected images whose sides are multiples of {unit} pixels, such as {unit}x{unit}; "
            f"got {image_size[0]}x{image_size[1]}"
        )
    return rows, columns
