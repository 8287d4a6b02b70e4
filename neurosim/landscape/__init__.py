"""A network as a function of its weights: which of them sit on a chip, the worst of them nearby, how flat.

``parameters`` runs a network at other weights than its own; ``ascent`` climbs to bad weights nearby;
``attack`` looks for the worst around a trained network, with random draws beside it.
``losses`` is the loss over data at any weights; ``slopes``, ``curvature`` and ``plane`` say how flat it is.
"""
