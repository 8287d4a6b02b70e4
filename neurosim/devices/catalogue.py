"""The table of device classes: a new device is one file and one row here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from neurosim.devices.aihwkit_noise import AihwkitNoise
from neurosim.devices.device import Device
from neurosim.devices.ecram import Ecram
from neurosim.devices.fefet import Fefet
from neurosim.devices.flash import Flash
from neurosim.devices.gaussian import Gaussian
from neurosim.devices.generic import Generic
from neurosim.devices.ideal import Ideal
from neurosim.devices.measured import Measured
from neurosim.devices.pcm import Pcm
from neurosim.devices.pcm_hermes import PcmHermes
from neurosim.devices.rram_cmo import RramCmo
from neurosim.devices.rram_milo import RramMilo
from neurosim.devices.rram_wan import RramWan
from neurosim.devices.sonos import Sonos
from neurosim.devices.stt_mram import SttMram
from neurosim.devices.subthreshold.synapse import Subthreshold

DEVICES: dict[str, type[Device]] = {
    "ideal": Ideal,
    "gaussian": Gaussian,
    "generic": Generic,
    "measured": Measured,
    "pcm": Pcm,
    "pcm-hermes": PcmHermes,
    "rram-wan": RramWan,
    "rram-cmo": RramCmo,
    "rram-milo": RramMilo,
    "sonos": Sonos,
    "flash": Flash,
    "fefet": Fefet,
    "ecram": Ecram,
    "stt-mram": SttMram,
    "subthreshold": Subthreshold,
    "aihwkit": AihwkitNoise,
}

if TYPE_CHECKING:
    AnyDevice = Device
else:
    # the union pydantic needs, chosen by the field `kind`, built from the table above
    AnyDevice = Annotated[Union[tuple(DEVICES.values())], Field(discriminator="kind")]  # noqa: UP007
