"""Compile the kernels of a spiking layer for the compute capability given; print which were."""

from __future__ import annotations

import os
import sys

INTEGERS = {"blocked", "delays", "events"}
NUMBERS = {"height": "fp32", "steepness": "fp32"}
NO, YES = (dict.fromkeys(("SYNAPSE", "ADAPTIVE", "REFRACTORY", "DELAYED"), one) for one in (False, True))
FORWARD = {"RECURRENT": True, "CODES": True, "KEEP": True}
BACKWARD = {"DETACHED": False, "RELATIVE": True, "KIND": 0, "RECURRENT": True, "BLOCK": 16, "CHUNK": 16}


def compiled(kernel, pointers, choices, warps, capability):
    """Machine code of a kernel; ``pointers`` are its arrays."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {}
    for name in kernel.arg_names:
        if name in choices:
            signature[name] = "constexpr"
        elif name in pointers:
            signature[name] = "*i32" if name in INTEGERS else "*u8" if name == "codes" else "*fp32"
        else:
            signature[name] = NUMBERS.get(name, "i32")
    source = ASTSource(fn=kernel, signature=signature, constexprs=choices)
    options = {"num_warps": warps, "enable_fp_fusion": True}
    found = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert len(found.asm["cubin"]) > 1000
    return found


def main(capability):
    os.environ.pop("TRITON_INTERPRET", None)  # read when Triton is imported
    from neurosim.models.spiking import gpu_kernels

    layer = {
        "currents",
        "weight_t",
        "constants",
        "blocked",
        "delays",
        "events",
        "spikes",
        "codes",
        "potentials",
    }
    layer |= {"adaptations", "inputs", "synaptic"}
    back = {"grad_spikes", "weight", "constants", "delays", "codes", "potentials", "adaptations", "flying"}
    back |= {"grad_currents", "series_v", "series_i", "series_b", "series_level"}
    for wide, parts in ((256, NO | {"SUBTRACT": True}), (512, YES | {"SUBTRACT": False})):
        forward = parts | FORWARD | {"KEEP_INPUTS": parts["SYNAPSE"], "WIDE": wide}
        compiled(gpu_kernels.forward_kernel, layer, forward, gpu_kernels._warps(wide), capability)
        print("forward")
        backward = parts | BACKWARD | {"SERIES": parts["SYNAPSE"], "WIDE": wide, "PRECISION": "tf32x3"}
        compiled(gpu_kernels.backward_kernel, back, backward, 8, capability)
        print("backward")
    compiled(gpu_kernels.leak_kernel, {"x", "decay", "out"}, {"BACK": True, "WIDE": 128}, 2, capability)
    print("leak")


if __name__ == "__main__":
    main(int(sys.argv[1]))
