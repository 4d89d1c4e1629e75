"""The ``minires`` command: a file for each of its commands."""

from minires.cli.app import app, main
from minires.cli.data import data_get, data_list, info
from minires.cli.depth import depth
from minires.cli.evaluate import evaluate
from minires.cli.gradcheck import gradcheck
from minires.cli.predict import predict
from minires.cli.train import train, warmup

__all__ = [
    "app",
    "data_get",
    "data_list",
    "depth",
    "evaluate",
    "gradcheck",
    "info",
    "main",
    "predict",
    "train",
    "warmup",
]
