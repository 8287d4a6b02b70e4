"""What a robust training step costs: its time per pass against a plain training step.

``python benchmarks/training.py [--rounds 9] [--threads 2]`` times, for the paper's CNN at batch 100, one
whole optimiser step of each method, interleaved in blocks of equally many passes so that all see the same
machine, and prints a table.  "ratio" is (step / passes) ÷ (plain step): a robust step may cost 1.1 a pass.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from neurosim import models
from neurosim.training import PAPER, AdversarialWeights, ForwardNoise, Standard, Step
from neurosim.training.running import draws_for_step

BATCH = 100
METHODS: dict[str, Any] = {
    "standard": Standard(),
    "noise": ForwardNoise(0.3),
    "adversarial": AdversarialWeights(beta=0.25),
    "robust (with noise)": PAPER,
}


def step_of(method: Any, layout: torch.memory_format) -> Any:
    """A function that runs one optimiser step, as the loop does."""
    model = models.create("cnn", num_classes=10, in_chans=1, image_size=(28, 28), seed=0).train()
    model.to(memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    x = torch.rand(BATCH, 1, 28, 28).contiguous(memory_format=layout)
    y = torch.randint(10, (BATCH,))

    def step(number: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        method.backward(Step(model, x, y, draws_for_step(0, number), 0.5))
        optimizer.step()

    return step


def measure(steps: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Seconds of a step, by round.

    A round gives every method a block of about equally many passes, so that a busy machine hurts all alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            block = max(1, round(12 / passes_of(name)))
            before = time.perf_counter()
            for k in range(block):
                step(number * block + k)
            if number:  # the first round warms up
                seconds[name].append((time.perf_counter() - before) / block)
    return seconds


def passes_of(name: str) -> float:
    """Passes of one step."""
    return METHODS[name].passes if name in METHODS else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    steps = {name: step_of(method, torch.channels_last) for name, method in METHODS.items()}
    steps["standard, channels first"] = step_of(Standard(), torch.contiguous_format)
    seconds = measure(steps, options.rounds)
    plain = statistics.median(seconds["standard"])
    print(
        f"paper's CNN, batch {BATCH}, {options.threads} threads,"
        f" median of {options.rounds} interleaved blocks"
    )
    print(f"{'method':28}{'ms/step':>9}{'passes':>8}{'ms/pass':>9}{'ratio':>7}")
    for name, values in seconds.items():
        passes, step = passes_of(name), statistics.median(values)
        print(
            f"{name:28}{step * 1e3:9.1f}{passes:8.0f}{step / passes * 1e3:9.1f}{step / passes / plain:7.2f}"
        )


if __name__ == "__main__":
    main()
