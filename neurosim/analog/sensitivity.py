"""To which weights a loss is most sensitive: where verified writing pays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from neurosim.errors import UsageError
from neurosim.random import stream


def hessian_diagonal(
    loss: Callable[[], Tensor], parameters: Sequence[nn.Parameter], probes: int = 8, seed: int = 0
) -> list[Tensor]:
    """The diagonal of the loss's second derivative, by Hutchinson's estimator.

        diag(H) = E[z ∘ H z]        z with entries of ±1

    Exact where H is diagonal; else the off-diagonal entries average out over the probes (C. Bekas, E.
    Kokiopoulou and Y. Saad, An estimator for the diagonal of a matrix, 2007).

    Args:
        loss: computes it anew; one backward pass of a backward pass is taken for each probe.
        parameters: with respect to which.
        probes: number of z.
        seed: of the probes.

    >>> w = nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> hessian_diagonal(lambda: (torch.tensor([3.0, 0.5]) * w**2).sum(), [w])[0].tolist()
    [6.0, 1.0]
    """
    if probes < 1:
        raise UsageError(f"expected at least 1 probe; got probes={probes}")
    with torch.enable_grad():
        gradients = torch.autograd.grad(loss(), parameters, create_graph=True, allow_unused=True)
        total = [torch.zeros_like(parameter) for parameter in parameters]
        reached = [number for number, gradient in enumerate(gradients) if _curved(gradient)]
        for probe in range(probes):
            signs = [_signs(parameters[number], f"{number}", probe, seed) for number in reached]
            dot = sum(
                ((gradients[number] * z).sum() for number, z in zip(reached, signs, strict=True)),
                torch.zeros(()),
            )
            if not reached:
                break
            products = torch.autograd.grad(
                dot, [parameters[number] for number in reached], retain_graph=True, allow_unused=True
            )
            for number, z, product in zip(reached, signs, products, strict=True):
                if product is not None:
                    total[number] += z * product.detach() / probes
    return total


def fisher_diagonal(
    logits: Callable[[], Tensor], parameters: Sequence[nn.Parameter], probes: int = 64, seed: int = 0
) -> list[Tensor]:
    """The diagonal of the Fisher information of a classifier: of its Gauss-Newton second derivative.

        F_ii = Σ_n E_{y ~ p(·|x_n)} (∂ log p(y|x_n)/∂w_i)²

    Never negative, and not near 0 where a network fits its data, unlike the loss's own second derivative.  A
    probe draws a label for every sample from the network's own probabilities and a sign, s; the square of the
    gradient of Σ_n s_n·log p(y_n|x_n) has F_ii as its mean, in one backward pass.

    Args:
        logits: computes them anew, (samples, classes, …).
        parameters: with respect to which.
        probes: number of draws.
        seed: of the draws.

    >>> w = nn.Parameter(torch.zeros(2))
    >>> found = fisher_diagonal(lambda: torch.stack([torch.zeros(3), w[0] * torch.ones(3)], 1), [w], 400)[0]
    >>> bool(abs(found[0] - 0.75) < 0.2), float(found[1])    # 3 samples, p(1 − p) = 1/4 each
    (True, 0.0)
    """
    if probes < 1:
        raise UsageError(f"expected at least 1 probe; got probes={probes}")
    total = [torch.zeros_like(parameter) for parameter in parameters]
    with torch.enable_grad():
        log_p = torch.log_softmax(logits(), dim=1)
        cumulative = log_p.detach().exp().cumsum(1)
        for probe in range(probes):
            draw, sign = (
                stream(seed, probe, what, "fisher").uniform((len(log_p), *log_p.shape[2:])).to(log_p)
                for what in ("label", "sign")
            )
            label = (draw.unsqueeze(1) > cumulative).sum(1, keepdim=True).clamp(max=log_p.shape[1] - 1)
            chosen = log_p.gather(1, label).squeeze(1)
            found = torch.autograd.grad(
                (torch.where(sign < 0.5, -1.0, 1.0) * chosen).sum(), parameters, retain_graph=True,
                allow_unused=True,
            )  # fmt: skip
            for one, gradient in zip(total, found, strict=True):
                if gradient is not None:
                    one += gradient.detach().square() / probes
    return total


def _curved(gradient: Tensor | None) -> bool:
    return gradient is not None and gradient.requires_grad


def _signs(parameter: Tensor, name: str, probe: int, seed: int) -> Tensor:
    u = stream(seed, probe, name, "hutchinson").uniform(tuple(parameter.shape))
    return torch.where(u < 0.5, -1.0, 1.0).to(parameter)


def most_sensitive(scores: Mapping[str, Tensor], fraction: float) -> dict[str, Tensor]:
    """Where the greatest scores are: masks that hold ``fraction`` of all entries, over all tensors together.

    Ties go to the entry that comes first.

    >>> masks = most_sensitive({"a": torch.tensor([1.0, 5.0]), "b": torch.tensor([3.0, 2.0])}, 0.5)
    >>> {name: mask.tolist() for name, mask in masks.items()}
    {'a': [False, True], 'b': [True, False]}
    """
    if not 0.0 <= fraction <= 1.0:
        raise UsageError(f"expected a fraction from 0 to 1; got {fraction!r}")
    flat = torch.cat([score.flatten().double().cpu() for score in scores.values()])
    count = round(fraction * flat.numel())
    chosen = torch.zeros(flat.numel(), dtype=torch.bool)
    chosen[flat.argsort(descending=True, stable=True)[:count]] = True
    parts = chosen.split([score.numel() for score in scores.values()])
    return {name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)}
