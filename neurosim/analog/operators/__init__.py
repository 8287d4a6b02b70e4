"""The linear operators that a crossbar can compute: how each becomes a matrix, tiles and vectors."""

from neurosim.analog.operators.convolution import Convolution
from neurosim.analog.operators.layout import Layout, Referenced, layout, with_references
from neurosim.analog.operators.lookup import Lookup
from neurosim.analog.operators.matmul import Contracted, Matmul
from neurosim.analog.operators.operator import Operator
from neurosim.analog.operators.transposed import TransposedConvolution

__all__ = [
    "Contracted",
    "Convolution",
    "Layout",
    "Lookup",
    "Matmul",
    "Operator",
    "Referenced",
    "TransposedConvolution",
    "layout",
    "with_references",
]
