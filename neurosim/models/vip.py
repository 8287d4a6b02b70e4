"""Vision Permutator: a vision network of linear layers along height, width and channels.

Reference: Hou, Jiang, Yuan, Cheng, Yan, Feng, Vision Permutator: A permutable MLP-like architecture for
visual recognition (TPAMI 2022, arXiv:2106.12368), and the authors' code, whose names of modules are kept:
its weights load.  Maps are (B, H, W, C) inside, with the channels last.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from neurosim import errors
from neurosim.errors import UsageError
from neurosim.models.normalise import Normalise
from neurosim.models.widths import widths


def height_and_segments(x: Tensor, segments: int) -> Tensor:
    """Exchange rows and channel segments: (B, H, W, Sg·s) -> (B, Sg, W, H·s), its own inverse when H = Sg.

    Channels are cut into Sg segments of s; what was at row i, segment j, place k is at row j, segment i,
    place k, so that a linear layer over the last axis mixes the rows of one segment.

    >>> import torch
    >>> x = torch.arange(8).reshape(1, 2, 1, 4)  # two rows of two segments
    >>> height_and_segments(x, 2).reshape(2, 4).tolist()
    [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    batch, height, width, channels = x.shape
    cut = x.reshape(batch, height, width, segments, channels // segments)
    return cut.permute(0, 3, 2, 1, 4).reshape(batch, segments, width, height * cut.shape[-1])


def width_and_segments(x: Tensor, segments: int) -> Tensor:
    """Exchange columns and channel segments: (B, H, W, Sg·s) -> (B, H, Sg, W·s), its own inverse when W = Sg.

    >>> import torch
    >>> x = torch.arange(8).reshape(1, 1, 2, 4)  # two columns of two segments
    >>> width_and_segments(x, 2).reshape(2, 4).tolist()
    [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    batch, height, width, channels = x.shape
    cut = x.reshape(batch, height, width, segments, channels // segments)
    return cut.permute(0, 1, 3, 2, 4).reshape(batch, height, segments, width * cut.shape[-1])


class Mlp(nn.Module):
    """y = W₂·GELU(W₁ x + b₁) + b₂ over the last axis.

    Shapes: (..., inputs) -> (..., outputs).
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(self.act(self.fc1(x)))
        return y


class PermuteMLP(nn.Module):
    """y = W(x_h + x_w + x_c) + b: three linear layers without bias, over height, width and channels, summed.

    x_c = C x at every pixel; x_h and x_w apply their matrix to :func:`height_and_segments` and
    :func:`width_and_segments` of x and change back.  (Section 3.2 of the paper.)

    Args:
        channels: C, a multiple of ``segments``.
        segments: Sg; the map has Sg rows and Sg columns.

    Shapes: (B, Sg, Sg, C) -> (B, Sg, Sg, C).

    >>> import torch
    >>> PermuteMLP(8, segments=4)(torch.zeros(2, 4, 4, 8)).shape
    torch.Size([2, 4, 4, 8])
    """

    def __init__(self, channels: int, segments: int) -> None:
        super().__init__()
        self.segments = segments
        self.mlp_c = nn.Linear(channels, channels, bias=False)
        self.mlp_h = nn.Linear(channels, channels, bias=False)
        self.mlp_w = nn.Linear(channels, channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.proj(sum(_branches(self, x)))
        return y


class WeightedPermuteMLP(nn.Module):
    """y = W(a_h·x_h + a_w·x_w + a_c·x_c) + b: as :class:`PermuteMLP`, each channel choosing among branches.

    The weights a are a softmax over the three branches for every image and channel, of an MLP (C -> C/4 ->
    3C) of the mean of x_h + x_w + x_c over pixels; its outputs are laid out as (C, 3).  (Section 3.3.)

    Args:
        channels: C, a multiple of ``segments`` and at least 4.
        segments: Sg; the map has Sg rows and Sg columns.

    Shapes: (B, Sg, Sg, C) -> (B, Sg, Sg, C).

    >>> import torch
    >>> WeightedPermuteMLP(8, segments=4)(torch.zeros(2, 4, 4, 8)).shape
    torch.Size([2, 4, 4, 8])
    """

    def __init__(self, channels: int, segments: int) -> None:
        super().__init__()
        self.segments = segments
        self.mlp_c = nn.Linear(channels, channels, bias=False)
        self.mlp_h = nn.Linear(channels, channels, bias=False)
        self.mlp_w = nn.Linear(channels, channels, bias=False)
        self.reweight = Mlp(channels, channels // 4, 3 * channels)
        self.softmax = nn.Softmax(dim=-1)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        h, w, c = _branches(self, x)
        logits = self.reweight((h + w + c).mean((1, 2)))
        a_h, a_w, a_c = self.softmax(logits.reshape(-1, 1, 1, x.shape[-1], 3)).unbind(-1)
        y: Tensor = self.proj(h * a_h + w * a_w + c * a_c)
        return y


_MIXERS: dict[str, type[PermuteMLP] | type[WeightedPermuteMLP]] = {
    "weighted": WeightedPermuteMLP,
    "plain": PermuteMLP,
}


class DropPath(nn.Module):
    """Stochastic depth: in training each sample of x is zero with probability ``rate``, else x / (1 - rate).

    Draws come from torch's generator of the device of x.  Source: Huang, Sun, Liu, Sedra, Weinberger, Deep
    networks with stochastic depth (ECCV 2016), arXiv:1603.09382.

    Shapes: (B, ...) -> (B, ...).

    >>> import torch
    >>> DropPath(0.5).eval()(torch.ones(2, 3)).sum()
    tensor(6.)
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = x.new_empty(x.shape[0], *(1,) * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class PermutatorBlock(nn.Module):
    """y = x + Permute-MLP(LN x); z = y + MLP(LN y), each branch under :class:`DropPath`.

    Shapes: (B, Sg, Sg, C) -> (B, Sg, Sg, C).
    """

    def __init__(self, channels: int, segments: int, ratio: int, rate: float, permute: str) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = _MIXERS[permute](channels, segments)
        self.drop_path: nn.Module = DropPath(rate) if rate else nn.Identity()
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, channels * ratio, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.drop_path(self.attn(self.norm1(x)))
        z: Tensor = y + self.drop_path(self.mlp(self.norm2(y)))
        return z


class Patches(nn.Module):
    """A convolution over patches that do not overlap: (B, C, H, W) -> (B, H / side, W / side, channels)."""

    def __init__(self, inputs: int, channels: int, side: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, channels, side, stride=side)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.proj(x).permute(0, 2, 3, 1)
        return y


class Downsample(nn.Module):
    """A convolution over patches of a map: (B, H, W, C) -> (B, H / side, W / side, channels)."""

    def __init__(self, inputs: int, channels: int, side: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, channels, side, stride=side)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return y


class VisionPermutator(nn.Module):
    """Patches, stages of :class:`PermutatorBlock`, LN, mean over pixels, dense; no positional embedding.

    Stage i has maps of ``segments[i]`` rows and columns, so the image has ``segments[0]·patch`` pixels a
    side and no other size fits.  Where the segments halve from one stage to the next a 2x2 convolution with
    stride 2 lies between, where only the channels change a 1x1 convolution.  Weights of linear layers start
    from a normal distribution of deviation .02, cut at ±2, their biases at 0.  The defaults are
    ``vip-tiny-32``: 492,842 parameters on 3x32x32 and 10 classes.

    Args:
        num_classes: number of logits.
        in_chans, image_size: channels and (height, width) of the input.
        input_mean, input_std: stored statistics of :class:`Normalise`.
        patch: side of the patches in pixels.
        layers, channels, segments: blocks, C and Sg of each stage; Sg divides C.
        mlp_ratio: hidden units of the MLPs, in units of C.
        permute: ``weighted`` (:class:`WeightedPermuteMLP`) or ``plain`` (:class:`PermuteMLP`).
        drop_path: rate of stochastic depth in the last block, growing linearly from 0 in the first.

    Shapes: (B, C, H, W) in [0, 1] -> (B, num_classes).

    Raises:
        UsageError: options that do not fit each other, or an image size that does not fit.

    >>> import torch
    >>> net = VisionPermutator(num_classes=10, in_chans=3, image_size=(32, 32)).eval()
    >>> net(torch.zeros(2, 3, 32, 32)).shape
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
        patch: int = 4,
        layers: Sequence[int] = (2, 2),
        channels: Sequence[int] = (64, 128),
        segments: Sequence[int] = (8, 4),
        mlp_ratio: int = 3,
        permute: str = "weighted",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        layers = widths("layers", layers)
        channels, segments = (
            widths(name, value, length=len(layers))
            for name, value in (("channels", channels), ("segments", segments))
        )
        patch, mlp_ratio = widths("patch, mlp_ratio", (patch, mlp_ratio))
        _check(channels, segments, permute, drop_path)
        _check_size(image_size, segments[0], patch)
        self.normalise = Normalise(input_mean, input_std, in_chans)
        self.patch_embed = Patches(in_chans, channels[0], patch)
        self.network = nn.ModuleList()
        rates = iter(_rates(drop_path, sum(layers)))
        for i, (depth, width, cuts) in enumerate(zip(layers, channels, segments, strict=True)):
            if i and (cuts, width) != (segments[i - 1], channels[i - 1]):
                self.network.append(Downsample(channels[i - 1], width, segments[i - 1] // cuts))
            blocks = [PermutatorBlock(width, cuts, mlp_ratio, next(rates), permute) for _ in range(depth)]
            self.network.append(nn.Sequential(*blocks))
        self.norm = nn.LayerNorm(channels[-1])
        self.head = nn.Linear(channels[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(self.normalise(x))
        for stage in self.network:
            x = stage(x)
        logits: Tensor = self.head(self.norm(x).mean((1, 2)))
        return logits


def _branches(mixer: PermuteMLP | WeightedPermuteMLP, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x_h, x_w and x_c of a Permute-MLP."""
    cuts = mixer.segments
    h = height_and_segments(mixer.mlp_h(height_and_segments(x, cuts)), cuts)
    w = width_and_segments(mixer.mlp_w(width_and_segments(x, cuts)), cuts)
    return h, w, mixer.mlp_c(x)


def _rates(last: float, blocks: int) -> list[float]:
    """Stochastic depth of each block.

    >>> _rates(0.5, 3), _rates(0.5, 1)
    ([0.0, 0.25, 0.5], [0.0])
    """
    return [last * i / max(blocks - 1, 1) for i in range(blocks)]


def _check(channels: Sequence[int], segments: Sequence[int], permute: str, drop_path: float) -> None:
    if permute not in _MIXERS:
        raise errors.unknown("permute", str(permute), _MIXERS)
    if isinstance(drop_path, bool) or not isinstance(drop_path, (int, float)) or not 0 <= drop_path < 1:
        raise UsageError(f"expected drop_path to be a number from 0 to below 1; got {drop_path!r}")
    for width, cuts in zip(channels, segments, strict=True):
        if width % cuts or width < 4:
            raise UsageError(
                f"expected channels of at least 4 that the stage's segments divide; "
                f"got {width} channels and {cuts} segments"
            )
    for before, after in itertools.pairwise(segments):
        if before not in (after, 2 * after):
            raise UsageError(
                f"expected segments that stay or halve from one stage to the next; got {tuple(segments)}"
            )


def _check_size(image_size: tuple[int, int], segments: int, patch: int) -> None:
    side = segments * patch
    if tuple(image_size) != (side, side):
        raise UsageError(
            f"expected images of {side}x{side} pixels, {segments} segments of {patch}-pixel patches a side "
            f"(the linear layers over height and width hold one size); got {image_size[0]}x{image_size[1]}"
        )
