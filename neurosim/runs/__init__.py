"""A run is a folder: write what it needs to be repeated, open it again, put its network on chips.

``config.toml`` holds everything needed to repeat the run, ``model.safetensors`` its weights (with a
checksum inside), ``metrics.jsonl`` one line an epoch, ``checkpoints/`` what resuming needs, and
``chips.sqlite`` the ledger of every chip evaluated.  Nothing unpickles.
"""

from neurosim.runs.batches import CALIBRATION_SAMPLES, PIXELS_BATCH, TEST_BATCH, batch_size_for
from neurosim.runs.config import (
    CONFIG,
    LEDGER,
    WEIGHTS,
    Config,
    DataPart,
    MethodPart,
    ModelPart,
    OriginPart,
    TrainPart,
    parse_changes,
    read_config,
    versions,
)
from neurosim.runs.evaluating import Evaluation, Shard, evaluate_run, merge_ledgers
from neurosim.runs.fusing import FUSED_WITHIN, Fusion, fuse_run
from neurosim.runs.making import create_model, load_data
from neurosim.runs.new import new_config, with_init
from neurosim.runs.subjects import BATCHNORM, OwnNetwork, Placement, Run, Subject, open_run, own_network
from neurosim.runs.training import KEPT_ON_DEVICE_BYTES, train_run
from neurosim.runs.weights import WHOLE, begin_from, load_weights

__all__ = [
    "BATCHNORM",
    "CALIBRATION_SAMPLES",
    "CONFIG",
    "Config",
    "DataPart",
    "Evaluation",
    "FUSED_WITHIN",
    "Fusion",
    "KEPT_ON_DEVICE_BYTES",
    "LEDGER",
    "MethodPart",
    "ModelPart",
    "OriginPart",
    "OwnNetwork",
    "PIXELS_BATCH",
    "Placement",
    "Run",
    "Shard",
    "Subject",
    "TEST_BATCH",
    "TrainPart",
    "WEIGHTS",
    "WHOLE",
    "batch_size_for",
    "begin_from",
    "create_model",
    "evaluate_run",
    "fuse_run",
    "load_data",
    "load_weights",
    "merge_ledgers",
    "new_config",
    "open_run",
    "own_network",
    "parse_changes",
    "read_config",
    "train_run",
    "versions",
    "with_init",
]
