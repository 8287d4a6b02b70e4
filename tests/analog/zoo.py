"""Networks that nobody here wrote, made small: what :mod:`test_any_network` deploys.

Most classes are torch's own or those of pytorchcv, transformers, monai and torch_geometric, with sizes of
our choice and random weights; what packages lack is written after its publication.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils import _pytree as pytree

from neurosim.random import stream

from .networks import some


class Call(NamedTuple):
    """The arguments of one call of a network."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def each(self, change: Callable[[Tensor], Tensor]) -> Call:
        """The same with every tensor of real numbers changed."""
        args, kwargs = pytree.tree_map(
            lambda leaf: change(leaf) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf,
            (self.args, self.kwargs),
        )
        return Call(args, kwargs)

    def of(self, network: Callable[..., Any]) -> Any:
        """What the network returns."""
        return network(*self.args, **self.kwargs)

    @property
    def real(self) -> list[Tensor]:
        """Every tensor of real numbers."""
        return [
            leaf
            for leaf in pytree.tree_leaves((self.args, self.kwargs))
            if isinstance(leaf, Tensor) and leaf.is_floating_point()
        ]


def call(*args: Any, **kwargs: Any) -> Call:
    """The arguments of one call of a network."""
    return Call(args, kwargs)


class Network(NamedTuple):
    """One row of the zoo.

    Attributes:
        build: the network, with weights of its own initialisation.
        inputs: an example batch.
        options: for deploy.
        digital: patterns over the parameters of two or more axes that stay digital; all others must not.
        rides: whether the network treats axis 0 as an ordinary batch.
        needs: packages.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], Call]
    options: dict[str, Any] = {}
    digital: tuple[str, ...] = ()
    rides: bool = True
    needs: tuple[str, ...] = ()


def tokens(*shape: int, below: int = 29, name: str = "tokens") -> Tensor:
    """Whole numbers that a test may call its text."""
    uniform = stream(77, 0, name, "test").uniform(shape)
    return (uniform * below).long()


def images(channels: int = 3, size: int = 32, batch: int = 3) -> Callable[[], Call]:
    """A batch of images."""
    return lambda: call(some(batch, channels, size, size))


@functools.cache
def _made(name: str) -> tuple[nn.Module, Call]:
    row = ZOO[name]
    for package in row.needs:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"NOT TESTED: {name!r} needs the package {package}: make install brings it")
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of third parties, while they import and build
        torch.manual_seed(0)
        network = row.build()
        inputs = row.inputs()
        _settle(network, inputs)
    return network.eval(), inputs


def made(name: str) -> tuple[nn.Module, Call]:
    """A network of the zoo and its example batch, both the caller's own."""
    network, inputs = _made(name)
    return _copied(network), inputs.each(torch.clone)


def _copied(network: nn.Module) -> nn.Module:
    """A deep copy, past the weights that the old ``weight_norm`` leaves behind, which cannot be copied."""
    kept = [value for module in network.modules() for value in vars(module).values()]
    derived = [value for value in kept if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(network, {id(value): value.detach().clone() for value in derived})


def _settle(network: nn.Module, inputs: Call) -> None:
    """Give batch normalisations the statistics of the example batch: activations of ordinary size."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
    if norms:
        with torch.no_grad():
            inputs.of(network.train())


# ---- torch's own ----


class _Last(nn.Module):
    """The output of a recurrent network, without its states."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args: Any) -> Any:
        return self.network(*args)[0]


class LanguageModel(nn.Module):
    """``word_language_model`` of torch's examples: embedding, recurrent layers, decoder with tied weights."""

    def __init__(self, recurrent: type[nn.RNNBase], words: int, size: int) -> None:
        super().__init__()
        self.encoder = nn.Embedding(words, size)
        self.recurrent = recurrent(size, size, 2, batch_first=True)
        self.decoder = nn.Linear(size, words)
        self.decoder.weight = self.encoder.weight

    def forward(self, words: Tensor) -> Tensor:
        return torch.log_softmax(self.decoder(self.recurrent(self.encoder(words))[0]), dim=-1)


class TimeSequence(nn.Module):
    """``time_sequence_prediction`` of torch's examples: two LSTM cells and a linear layer, step by step."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.lstm1 = nn.LSTMCell(1, size)
        self.lstm2 = nn.LSTMCell(size, size)
        self.linear = nn.Linear(size, 1)

    def forward(self, x: Tensor, future: int = 2) -> Tensor:
        h1 = c1 = x.new_zeros(len(x), self.lstm1.hidden_size)
        h2 = c2 = x.new_zeros(len(x), self.lstm1.hidden_size)
        outputs: list[Tensor] = []
        for step in [*x.split(1, dim=1), *[None] * future]:
            h1, c1 = self.lstm1(outputs[-1] if step is None else step, (h1, c1))
            h2, c2 = self.lstm2(h1, (h2, c2))
            outputs.append(self.linear(h2))
        return torch.cat(outputs, dim=1)


class Captioner(nn.Module):
    """A sentence grown from an image feature by a GRU cell, and an RNN cell that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(29, 12, padding_idx=0)
        self.speaker = nn.GRUCell(12, 10)
        self.reader = nn.RNNCell(12, 10, nonlinearity="relu")
        self.score = nn.Bilinear(10, 10, 5)

    def forward(self, feature: Tensor, words: Tensor) -> Tensor:
        said, heard = feature, torch.zeros_like(feature)
        for word in self.words(words).unbind(1):
            said, heard = self.speaker(word, said), self.reader(word, heard)
        return self.score(said, heard)


class CrossAttention(nn.Module):
    """Attention from one sequence to others of other sizes, and its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(
            16, 4, kdim=10, vdim=6, add_bias_kv=True, add_zero_attn=True, batch_first=True
        )

    def forward(self, q: Tensor, k: Tensor, v: Tensor, ignored: Tensor) -> tuple[Tensor, Tensor]:
        y, weights = self.attention(q, k, v, key_padding_mask=ignored)
        return y, weights


def _encoder(**options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def _late(batch: int, steps: int) -> Tensor:
    """A mask: later samples are shorter."""
    return torch.arange(steps)[None] >= steps - torch.arange(batch)[:, None]


# ---- after publications and examples ----


class Generator(nn.Module):
    """DCGAN (Radford 2016), after torch's examples."""

    def __init__(self, noise: int = 12, width: int = 6) -> None:
        super().__init__()

        def up(inputs: int, outputs: int, stride: int, padding: int) -> list[nn.Module]:
            conv = nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False)
            return [conv, nn.BatchNorm2d(outputs), nn.ReLU(True)]

        self.main = nn.Sequential(
            *up(noise, 4 * width, 1, 0),
            *up(4 * width, 2 * width, 2, 1),
            nn.ConvTranspose2d(2 * width, 3, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


def _discriminator(width: int = 6) -> nn.Module:
    """SN-GAN (Miyato 2018): spectral norms as parametrisations."""
    norm = parametrizations.spectral_norm
    return nn.Sequential(
        norm(nn.Conv2d(3, width, 4, 2, 1)),
        nn.LeakyReLU(0.2, inplace=True),
        norm(nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False)),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Flatten(),
        norm(nn.Linear(2 * width * 16, 1)),
    )


class TemporalBlock(nn.Module):
    """One block of TCN (Bai 2018): two causal dilated convolutions with weight norms, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, dilation: int, norm: Callable[..., nn.Module]) -> None:
        super().__init__()
        padding = 2 * dilation
        self.chop = padding
        self.conv1 = norm(nn.Conv1d(inputs, outputs, 3, padding=padding, dilation=dilation))
        self.conv2 = norm(nn.Conv1d(outputs, outputs, 3, padding=padding, dilation=dilation))
        self.downsample = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x)[..., : -self.chop])
        y = F.relu(self.conv2(y)[..., : -self.chop])
        return F.relu(y + self.downsample(x))


def _tcn(norm: Callable[..., nn.Module]) -> nn.Module:
    blocks = [TemporalBlock(4 if n == 0 else 10, 10, 2**n, norm) for n in range(3)]
    return nn.Sequential(*blocks, nn.Conv1d(10, 5, 1))


class WaveNet(nn.Module):
    """WaveNet (van den Oord 2016): gated dilated convolutions, skips, a speaker."""

    def __init__(self, width: int = 8, layers: int = 4) -> None:
        super().__init__()
        self.start = nn.Conv1d(1, width, 1)
        self.speakers = nn.Embedding(3, width)
        norm = parametrizations.weight_norm
        self.filters = nn.ModuleList(
            norm(nn.Conv1d(width, 2 * width, 2, dilation=2**n)) for n in range(layers)
        )
        self.skips = nn.ModuleList(nn.Conv1d(width, 12, 1) for _ in range(layers))
        self.residuals = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(layers - 1))
        self.end = nn.Sequential(nn.ReLU(), nn.Conv1d(12, 12, 1), nn.ReLU(), nn.Conv1d(12, 16, 1))

    def forward(self, x: Tensor, speaker: Tensor) -> Tensor:
        x = self.start(x) + self.speakers(speaker)[..., None]
        skipped = []
        for n, (gated, skip) in enumerate(zip(self.filters, self.skips, strict=True)):
            value, gate = gated(F.pad(x, (2**n, 0))).chunk(2, dim=1)
            y = torch.tanh(value) * torch.sigmoid(gate)
            skipped.append(skip(y))
            x = x + self.residuals[n](y) if n < len(self.residuals) else x
        return self.end(torch.stack(skipped).sum(0))


class LoRA(nn.Module):
    """A frozen layer plus a product of two narrow ones (Hu 2022)."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2.0 * self.up(self.down(x))


def _adapted() -> nn.Module:
    return nn.Sequential(LoRA(nn.Linear(20, 30), 3), nn.GELU(), LoRA(nn.Linear(30, 7), 2))


class Mixer(nn.Module):
    """MLP-Mixer (Tolstikhin 2021): matrices along patches, then along channels."""

    def __init__(self, patches: int = 16, width: int = 12, layers: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, stride=4)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.mixing = nn.ModuleList(self._mlp(size) for _ in range(layers) for size in (patches, width))
        self.head = nn.Linear(width, 5)

    @staticmethod
    def _mlp(size: int) -> nn.Module:
        return nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        for n, (norm, mlp) in enumerate(zip(self.norms, self.mixing, strict=True)):
            y = norm(x)
            x = x + (mlp(y.transpose(1, 2)).transpose(1, 2) if n % 2 == 0 else mlp(y))
        return self.head(x.mean(1))


def _orthogonal() -> nn.Module:
    """Layers whose weights stay orthogonal, one of them recurrent."""
    rnn = parametrizations.orthogonal(nn.RNN(6, 8, batch_first=True), "weight_hh_l0")
    return nn.Sequential(_Last(rnn), parametrizations.orthogonal(nn.Linear(8, 8)), nn.Tanh(), nn.Linear(8, 3))


class Scale(nn.Linear):
    """A subclass that computes what its class does."""

    def extra_repr(self) -> str:
        return "scale"


def _subclasses() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), Scale(8 * 36, 10))


def _video() -> nn.Module:
    """Convolutions and transposed convolutions in three dimensions, uneven everything."""
    return nn.Sequential(
        nn.Conv3d(2, 6, 3, stride=(1, 2, 2), padding=1, padding_mode="replicate"),
        nn.ReLU(),
        nn.Conv3d(6, 6, (3, 1, 3), groups=3, padding=(2, 0, 1), dilation=(2, 1, 1)),
        nn.ReLU(),
        nn.ConvTranspose3d(6, 4, (1, 3, 2), stride=(1, 2, 2), groups=2, output_padding=(0, 1, 0)),
    )


def _spectrum() -> nn.Module:
    """A Conv1d encoder and a ConvTranspose1d decoder, as in TasNet (Luo 2019)."""
    return nn.Sequential(
        nn.Conv1d(1, 16, 8, stride=4, bias=False),
        nn.PReLU(),
        nn.Conv1d(16, 16, 3, padding=4, dilation=4, groups=16),
        nn.Conv1d(16, 16, 1),
        nn.Sigmoid(),
        nn.ConvTranspose1d(16, 1, 8, stride=4, bias=False),
    )


def _frozen() -> nn.Module:
    """A backbone that is not trained under a head that is."""
    net = _residual()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.startswith("output"))
    return net


# ---- pytorchcv ----


def _class(package: str, name: str) -> Any:
    return getattr(importlib.import_module(package), name)


def _cv(module: str, name: str, *args: Any, **options: Any) -> nn.Module:
    """A network of pytorchcv, with a pool at its end that takes images of any size."""
    net: nn.Module = _class(f"pytorchcv.models.{module}", name)(*args, **options)
    features = getattr(net, "features", None)
    if isinstance(features, nn.Sequential) and hasattr(features, "final_pool"):
        features.final_pool = nn.AdaptiveAvgPool2d(1)
    return net


def _residual() -> nn.Module:
    return _cv("resnet_cifar", "CIFARResNet", [[6, 6], [8, 8]], 6, bottleneck=False, num_classes=5)


def _mobile3() -> nn.Module:
    return _cv(
        "mobilenetv3",
        "MobileNetV3",
        [[8], [12, 12]],
        [[8], [16, 24]],
        8,
        24,
        20,
        [[1], [0, 1]],
        [[1], [0, 0]],
        [[1], [0, 1]],
        first_stride=True,
        final_use_se=True,
        num_classes=5,
    )


def _efficient() -> nn.Module:
    return _cv(
        "efficientnet",
        "EfficientNet",
        [[8], [8, 8], [12]],
        8,
        24,
        [[3], [3, 5], [5]],
        [1, 2, 2],
        [[1], [4, 4], [2]],
        num_classes=5,
        tf_mode=True,
    )


def _squeeze() -> nn.Module:
    net = _cv("squeezenet", "SqueezeNet", [[16, 16], [24]], [[0, 1], [0]], 3, 12, num_classes=5)
    net.output.final_pool = nn.AdaptiveAvgPool2d(1)  # type: ignore[union-attr]
    return net


def _condensed() -> nn.Module:
    net = _cv("condensenet", "CondenseNet", [[12, 16]], 8, 2, num_classes=5)
    for name, chosen in net.named_buffers():  # which channels a layer reads; zeros until it is trained
        if name.endswith("index"):
            chosen.copy_(torch.arange(len(chosen)).flip(0))
    return net


def _dilated() -> nn.Module:
    units = [[6], [8, 8, 8]]
    flags = [[[n] * len(row) for row in units] for n in (0, 1)]
    return _cv(
        "drn", "DRN", units, 6, [[1], [1, 2, 4]], flags[0], [[1], [0, 0, 1]], [[0], [1, 1, 0]], num_classes=5
    )


def _enet() -> nn.Module:
    return _cv(
        "enet",
        "ENet",
        [16, 24, 16, 8],
        8,
        [[3, 3], [3, 3, 5, 3], [3, 3], [3, 3]],
        [[1, 1], [1, 2, 2, 4], [1, 1], [1, 1]],
        [[1, 1], [1, 2, 1, 4], [1, 1], [1, 1]],
        [[0, 0], [0, 0, 1, 0], [0, 0], [0, 0]],
        [0.01, 0.1, 0.1, 0.1],
        [1, 1, 0, 0],
        in_size=(32, 32),
        num_classes=4,
    )


def _speech() -> nn.Module:
    """QuartzNet: separable Conv1d's of a subclass with a forward of its own, which masks what is padding."""
    return _cv(
        "jasper",
        "Jasper",
        [12, 12, 16, 16, 20],
        [5, 5, 7, 9, 1],
        1e-3,
        [0.0] * 5,
        repeat=2,
        use_dw=True,
        use_dr=False,
        from_audio=False,
        in_channels=8,
        num_classes=6,
    )


# ---- transformers ----


def _hf(name: str, **config: Any) -> nn.Module:
    """A network of transformers with a tiny configuration: ``name`` is that of the class."""
    transformers = importlib.import_module("transformers")
    kind = getattr(transformers, name)
    net: nn.Module = kind(kind.config_class(**config))
    return net


_WORDS = {"vocab_size": 29, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def _gpt2() -> nn.Module:
    return _hf(
        "GPT2LMHeadModel",
        vocab_size=29,
        n_positions=12,
        n_embd=16,
        n_layer=2,
        n_head=2,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=1,
    )


def _bert() -> nn.Module:
    return _hf(
        "BertForSequenceClassification",
        vocab_size=29,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
        num_labels=3,
    )


def _llama() -> nn.Module:
    return _hf(
        "LlamaForCausalLM",
        vocab_size=29,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=1,
    )


def _vit() -> nn.Module:
    return _hf(
        "ViTForImageClassification",
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=16,
        patch_size=4,
        num_labels=3,
    )


def _convnext() -> nn.Module:
    return _hf(
        "ConvNextForImageClassification",
        hidden_sizes=[8, 12],
        depths=[1, 1],
        num_stages=2,
        num_labels=3,
        layer_scale_init_value=0.5,
    )


def _segformer() -> nn.Module:
    return _hf(
        "SegformerForSemanticSegmentation",
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 12],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=10,
        num_labels=3,
    )


def _wav2vec() -> nn.Module:
    return _hf(
        "Wav2Vec2Model",
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8, 8),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        apply_spec_augment=False,
        layerdrop=0.0,
    )


def _t5() -> nn.Module:
    return _hf(
        "T5ForConditionalGeneration",
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        use_cache=False,
        decoder_start_token_id=2,
        **_WORDS,
    )


def _whisper() -> nn.Module:
    return _hf(
        "WhisperForConditionalGeneration",
        num_mel_bins=8,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_source_positions=10,
        max_target_positions=12,
        use_cache=False,
        decoder_start_token_id=2,
        **_WORDS,
    )


# ---- monai and torch_geometric ----


def _unet3d() -> nn.Module:
    net: nn.Module = _class("monai.networks.nets", "UNet")(
        spatial_dims=3, in_channels=1, out_channels=2, channels=(4, 8, 12), strides=(2, 2), num_res_units=1
    )
    return net


def _vnet() -> nn.Module:
    net: nn.Module = _class("monai.networks.nets", "DynUNet")(
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        filters=[6, 8, 10],
    )
    return net


class Graphs(nn.Module):
    """Graphs as dense adjacency matrices: GCN (Kipf 2017), then GraphSAGE (Hamilton 2017), then a readout."""

    def __init__(self) -> None:
        super().__init__()
        dense = importlib.import_module("torch_geometric.nn.dense")
        self.first = dense.DenseGCNConv(5, 12)
        self.second = dense.DenseSAGEConv(12, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = F.relu(self.first(x, edges))
        x = F.relu(self.second(x, edges))
        return self.head(x.mean(dim=1))


def _graphs() -> Call:
    edges = (some(3, 7, 7, name="edges") > 0.5).float()
    return call(some(3, 7, 5), (edges + edges.mT).clamp(max=1))


def _cv_row(build: Callable[[], nn.Module], inputs: Callable[[], Call], **rest: Any) -> Network:
    return Network(build, inputs, needs=("pytorchcv",), **rest)


def _hf_row(build: Callable[[], nn.Module], inputs: Callable[[], Call], **rest: Any) -> Network:
    return Network(build, inputs, needs=("transformers",), **rest)


ZOO: dict[str, Network] = {
    "transformer": Network(
        lambda: nn.Transformer(16, 2, 1, 1, 24, batch_first=True),
        lambda: call(some(3, 5, 16), some(3, 4, 16, name="target")),
    ),
    "transformer encoder, norm first, padding": Network(
        lambda: _encoder(norm_first=True, activation="gelu"),
        lambda: call(some(3, 5, 16), src_key_padding_mask=_late(3, 5)),
    ),
    "transformer encoder, norm last": Network(_encoder, lambda: call(some(3, 5, 16))),
    "transformer decoder, sequence first": Network(
        lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 24), 2),
        lambda: call(some(4, 3, 16), some(6, 3, 16, name="memory")),
        rides=False,
    ),
    "LSTM, two directions, projections": Network(
        lambda: nn.LSTM(6, 9, 2, bidirectional=True, proj_size=4, batch_first=True),
        lambda: call(some(3, 7, 6)),
        rides=False,  # its states have the batch on axis 1
    ),
    "GRU, two directions": Network(
        lambda: _Last(nn.GRU(6, 9, 2, bidirectional=True, batch_first=True)), lambda: call(some(3, 7, 6))
    ),
    "RNN language model, tied": Network(lambda: LanguageModel(nn.RNN, 29, 14), lambda: call(tokens(3, 8))),
    "LSTM language model, tied": Network(lambda: LanguageModel(nn.LSTM, 29, 14), lambda: call(tokens(3, 8))),
    "LSTM cells": Network(lambda: TimeSequence(11), lambda: call(some(3, 6))),
    "GRU cell, RNN cell, bilinear": Network(Captioner, lambda: call(some(3, 10), tokens(3, 4))),
    "attention, sizes and extra keys": Network(
        CrossAttention,
        lambda: call(some(3, 4, 16), some(3, 5, 10), some(3, 5, 6), _late(3, 5)),
        digital=("attention.bias_[kv]",),
    ),
    "DCGAN generator": Network(Generator, lambda: call(some(3, 12, 1, 1))),
    "SN-GAN discriminator, spectral norm": Network(_discriminator, images(size=16)),
    "TCN, weight norm": Network(lambda: _tcn(parametrizations.weight_norm), lambda: call(some(3, 4, 16))),
    "TCN, the old weight norm": Network(
        lambda: _tcn(_class("torch.nn.utils", "weight_norm")), lambda: call(some(3, 4, 16))
    ),
    "WaveNet": Network(WaveNet, lambda: call(some(3, 1, 24), torch.tensor([0, 2, 1]))),
    "LoRA": Network(_adapted, lambda: call(some(3, 20))),
    "MLP-Mixer": Network(Mixer, images(size=16)),
    "orthogonal weights": Network(_orthogonal, lambda: call(some(3, 5, 6))),
    "subclass of a layer": Network(_subclasses, images(size=8)),
    "video, 3-D convolutions": Network(_video, lambda: call(some(3, 2, 4, 7, 6))),
    "TasNet, 1-D transposed": Network(_spectrum, lambda: call(some(3, 1, 48))),
    "ResNet": _cv_row(_residual, images(size=16)),
    "ResNet, frozen but the head": _cv_row(_frozen, images(size=16)),
    "MobileNetV2": _cv_row(
        lambda: _cv("mobilenetv2", "MobileNetV2", [[8], [12, 12]], 8, 24, False, num_classes=5), images()
    ),
    "MobileNetV3": _cv_row(_mobile3, images()),
    "ShuffleNet, channel shuffle": _cv_row(
        lambda: _cv("shufflenet", "ShuffleNet", [[24, 24], [48]], 12, 3, num_classes=5), images()
    ),
    "ShuffleNetV2": _cv_row(
        lambda: _cv("shufflenetv2", "ShuffleNetV2", [[32, 32]], 8, 24, use_se=True, num_classes=5), images()
    ),
    "DenseNet": _cv_row(
        lambda: _cv("densenet", "DenseNet", [[10, 14], [11, 15]], 6, num_classes=5), images()
    ),
    "CondenseNet, chosen channels": _cv_row(_condensed, images()),
    "EfficientNet": _cv_row(_efficient, images()),
    "SqueezeNet": _cv_row(_squeeze, images()),
    "SE-ResNet": _cv_row(
        lambda: _cv("seresnet_cifar", "CIFARSEResNet", [[16], [16]], 16, bottleneck=False, num_classes=5),
        images(size=16),
    ),
    "SKNet": _cv_row(lambda: _cv("sknet", "SKNet", [[64]], 16, num_classes=5), images()),
    "ShaResNet, shared convolutions": _cv_row(
        lambda: _cv("sharesnet", "ShaResNet", [[8, 8, 8], [12, 12, 12]], 8, False, False, num_classes=5),
        images(),
    ),
    "OctResNet": _cv_row(
        lambda: _cv("octresnet", "OctResNet", [[8], [12], [16]], 8, False, False, num_classes=5),
        images(size=64, batch=2),
        digital=("features.stage*.conv*.weight",),
    ),
    "U-Net": _cv_row(
        lambda: _cv("unet", "UNet", [[8, 12, 12], [12, 8, 6]], 6, in_size=(16, 16), num_classes=3),
        images(size=16),
    ),
    "DRN, dilated": _cv_row(_dilated, images(size=16)),
    "ENet, unpooling, transposed": _cv_row(_enet, images(batch=2)),
    "QuartzNet": _cv_row(
        _speech,
        lambda: call(some(3, 8, 32), torch.tensor([32, 25, 17])),
        options={"weights": ["features.*conv.weight"]},
    ),
    "GPT-2": _hf_row(
        _gpt2,
        lambda: call(tokens(3, 6)),
        options={"weights": ["*.c_attn.weight", "*.c_proj.weight", "*.c_fc.weight"]},
    ),
    "BERT": _hf_row(_bert, lambda: call(tokens(3, 6), attention_mask=(~_late(3, 6)).long())),
    "Llama": _hf_row(_llama, lambda: call(tokens(3, 6))),
    "ViT": _hf_row(_vit, images(size=16), digital=("*.cls_token", "*.position_embeddings")),
    "ConvNeXt": _hf_row(_convnext, images()),
    "SegFormer": _hf_row(_segformer, images()),
    "Wav2Vec2": _hf_row(_wav2vec, lambda: call(some(3, 200))),
    "T5": _hf_row(
        _t5, lambda: call(tokens(3, 6), decoder_input_ids=tokens(3, 4, name="target")), rides=False
    ),
    "Whisper": _hf_row(
        _whisper,
        lambda: call(some(3, 8, 20), decoder_input_ids=tokens(3, 4, name="target")),
        digital=("model.decoder.embed_positions.weight",),  # a subclass that takes rows of it itself
        rides=False,
    ),
    "3-D U-Net": Network(_unet3d, lambda: call(some(2, 1, 8, 8, 8)), needs=("monai",)),
    "DynUNet": Network(_vnet, images(channels=1, size=16), needs=("monai",)),
    "dense graph convolutions": Network(
        Graphs,
        _graphs,
        options={"weights": ["first.lin.weight"]},
        needs=("torch_geometric",),
    ),
}


def named(*names: str) -> Sequence[str]:
    """Names of the zoo, checked."""
    assert set(names) <= set(ZOO)
    return names
