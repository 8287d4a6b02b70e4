"""A recurrent layer of spiking neurons over all time steps, against the bare matrix products of its shape.

    python benchmarks/spiking.py [--part layer|steps|activity|chips|all] [--repeats 7] [--threads 2]

layer: batch 64, 100 inputs, 256 recurrent LIF, 500 steps, 2 to 4 % of neurons spiking a step; forward, and
    forward with backward (weights of input and recurrence), as ratios to the products alone: one for the
    inputs of all steps, one a step for the recurrence, and backward their transposes.  Kernels, the torch
    fallback, a plain loop under autograd, and the peers that are installed (snnTorch, Norse, sinabs,
    SpikingJelly, Rockpool), each given its inputs in the fastest way that it has.
steps: time a step at 100 to 4,000 steps.
activity: forward at higher and lower activity: where events stop paying.
chips: 32 chips of 16 samples through one recurrent pass against a loop over chips.

Everything of a part is interleaved: every repetition runs one after the other; the median ratio is printed,
with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from neurosim.feedback import feedback_of
from neurosim.memory import keep_freed_memory
from neurosim.models.spiking import Lif, Neurons, integrate, stepwise

Work = Callable[[], object]
BATCH, INPUTS, SIZE, STEPS = 64, 100, 256, 500
NEURON = Lif(tau_mem_s=0.02, v_threshold=1.0, reset="subtract", resistance=20.5)


def seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(title: str, reference: Work, works: dict[str, Work], repeats: int) -> None:
    """Medians of the ratios to the reference that ran just before."""
    for work in (reference, *works.values()):
        work()
    ratios: dict[str, list[float]] = {name: [] for name in works}
    took: list[float] = []
    for _ in range(repeats):
        for name, work in works.items():
            base = seconds(reference)
            took.append(base)
            ratios[name].append(seconds(work) / base)
    print(f"{title}: reference {1e3 * statistics.median(took):.1f} ms")
    for name, found in ratios.items():
        low, high = min(found), max(found)
        print(f"    {name:38s} {statistics.median(found):6.2f}  ({low:.2f} to {high:.2f})", flush=True)


class Bare:
    """The matrix products of the layer and nothing else."""

    def __init__(self, x: Tensor, w_in: Tensor, w: Tensor) -> None:
        batch, steps, inputs = x.shape
        size = len(w)
        self.x, self.w_in, self.w = x.reshape(-1, inputs), w_in, w
        self.spikes = (torch.rand(steps, batch, size) < 0.03).float()
        self.out, self.deltas = torch.empty(batch, size), torch.randn(batch * steps, size)

    def forward(self) -> None:
        torch.mm(self.x, self.w_in.t())
        for spikes in self.spikes:
            torch.mm(spikes, self.w.t(), out=self.out)

    def both(self) -> None:
        self.forward()
        for spikes in self.spikes:
            torch.mm(spikes, self.w, out=self.out)
        torch.mm(self.deltas.t(), self.spikes.flatten(0, 1))
        torch.mm(self.deltas.t(), self.x)


class Case:
    """One layer on one batch, by every way there is."""

    def __init__(self, steps: int = STEPS, scale: float = 0.1, batch: int = BATCH) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = (torch.rand(batch, steps, INPUTS, generator=generator) < 0.05).float()
        self.input = nn.Linear(INPUTS, SIZE, bias=False)
        self.recurrent = nn.Linear(SIZE, SIZE, bias=False)
        with torch.no_grad():
            self.input.weight.copy_(scale * torch.randn(SIZE, INPUTS, generator=generator))
            self.recurrent.weight.copy_(0.06 * torch.randn(SIZE, SIZE, generator=generator))
        self.neurons = Neurons(NEURON, SIZE)
        self.grad = torch.randn(batch, steps, SIZE, generator=generator)
        self.bare = Bare(self.x, self.input.weight.detach(), self.recurrent.weight.detach())

    def ours(self) -> Tensor:
        return self.neurons(self.input(self.x), feedback_of(self.recurrent))

    def fallback(self) -> Tensor:
        k = self.neurons.neuron.constants()
        return integrate(self.input(self.x), k, self.recurrent.weight, engine="torch")

    def loop(self) -> Tensor:
        return stepwise(self.neurons.neuron, self.input(self.x), feedback_of(self.recurrent))

    def forward(self, way: Callable[[], Tensor]) -> Work:
        def work() -> None:
            with torch.no_grad():
                way()

        return work

    def both(self, way: Callable[[], Tensor]) -> Work:
        def work() -> None:
            self.input.weight.grad = self.recurrent.weight.grad = None
            way().backward(self.grad)

        return work

    def ways(self) -> dict[str, Callable[[], Tensor]]:
        found = {"kernels": self.ours, "torch fallback": self.fallback, "loop under autograd": self.loop}
        for name, make in PEERS.items():
            if importlib.util.find_spec(name) is None:
                print(f"{name} is not installed: left out")
            else:
                found[name] = make(self)
        return found


def snntorch_way(case: Case) -> Callable[[], Tensor]:
    import snntorch

    # its reset takes the threshold off in the step after, as ours; its input is not scaled
    decay = float(case.neurons.neuron.constants().values[0, 0])
    cell = snntorch.Leaky(beta=decay, threshold=1.0, reset_mechanism="subtract")

    def way() -> Tensor:
        mem, spike = torch.zeros(len(case.x), SIZE), torch.zeros(len(case.x), SIZE)
        found = []
        for u in case.input(case.x).unbind(1):
            spike, mem = cell(u + case.recurrent(spike), mem)
            found.append(spike)
        return torch.stack(found, 1)

    return way


def norse_way(case: Case) -> Callable[[], Tensor]:
    from norse.torch.functional.lif import LIFParameters, LIFState, lif_step

    # as its modules have them; a synaptic current comes on top
    p = LIFParameters(
        torch.tensor(200.0), torch.tensor(50.0), v_th=torch.tensor(1.0), alpha=torch.tensor(100.0)
    )

    def way() -> Tensor:
        zeros = torch.zeros(len(case.x), SIZE)
        state = LIFState(zeros, zeros, zeros)
        found = []
        for x in case.x.unbind(1):
            spike, state = lif_step(x, state, case.input.weight, case.recurrent.weight, p, 1e-3)
            found.append(spike)
        return torch.stack(found, 1)

    return way


def sinabs_way(case: Case) -> Callable[[], Tensor]:
    from sinabs.activation import SingleSpike
    from sinabs.layers import LIFRecurrent

    layer = LIFRecurrent(tau_mem=20.0, rec_connect=case.recurrent, spike_fn=SingleSpike)

    def way() -> Tensor:
        layer.reset_states()
        return layer(case.input(case.x))

    return way


def spikingjelly_way(case: Case) -> Callable[[], Tensor]:
    from spikingjelly.activation_based.neuron import LIFNode

    cell = LIFNode(tau=20.0, v_reset=None)

    def way() -> Tensor:
        cell.reset()
        spike = torch.zeros(len(case.x), SIZE)
        found = []
        for u in case.input(case.x).unbind(1):
            spike = cell(u + case.recurrent(spike))
            found.append(spike)
        return torch.stack(found, 1)

    return way


def rockpool_way(case: Case) -> Callable[[], Tensor]:
    from rockpool.nn.modules.torch.lif_torch import LIFTorch

    # a synaptic current comes on top, as in Norse; it keeps a weight of its own
    decay = float(case.neurons.neuron.constants().values[0, 0])
    layer = LIFTorch(
        (SIZE, SIZE), leak_mode="decays", alpha=torch.full((SIZE,), decay), beta=torch.full((SIZE, 1), 0.5),
        has_rec=True, w_rec=case.recurrent.weight.detach().t().clone(), threshold=torch.tensor(1.0),
    )  # fmt: skip

    def way() -> Tensor:
        layer.reset_state()
        spikes, _, _ = layer(case.input(case.x))
        return spikes

    return way


PEERS: dict[str, Callable[[Case], Callable[[], Tensor]]] = {
    "snntorch": snntorch_way,
    "norse": norse_way,
    "sinabs": sinabs_way,
    "spikingjelly": spikingjelly_way,
    "rockpool": rockpool_way,
}


def layer(repeats: int) -> None:
    case = Case()
    with torch.no_grad():
        active = float(case.ours().mean())
    print(f"batch {BATCH}, {INPUTS} inputs, {SIZE} LIF, {STEPS} steps, {100 * active:.1f} % spike in a step")
    ways = case.ways()
    compare("forward", case.bare.forward, {n: case.forward(w) for n, w in ways.items()}, repeats)
    compare("forward and backward", case.bare.both, {n: case.both(w) for n, w in ways.items()}, repeats)


def steps(repeats: int) -> None:
    for count in (100, 500, 1000, 2000, 4000):
        case = Case(count, batch=16)
        way = case.both(case.ours)
        way()
        each = [1e6 * seconds(way) / count for _ in range(repeats)]
        print(
            f"{count:5d} steps: {statistics.median(each):6.1f} us a step, batch 16, forward and backward",
            flush=True,
        )


def activity(repeats: int) -> None:
    for scale in (0.05, 0.1, 0.4, 1.5, 6.0):
        case = Case(scale=scale)
        with torch.no_grad():
            active = float(case.ours().mean())
        ways = {"kernels": case.forward(case.ours), "torch fallback": case.forward(case.fallback)}
        compare(f"forward, {100 * active:.2f} % spike", case.bare.forward, ways, repeats)


def chips(repeats: int) -> None:
    count, batch = 32, 16
    case = Case(batch=batch)
    generator = torch.Generator().manual_seed(1)
    w = case.recurrent.weight.detach() * (1 + 0.2 * torch.randn(count, SIZE, SIZE, generator=generator))
    k = case.neurons.neuron.constants()
    with torch.no_grad():
        u = case.input(case.x)
    every = u.repeat(count, 1, 1)

    def together() -> Tensor:
        with torch.no_grad():
            return integrate(every, k, w)

    def apart() -> Tensor:
        with torch.no_grad():
            return torch.cat([integrate(u, k, one) for one in w])

    assert torch.equal(together(), apart())
    compare(f"{count} chips of {batch} samples one by one", apart, {"together, same bits": together}, repeats)


PARTS: dict[str, Callable[[int], None]] = {
    "layer": layer,
    "steps": steps,
    "activity": activity,
    "chips": chips,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    load = os.getloadavg()[0]
    print(f"{args.threads} threads; load of the machine {load:.1f}" + (", which is busy" if load > 1 else ""))
    for name, part in PARTS.items():
        if args.part in (name, "all"):
            part(args.repeats)


if __name__ == "__main__":
    main()
