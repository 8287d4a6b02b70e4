"""Seconds per chip of a full evaluation ÷ seconds of the same network's plain float32 forward.

Hardware: PCM (programming, drift, slow read noise, global compensation), 512×512 tiles, 8-bit DAC and
ADC, white output noise on every product of every tile, one hour old: aihwkit's default setting.
Reference: the same network, plain torch, same batch, same threads (channels-last for convolutions).
We split a batch into pieces whose activations stay in cache, which plain torch does not; what that alone
would bring to plain torch is printed beside ("plain in pieces", as a ratio to the same reference).
Each repetition runs reference and chips one after the other, so that both see the same machine.

Where aihwkit can be imported, the same evaluation through its torch tile runs in the same interleaving
(program_analog_weights, drift_analog_weights, forward); its compiled tile needs one exact torch version
and is left out.  aihwkit-lightning has neither devices nor ageing: its layers run with 8-bit inputs and
outputs, white output noise and Gaussian weight noise, drawn in each forward (training mode, rest in eval).

    python benchmarks/engine.py [--network mlp|mlp-1000|cnn|resnet18|vit-tiny|all] [--chips 1,10]
                                [--repeats 5] [--threads 2] [--profile]

``--chips 1,10,100,1000`` makes the table of time and peak memory against chips.
"""

from __future__ import annotations

import argparse
import copy
import resource
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from networks import ROWS, network

import neurosim as ns


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def aihwkit_chip(plain: torch.nn.Module, x: torch.Tensor) -> Callable[[], None] | None:
    """One chip of aihwkit's torch tile with the same settings, as a callable; None without aihwkit."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from aihwkit.inference import GlobalDriftCompensation, PCMLikeNoiseModel
            from aihwkit.nn.conversion import convert_to_analog
            from aihwkit.simulator.configs import TorchInferenceRPUConfig
    except ImportError:
        return None
    config = TorchInferenceRPUConfig()
    config.mapping.max_input_size = config.mapping.max_output_size = 512
    config.forward.inp_res = config.forward.out_res = 1 / 254
    config.forward.out_noise = 0.04
    config.noise_model = PCMLikeNoiseModel(g_max=25.0)
    config.drift_compensation = GlobalDriftCompensation()
    analog = convert_to_analog(copy.deepcopy(plain), config).eval()

    def chip() -> None:
        with torch.no_grad():
            analog.program_analog_weights()
            analog.drift_analog_weights(3600.0)
            analog(x)

    return chip


def lightning_chip(plain: torch.nn.Module, x: torch.Tensor) -> Callable[[], None] | None:
    """One forward of aihwkit-lightning; None without it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from aihwkit_lightning.nn.conversion import convert_to_analog
            from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig
            from aihwkit_lightning.simulator.parameters import WeightNoiseInjectionType
    except ImportError:
        return None
    config = TorchInferenceRPUConfig()
    config.mapping.max_input_size = 512
    config.forward.inp_res = config.forward.out_res = 1 / 254
    config.forward.out_noise, config.forward.out_bound = 0.04, 12.0
    config.modifier.noise_type = WeightNoiseInjectionType.ADD_NORMAL
    config.modifier.std_dev = 0.03
    config.pre_post.input_range.enable = True
    config.pre_post.input_range.init_from_data = 0
    analog = convert_to_analog(copy.deepcopy(plain), config).eval()
    for module in analog.modules():
        if "Analog" in type(module).__name__:
            module.train()

    def chip() -> None:
        with torch.no_grad():
            analog(x)

    return chip


PEERS = {"aihwkit torch tile": aihwkit_chip, "aihwkit-lightning": lightning_chip}


def runs(title: str, chip: Callable[[], None] | None) -> Callable[[], None] | None:
    """The peer, unless it is absent or fails on this network, which is then said."""
    if chip is None:
        return None
    try:
        chip()
    except RuntimeError as error:
        print(f"{title} fails on this network: {str(error).split('.')[0]}", flush=True)
        return None
    return chip


@torch.no_grad()
def measure(name: str, counts: list[int], repeats: int) -> None:
    plain, x = network(name)
    hw = ns.hardware("pcm-aihwkit-default")
    net = ns.deploy(plain, hw, calibration=x[:100])
    net.eval()
    lot = ns.Lot(hw)
    block = net.chip_block(x)
    with net.on(lot[0]) as chips:
        step = chips.samples_per_piece(x)
    others = {
        title: chip for title, make in PEERS.items() if (chip := runs(title, make(plain, x))) is not None
    }

    def evaluate(count: int) -> None:
        for start in range(0, count, block):
            with net.on(lot[start : min(start + block, count)], time_s=3600.0) as chips:
                chips(x)

    plain(x), evaluate(1)
    for count in counts:
        ratios, per_chip, reference, pieces = [], [], [], []
        peers: dict[str, list[float]] = {title: [] for title in others if count == counts[0]}
        for _ in range(repeats if count < 100 else 1):
            before = seconds(lambda: plain(x))
            took = seconds(lambda: evaluate(count)) / count  # noqa: B023
            reference.append(min(before, seconds(lambda: plain(x))))
            per_chip.append(took)
            ratios.append(took / reference[-1])
            pieces.append(seconds(lambda: [plain(piece) for piece in x.split(step)]) / reference[-1])
            for title, found in peers.items():
                found.append(seconds(others[title]) / reference[-1])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(
            f"{name:8s} {len(x):6d} samples  {count:4d} chips"
            f"  plain {1e3 * statistics.median(reference):7.1f} ms"
            f"  chip {1e3 * statistics.median(per_chip):7.1f} ms  ratio {statistics.median(ratios):5.2f}"
            f" (best {min(ratios):.2f})  plain in pieces of {step} {statistics.median(pieces):.2f}"
            f"  peak {peak:.2f} GB",
            flush=True,
        )
        for title, found in peers.items():
            print(
                f"{name:8s} {len(x):6d} samples  {title}, 1 chip: ratio {statistics.median(found):.2f}",
                flush=True,
            )


@torch.no_grad()
def profile(name: str) -> None:
    """Where the time of one chip goes."""
    plain, x = network(name)
    net = ns.deploy(plain, ns.hardware("pcm-aihwkit-default"), calibration=x[:100])
    net.eval()
    with net.on(ns.Lot(net.hardware)[0], time_s=3600.0) as chips:
        chips(x)
    with (
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found,
        net.on(ns.Lot(net.hardware)[1], time_s=3600.0) as chips,
    ):
        chips(x)
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="all", choices=["all", *ROWS])
    parser.add_argument("--chips", default="1,10")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in [*ROWS] if args.network == "all" else [args.network]:
        if args.profile:
            profile(name)
        else:
            measure(name, [int(n) for n in args.chips.split(",")], args.repeats)


if __name__ == "__main__":
    main()
