"""Mismatch of a transistor from its area and its process, and what it does to a current below threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass

from neurosim.devices.subthreshold.physics import KAPPA_N, KAPPA_P, REFERENCE_KELVIN, thermal_voltage
from neurosim.errors import UsageError, unknown

_MV_UM = 1e-9  # one millivolt micrometre in V·m


@dataclass(frozen=True)
class Process:
    r"""What a process kit says of the mismatch of one kind of transistor.

    Values are those of *one* device against the mean: the difference of a pair has √2 times as much.
    Pelgrom's A_VT, as publications state it, is that of a pair, √2·``a_vt_volt_m``.

    Attributes:
        name: kit, type and supply.
        node_nm: of the process.
        a_vt_volt_m: σ(V_T)·√(W·L), everything included that shifts ln I below threshold as a gate voltage
            does.
        a_beta_m: σ(β)/β·√(W·L).
        beta_std: σ(β)/β that does not depend on the area.
        width_offset_m, length_offset_m: W and L of the law are those drawn plus these.
        kappa: κ used for its kind.
        source: file and lines of arithmetic.
    """

    name: str
    node_nm: float
    a_vt_volt_m: float
    kappa: float
    source: str
    a_beta_m: float = 0.0
    beta_std: float = 0.0
    width_offset_m: float = 0.0
    length_offset_m: float = 0.0


_GF180 = "sm141064.ngspice of the gf180mcu kit (rev. 9): 0.7071*par_vth"
_SKY130 = "sky130_fd_pr__{}__mismatch.corner.spice and __tt.pm3.spice of the SKY130 kit"
_IHP = "sg13g2_moslv_mismatch.lib of IHP's SG13G2 kit: {}_delvto_mm, one sigma"

PROCESSES: dict[str, Process] = {
    process.name: process
    for process in (
        Process(
            "gf180-nfet-3v3", 180.0, 0.7071 * 7.148 * _MV_UM, KAPPA_N, _GF180, a_beta_m=0.7071 * 0.7008e-8,
            width_offset_m=1e-7, length_offset_m=-1.5e-7,
        ),
        Process(
            "gf180-pfet-3v3", 180.0, 0.7071 * 6.66 * _MV_UM, KAPPA_P, _GF180, a_beta_m=0.7071 * 0.2833e-8,
            width_offset_m=1e-7, length_offset_m=-1.5e-7,
        ),
        Process(
            "gf180-nfet-6v0", 180.0, 0.7071 * 11.55 * _MV_UM, KAPPA_N, _GF180,
            width_offset_m=5e-7, length_offset_m=-4e-7,
        ),
        Process(
            "gf180-pfet-6v0", 180.0, 0.7071 * 10.51 * _MV_UM, KAPPA_P, _GF180, a_beta_m=0.7071 * 0.517e-8,
            width_offset_m=4e-7, length_offset_m=-3e-7,
        ),
        Process(
            "sky130-nfet-1v8", 130.0, math.hypot(3.356, 7.0) * _MV_UM, KAPPA_N,
            f"{_SKY130.format('nfet_01v8')}: vth0_slope 3.356, and below threshold voff_slope 7 mV·µm",
        ),
        Process(
            "sky130-pfet-1v8", 130.0, 5.856 * _MV_UM, KAPPA_P,
            f"{_SKY130.format('pfet_01v8')}: vth0_slope (two thirds of its bins; the others 7.356)",
        ),
        Process(
            "ihp130-nfet-1v2", 130.0, 3.9 * _MV_UM, KAPPA_N, _IHP.format("sg13g2_lv_nmos"), beta_std=0.005,
        ),
        Process(
            "ihp130-pfet-1v2", 130.0, 2.2 * _MV_UM, KAPPA_P, _IHP.format("sg13g2_lv_pmos"), beta_std=0.0033,
        ),
    )
}  # fmt: skip
"""Transistors of open process kits, by name.  κ is that of DYNAP-SE2's simulator, not the kits'."""


@dataclass(frozen=True)
class Transistor:
    """A transistor that sets a current.

    Pelgrom's law (M. Pelgrom, A. Duinmaijer and A. Welbers 1989, doi:10.1109/JSSC.1989.572629) and the
    exponential of weak inversion make ln I normal::

        σ_VT = a_VT/√(W·L)      σ_β = a_β/√(W·L)      s² = (κ·σ_VT/U_T)² + σ_β²      CV = √(e^(s²) − 1)

    A factor that devices share, such as a mirror's input, adds its own s² where it is not shared: a ratio
    of two devices has s·√2.

    Attributes:
        process: a name in :data:`PROCESSES`.
        width_m, length_m: as drawn.

    Raises:
        UsageError: unknown process, or a device without area.

    >>> t = Transistor("gf180-pfet-3v3", width_m=1e-6, length_m=1e-6)
    >>> f"{1000 * t.sigma_vt_volt:.2f} mV, CV {100 * t.cv():.1f} %, {100 * t.cv(233.15):.1f} % at -40 °C"
    '4.87 mV, CV 12.5 %, 16.1 % at -40 °C'
    """

    process: str
    width_m: float
    length_m: float

    def __post_init__(self) -> None:
        kind = self.kind
        ends = (
            ("width_m", self.width_m, kind.width_offset_m),
            ("length_m", self.length_m, kind.length_offset_m),
        )
        for field, drawn, offset in ends:
            if not 0 < drawn <= 1e-2 or drawn + offset <= 0:
                raise UsageError(
                    f"expected {field} from {max(0.0, -offset):g} to 0.01 in {self.process!r}; got {drawn!r}"
                )

    @property
    def kind(self) -> Process:
        """Its process."""
        if self.process not in PROCESSES:
            raise unknown("process", self.process, PROCESSES)
        return PROCESSES[self.process]

    @property
    def area_m2(self) -> float:
        """W·L of the law."""
        kind = self.kind
        return (self.width_m + kind.width_offset_m) * (self.length_m + kind.length_offset_m)

    @property
    def sigma_vt_volt(self) -> float:
        """σ(V_T) of this device against the mean of its kind."""
        return self.kind.a_vt_volt_m / math.sqrt(self.area_m2)

    @property
    def sigma_beta(self) -> float:
        """σ(β)/β."""
        return math.hypot(self.kind.a_beta_m / math.sqrt(self.area_m2), self.kind.beta_std)

    def log_std(self, kelvin: float = REFERENCE_KELVIN) -> float:
        """s, the standard deviation of ln I."""
        return math.hypot(self.kind.kappa * self.sigma_vt_volt / thermal_voltage(kelvin), self.sigma_beta)

    def cv(self, kelvin: float = REFERENCE_KELVIN) -> float:
        """Standard deviation of the current over its mean."""
        return cv_of(self.log_std(kelvin))

    def in_words(self) -> str:
        """For tables.

        >>> Transistor("gf180-nfet-3v3", 2e-6, 1e-6).in_words()
        'gf180-nfet-3v3, 2 x 1 µm, σ(V_T) 3.78 mV'
        """
        drawn = f"{self.width_m * 1e6:g} x {self.length_m * 1e6:g} µm"
        return f"{self.process}, {drawn}, σ(V_T) {self.sigma_vt_volt * 1e3:.3g} mV"


def cv_of(log_std: float) -> float:
    """√(e^(s²) − 1), the coefficient of variation of a lognormal.

    >>> round(cv_of(0.198), 3)
    0.2
    """
    return math.sqrt(math.expm1(log_std**2))


def log_std_of(cv: float) -> float:
    """s = √ln(1 + CV²).

    >>> round(log_std_of(0.2), 3)
    0.198
    """
    return math.sqrt(math.log1p(cv**2))
