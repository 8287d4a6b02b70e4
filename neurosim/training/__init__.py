"""Training: methods that turn a batch into gradients, and the loop that uses them."""

from neurosim.training.abcd import BlockCoordinateDescent
from neurosim.training.adversarial import AdversarialWeights
from neurosim.training.averaging import MovingAverage, StochasticAverage
from neurosim.training.awp import AdversarialModelPerturbation, AdversarialWeightPerturbation
from neurosim.training.catalogue import METHODS, PAPER, ROBUST, ROBUST_MISMATCH, describe, method_from
from neurosim.training.clipping import WeightClipping
from neurosim.training.combined import Combined
from neurosim.training.damp import MultiplicativeCopies
from neurosim.training.distillation import Distillation
from neurosim.training.dropout import Dropout
from neurosim.training.entropy import EntropySGD
from neurosim.training.loop import train
from neurosim.training.method import DrawsFor, Method, Step
from neurosim.training.noise import ForwardNoise
from neurosim.training.random_weights import LowPassFilter, RandomWeightPerturbation
from neurosim.training.settings import Progress, TrainResult
from neurosim.training.sharpness import AdaptiveSharpnessAware, SharpnessAware
from neurosim.training.standard import Standard
from neurosim.training.trice import RightCensoredNoise

__all__ = [
    "METHODS",
    "PAPER",
    "ROBUST",
    "ROBUST_MISMATCH",
    "AdaptiveSharpnessAware",
    "AdversarialModelPerturbation",
    "AdversarialWeightPerturbation",
    "AdversarialWeights",
    "BlockCoordinateDescent",
    "Combined",
    "Distillation",
    "DrawsFor",
    "Dropout",
    "EntropySGD",
    "ForwardNoise",
    "LowPassFilter",
    "Method",
    "MovingAverage",
    "MultiplicativeCopies",
    "Progress",
    "RandomWeightPerturbation",
    "RightCensoredNoise",
    "SharpnessAware",
    "Standard",
    "Step",
    "StochasticAverage",
    "TrainResult",
    "WeightClipping",
    "describe",
    "method_from",
    "train",
]
