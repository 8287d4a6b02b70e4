"""Training: methods that turn a batch into gradients, and the loop that uses them."""

from neurosim.training.adversarial import AdversarialWeights
from neurosim.training.catalogue import METHODS, ROBUST, describe, method_from
from neurosim.training.loop import train
from neurosim.training.method import DrawsFor, Method
from neurosim.training.noise import ForwardNoise
from neurosim.training.settings import Progress, TrainResult
from neurosim.training.standard import Standard

__all__ = [
    "METHODS",
    "ROBUST",
    "AdversarialWeights",
    "DrawsFor",
    "ForwardNoise",
    "Method",
    "Progress",
    "Standard",
    "TrainResult",
    "describe",
    "method_from",
    "train",
]
