"""Training: the loop over epochs, evaluation, and checkpoints that resume bit for bit."""

from minires.files import check_writable, write_atomic, write_json_atomic
from minires.train.callbacks import Callback, EarlyStopping, ModelCheckpoint, Run
from minires.train.checkpoint import load_checkpoint, read_progress, save_checkpoint
from minires.train.finder import LRSearch, find_lr
from minires.train.fit import fit
from minires.train.loop import EpochResult, Running, evaluate, train_epoch
from minires.train.trained import Trained, load_run
from minires.train.writers import CSVLogger, TensorBoard

__all__ = [
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "EpochResult",
    "LRSearch",
    "ModelCheckpoint",
    "Run",
    "Running",
    "TensorBoard",
    "Trained",
    "check_writable",
    "evaluate",
    "find_lr",
    "fit",
    "load_checkpoint",
    "load_run",
    "read_progress",
    "save_checkpoint",
    "train_epoch",
    "write_atomic",
    "write_json_atomic",
]
