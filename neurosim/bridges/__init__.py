"""To and from other simulators, a file each."""
