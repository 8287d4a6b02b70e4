"""Groups of commands, a file each; :mod:`neurosim.cli` joins them."""
