"""RepMLP: convolutions made part of a fully connected layer.

Reference: Ding, Xia, Zhang, Chu, Han, Ding, RepMLP: Re-parameterizing convolutions into fully-connected
layers for image recognition (arXiv:2105.01883), and the authors' code of 2021, whose names of modules are
kept: its weights load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neurosim.errors import UsageError
from neurosim.models.fusing import Fusable, centred, convolution_matrix, fold_batchnorm, scale_and_shift
from neurosim.models.grouped import GroupedPointwise
from neurosim.models.widths import widths


class RepMLP(Fusable):
    """y_p = BN(M v_p) + Σ_k BN_k(K_k ∗ v_p), v_p = x_p + G(x)_p: a matrix over each part of the image.

    The image is cut into P parts of (h, w) pixels; x_p is one part with all its C channels.

    * Global perceptron G, only where there are several parts: the mean of every channel of every part,
      BN over C channels, then two dense layers on all C·P numbers, W₂ ReLU(W₁ m + b₁) + b₂; each result
      is added to all pixels of its channel and part.
    * Partition perceptron M: (O·h·w, C·h·w) in ``groups`` blocks, shared by all parts (``fc3`` holds it as
      a 1x1 convolution).
    * Local perceptron: convolutions k x k in as many groups, that see one part with zeros around it.

    In evaluation mode :meth:`fuse_` makes the convolutions and normalisations part of the matrices, exactly:
    M' = diag(γ/σ) M + Σ_k matrix(K_k γ_k/σ_k), and the BN before W₁ becomes part of W₁ and b₁.  (The
    authors' conversion is right only for C = O.)

    Args:
        inputs, outputs: C and O, multiples of ``groups``.
        height, width: H and W of the map.
        partition: (h, w), which divide H and W.
        kernels: odd sides of the convolutions, none for no local perceptron.
        groups: blocks of M, and groups of the convolutions.
        reduction: W₁ has C·P // reduction rows.
        fused: start in the final form, for weights that were saved in it.

    Shapes: (B, C, H, W) -> (B, O, H, W).

    Raises:
        UsageError: sizes that do not divide, or an even kernel; in the forward, a map of another size.

    >>> block = RepMLP(4, 6, 6, 8, partition=(3, 4), kernels=(1, 3), groups=2).eval()
    >>> x = torch.rand(2, 4, 6, 8)
    >>> before = block(x)
    >>> block.fuse_()
    >>> torch.allclose(block(x), before, atol=1e-5), [name for name, _ in block.named_children()]
    (True, ['fc1_fc2', 'avg', 'fc3', 'fc3_bn'])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        height: int,
        width: int,
        *,
        partition: tuple[int, int],
        kernels: Sequence[int] = (1, 3, 5),
        groups: int = 1,
        reduction: int = 1,
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.partition = h, w = _partition(partition, height, width)
        self.inputs, self.outputs = _multiples(inputs, outputs, groups)
        self.height, self.width = height, width
        self.down, self.across = height // h, width // w
        self.kernels = () if fused else odd(kernels)
        self.is_fused = fused
        self.several = self.down * self.across > 1
        if self.several:
            self.fc1_fc2 = _dense(inputs * self.down * self.across, reduction)
            self.avg = _average(partition, None if fused else inputs)
        self.fc3 = GroupedPointwise(inputs * h * w, outputs * h * w, groups=groups, bias=fused)
        orthonormal_(self.fc3.weight)
        self.fc3_bn: nn.Module = nn.Identity() if fused else nn.BatchNorm1d(outputs * h * w)
        for k in self.kernels:
            self.add_module(_branch(k), _local(inputs, outputs, k, groups))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != (self.inputs, self.height, self.width):
            wanted, got = f"{self.inputs}x{self.height}x{self.width}", "x".join(map(str, x.shape[1:]))
            raise UsageError(f"expected maps of {wanted} (channels x height x width); got {got}")
        h, w = self.partition
        cut = x.reshape(-1, self.inputs, self.down, h, self.across, w)
        if self.several:
            means = self.avg(x).reshape(-1, self.inputs * self.down * self.across)
            cut = cut + self.fc1_fc2(means).reshape(-1, self.inputs, self.down, 1, self.across, 1)
        parts = cut.permute(0, 2, 4, 1, 3, 5)
        y = self.fc3(parts.reshape(-1, self.fc3.in_channels, 1, 1))
        y = self.fc3_bn(y.reshape(-1, self.fc3.out_channels))
        if self.kernels:
            maps = parts.reshape(-1, self.inputs, h, w)
            y = y + sum(self.get_submodule(_branch(k))(maps) for k in self.kernels).reshape(y.shape)
        y = y.reshape(-1, self.down, self.across, self.outputs, h, w)
        return y.permute(0, 3, 1, 4, 2, 5).reshape(-1, self.outputs, self.height, self.width)

    def fuse_(self) -> None:
        if self.is_fused:
            return
        with torch.no_grad():
            weight, bias = self._final()
            old = self.fc3
            new = GroupedPointwise(old.in_channels, old.out_channels, groups=old.groups).to(old.weight)
            new.get_parameter("weight").copy_(weight.view_as(new.weight))
            new.get_parameter("bias").copy_(bias)
            if self.several:
                self._fold_average()
        self.fc3, self.fc3_bn = new.train(self.training), nn.Identity()
        for k in self.kernels:
            delattr(self, _branch(k))
        self.kernels, self.is_fused = (), True

    def extra_repr(self) -> str:
        h, w = self.partition
        return f"{self.down * self.across} parts of {h}x{w}, fused={self.is_fused}"

    def _final(self) -> tuple[Tensor, Tensor]:
        """M' (O·h·w, C/groups·h·w) and its biases (O·h·w,), in float64."""
        h, w = self.partition
        weight, bias = fold_batchnorm(self.fc3.weight, None, _norm(self.fc3_bn))
        weight = weight.flatten(1)
        if self.kernels:
            kernel, shift = self._kernel()
            weight = weight + convolution_matrix(kernel, h, w)
            bias = bias + shift.repeat_interleave(h * w)
        return weight, bias

    def _kernel(self) -> tuple[Tensor, Tensor]:
        """The one convolution (O, C/groups, k, k), with biases (O,), that all are together, in float64."""
        kernels, shifts = [], []
        for k in self.kernels:
            branch = self.get_submodule(_branch(k))
            conv, norm = branch.get_submodule("conv"), _norm(branch.get_submodule("bn"))
            kernel, shift = fold_batchnorm(conv.get_parameter("weight"), None, norm)
            kernels.append(centred(kernel, max(self.kernels)))
            shifts.append(shift)
        return torch.stack(kernels).sum(0), torch.stack(shifts).sum(0)

    def _fold_average(self) -> None:
        """W₁ diag(s) and b₁ + W₁ t instead of the normalisation m·s + t of the means."""
        scale, shift = scale_and_shift(_norm(self.avg.get_submodule("bn")))
        parts = self.down * self.across
        fc1 = self.fc1_fc2.get_submodule("fc1")
        weight, bias = fc1.get_parameter("weight"), fc1.get_parameter("bias")
        exact = weight.double()
        bias.copy_(bias.double() + exact @ shift.repeat_interleave(parts))
        weight.copy_(exact * scale.repeat_interleave(parts))
        self.avg = _average(self.partition, None)


class ConvBN(Fusable):
    """f(BN(K ∗ x)), f the identity or ``nonlinear``; fused, one convolution with a bias.

    Args:
        inputs, outputs, kernel: channels and side of the kernel, padded to keep the size at stride 1.
        stride: of the convolution.
        nonlinear: f.
        fused: start in the final form, for weights that were saved in it.

    Shapes: (B, inputs, H, W) -> (B, outputs, ⌈H / stride⌉, ⌈W / stride⌉).

    >>> layer, x = ConvBN(3, 4, 3).eval(), torch.rand(2, 3, 5, 5)
    >>> before = layer(x)
    >>> layer.fuse_()
    >>> torch.allclose(layer(x), before, atol=1e-6), sorted(layer.state_dict())
    (True, ['conv.bias', 'conv.weight'])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        nonlinear: nn.Module | None = None,
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.nonlinear = nn.Identity() if nonlinear is None else nonlinear
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=fused)
        self.bn: nn.Module = nn.Identity() if fused else nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.nonlinear(self.bn(self.conv(x)))
        return y

    def fuse_(self) -> None:
        if not isinstance(self.bn, nn.BatchNorm2d):
            return
        weight, bias = fold_batchnorm(self.conv.weight, None, self.bn)
        with torch.no_grad():
            self.conv.weight.copy_(weight)
        self.conv.bias = nn.Parameter(bias.to(self.conv.weight).detach())
        self.bn = nn.Identity()


def conv_bn_relu(
    inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, fused: bool = False
) -> ConvBN:
    """ReLU(BN(K ∗ x)).

    >>> conv_bn_relu(3, 4, 3)(torch.zeros(2, 3, 5, 5)).shape
    torch.Size([2, 4, 5, 5])
    """
    return ConvBN(inputs, outputs, kernel, stride=stride, nonlinear=nn.ReLU(), fused=fused)


def orthonormal_(weight: Tensor) -> None:
    """Random orthonormal columns (rows, if there are fewer of them), as ``nn.init.orthogonal_`` but soon.

    The first columns of S₃ C₂ S₂ C₁ S₁ (m, m): S random signs, C = F⁻¹ diag(e^iθ) F circulant, θ uniform
    and odd, so that C is real and orthogonal.  Entries are close to normal with variance 1/m.  A matrix of
    (6272, 1568) takes the QR decomposition of ``nn.init.orthogonal_`` seconds, and a network has many.

    Args:
        weight: (rows, ...), a matrix once flattened.

    >>> weight = torch.empty(6, 4, 1, 1)
    >>> orthonormal_(weight)
    >>> torch.allclose(weight.flatten(1).T @ weight.flatten(1), torch.eye(4), atol=1e-5)
    True
    """
    rows, columns = len(weight), math.prod(weight.shape[1:])
    m, n = max(rows, columns), min(rows, columns)
    vectors = torch.eye(n, m, dtype=weight.dtype, device=weight.device)
    for _ in range(2):
        vectors = vectors * _signs(m, weight)
        vectors = torch.fft.irfft(torch.fft.rfft(vectors) * _phases(m, weight), m)
    vectors = vectors * _signs(m, weight)
    with torch.no_grad():
        weight.copy_((vectors.t() if rows >= columns else vectors).reshape(weight.shape))


def odd(kernels: Sequence[int]) -> tuple[int, ...]:
    """Different odd kernel sides, as a tuple.

    >>> odd([1, 3])
    (1, 3)
    """
    result = widths("kernels", kernels)
    if len(set(result)) < len(result) or any(k % 2 == 0 for k in result):
        raise UsageError(f"expected kernels to be different odd numbers; got {kernels!r}")
    return result


def _signs(count: int, like: Tensor) -> Tensor:
    return torch.randint(0, 2, (count,), device=like.device).to(like.dtype) * 2 - 1


def _phases(count: int, like: Tensor) -> Tensor:
    """Half a spectrum (count // 2 + 1,) of numbers on the unit circle, those at the ends real."""
    angles = torch.rand(count // 2 + 1, dtype=like.dtype, device=like.device) * math.tau
    angles[0] = 0.0
    if count % 2 == 0:
        angles[-1] = 0.0
    return torch.polar(torch.ones_like(angles), angles)


def _branch(kernel: int) -> str:
    return f"repconv{kernel}"


def _dense(size: int, reduction: int) -> nn.Sequential:
    if isinstance(reduction, bool) or not isinstance(reduction, int) or not 1 <= reduction <= size:
        raise UsageError(f"expected a reduction from 1 to {size}; got {reduction!r}")
    hidden = size // reduction
    result = nn.Sequential()
    result.add_module("fc1", nn.Linear(size, hidden))
    result.add_module("relu", nn.ReLU())
    result.add_module("fc2", nn.Linear(hidden, size))
    return result


def _average(partition: tuple[int, int], channels: int | None) -> nn.Module:
    """The mean of each part, normalised if the number of channels is given."""
    average = nn.AvgPool2d(partition)
    if channels is None:
        return average
    result = nn.Sequential()
    result.add_module("avg", average)
    result.add_module("bn", nn.BatchNorm2d(channels))
    return result


def _local(inputs: int, outputs: int, kernel: int, groups: int) -> nn.Sequential:
    """A convolution that keeps the size of its map, and BN."""
    result = nn.Sequential()
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    result.add_module("conv", conv)
    result.add_module("bn", nn.BatchNorm2d(outputs))
    return result


def _norm(module: nn.Module) -> nn.BatchNorm1d | nn.BatchNorm2d:
    assert isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
    return module


def _partition(partition: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    h, w = widths("partition", partition, length=2)
    if height % h or width % w:
        raise UsageError(f"expected parts of {h}x{w} to fill a map; got one of {height}x{width}")
    return h, w


def _multiples(inputs: int, outputs: int, groups: int) -> tuple[int, int]:
    inputs, outputs, groups = widths("inputs, outputs, groups", (inputs, outputs, groups))
    if inputs % groups or outputs % groups:
        raise UsageError(f"expected groups to divide {inputs} and {outputs} channels; got {groups}")
    return inputs, outputs
