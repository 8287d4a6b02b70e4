"""Where networks meet devices: deploy a network on chips, run it on many chips, see what acts."""

from neurosim.analog.deploy import deploy
from neurosim.analog.deployed import Deployed
from neurosim.analog.explain import Explanation
from neurosim.analog.layers import LAYERS, OnCrossbars, Site, register
from neurosim.analog.lot import Chips, Lot
from neurosim.analog.on_chips import OnChips

__all__ = [
    "LAYERS",
    "Chips",
    "Deployed",
    "Explanation",
    "Lot",
    "OnChips",
    "OnCrossbars",
    "Site",
    "deploy",
    "register",
]
