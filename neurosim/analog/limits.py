"""Users are told, once per network, device and bound, where a device is used beyond what was measured."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from neurosim.devices import Device, Hardware
from neurosim.devices.fit_range import FitRangeWarning

Bound = tuple[Device, str]


def heed_conductances(hardware: Hardware, said: set[Bound]) -> None:
    """Warn of ranges of conductance, of any layer's devices, that were not measured.

    Args:
        hardware: with its layers.
        said: devices and bounds of which this network's user has been told; grows.
    """
    for device in _devices(hardware):
        found = device.fit_range().conductance_beyond(device.kind, device.g_min_siemens, device.g_max_siemens)
        _tell(device, found, said)


def heed_age(hardware: Hardware, time_s: float, said: set[Bound]) -> None:
    """Warn of an age and a temperature at which a device was not measured; arguments as above."""
    if time_s == 0.0:
        return
    for one in hardware.variants() if hardware.layers else [hardware]:
        device, heat, measured = one.device, one.heat, one.device.fit_range()
        _tell(device, measured.time_beyond(device.kind, one.equivalent_s(time_s)), said)
        if heat.act:
            found = measured.heat_beyond(device.kind, heat.storage_kelvin, heat.reference_kelvin)
            _tell(device, found, said)


def _devices(hardware: Hardware) -> Iterable[Device]:
    return [one.device for one in (hardware.variants() if hardware.layers else [hardware])]


def _tell(device: Device, found: Iterable[tuple[str, str]], said: set[Bound]) -> None:
    for bound, sentence in found:
        if (device, bound) not in said:
            said.add((device, bound))
            warnings.warn(sentence, FitRangeWarning, stacklevel=4)
