"""Commands, a file for each or for a group; :mod:`neurosim.cli` joins them.

``options``, ``opening`` and ``on_chips`` are what several of them share.
"""
