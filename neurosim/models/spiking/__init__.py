"""Spiking networks in plain torch: neurons as equations, layers over all time steps at once.

>>> import torch
>>> from neurosim.models.spiking import Lif, Recurrent
>>> layer = Recurrent(inputs=40, size=64, neuron=Lif(tau_mem_s=0.02, v_threshold=0.5))
>>> spikes = layer(torch.rand(8, 100, 40))
>>> spikes.shape
torch.Size([8, 100, 64])

A neuron is a frozen description of its parameters (:class:`Lif`, :class:`CubaLif`, :class:`Alif`,
:class:`If`, :class:`AdEx`, :class:`DpiNeuron`), whose ``stepper`` is a pure function of one time step;
:class:`Neurons` is the module that holds one value of each parameter for each neuron.
"""

from neurosim.models.spiking.adex import AdEx
from neurosim.models.spiking.constants import Constants, Flag, Row, State, step
from neurosim.models.spiking.dpi import DpiNeuron, DpiSynapse
from neurosim.models.spiking.layers import Delay, Filter, Neurons, Recurrent, stepwise
from neurosim.models.spiking.neurons import Alif, CubaLif, If, Lif, LinearNeuron, Neuron, decay_of
from neurosim.models.spiking.operators import Record, integrate, leak, record
from neurosim.models.spiking.readout import CubaLeakyIntegrator, Integrator, LeakyIntegrator, delayed
from neurosim.models.spiking.surrogates import Surrogate

__all__ = [
    "AdEx",
    "Alif",
    "Constants",
    "CubaLeakyIntegrator",
    "CubaLif",
    "Delay",
    "DpiNeuron",
    "DpiSynapse",
    "Filter",
    "Flag",
    "If",
    "Integrator",
    "LeakyIntegrator",
    "Lif",
    "LinearNeuron",
    "Neuron",
    "Neurons",
    "Record",
    "Recurrent",
    "Row",
    "State",
    "Surrogate",
    "decay_of",
    "delayed",
    "integrate",
    "leak",
    "record",
    "step",
    "stepwise",
]
