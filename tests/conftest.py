"""What every test shares: derandomised Hypothesis in CI, one torch thread, kernels for a GPU interpreted."""

from __future__ import annotations

import os
import shutil

from hypothesis import HealthCheck, settings

# Triton reads it when it is imported; where there is a GPU its kernels run there
if shutil.which("nvidia-smi") is None:
    os.environ["TRITON_INTERPRET"] = "1"

settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if os.environ.get("CI") else "local")
