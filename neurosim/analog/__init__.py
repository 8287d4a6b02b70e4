"""Where networks meet devices: deploy a network on chips, run it on many chips, see what acts."""

from neurosim.analog.deploy import Deployed, OnChips, deploy
from neurosim.analog.explain import Explanation
from neurosim.analog.lot import Chips, Lot

__all__ = ["Chips", "Deployed", "Explanation", "Lot", "OnChips", "deploy"]
