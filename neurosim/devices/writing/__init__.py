"""How conductances come about: switching models as differential equations, pulses, program-and-verify.

:mod:`switching` holds the equations, :mod:`verify` the process, :mod:`description` the table of a hardware
description that asks for it, :mod:`population` what pulses do to many devices of a model.
"""
