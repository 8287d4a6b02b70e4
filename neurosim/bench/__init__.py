"""Methods × seeds × chips from a recipe: train, put on chips, compare; stopped at any moment, it goes on.

``recipe`` reads and checks what is asked, ``running`` does it, ``command`` is ``neurosim bench-robust``.
Tables and figures are those of :mod:`neurosim.report.robust`.
"""
