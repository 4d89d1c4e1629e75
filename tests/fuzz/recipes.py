"""Valid arguments for everything public: what a bad value then stands among."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fuzz import vision
from fuzz.vision import written

import minires as mr
from minires import data, models, nn, optim

Make = Callable[[], Any]


def images() -> Any:
    return mr.randn(2, 4, 6, 6, requires_grad=True)


def matrix() -> Any:
    return mr.randn(2, 3, requires_grad=True)


def plain() -> Any:
    return mr.ones(2, 3)


def whole() -> Any:
    return mr.ones(2, 3, dtype="int64")


def vector(*size: int) -> Make:
    return lambda: mr.ones(*size)


def sequences() -> Any:
    return mr.randn(2, 4, 6, requires_grad=True)


def labels() -> Any:
    return mr.tensor([2, 0])


def square(x: Any) -> Any:
    return x * x


def doubled(x: Any) -> Any:
    return x * 2


def total(x: Any) -> Any:
    return (x * x * x).sum()


def point() -> Any:
    return mr.ones(2, dtype="float64", requires_grad=True)


def network() -> Any:
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten())


def seen() -> Any:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))


def after_backward() -> Any:
    net = seen()
    net(one_picture()).sum().backward()
    return net


def one_picture() -> Any:
    return mr.ones(1, 3, 6, 8)


def classifier() -> Any:
    return nn.Sequential(nn.Flatten(), nn.Linear(3, 3))


def sgd() -> Any:
    return optim.SGD(classifier().parameters(), lr=0.1, momentum=0.9)


def batches() -> Any:
    return [(np.ones((2, 3), np.float32), np.array([0, 2]))]


def schedulers() -> Any:
    optimizer = sgd()
    return {
        "optimizer": optimizer,
        "schedulers": [optim.StepLR(optimizer, 2), optim.StepLR(optimizer, 3)],
        "milestones": [2],
    }


def chained_state() -> Any:
    return optim.ChainedScheduler([optim.StepLR(sgd(), 2)]).state_dict()


def dataset() -> Any:
    return data.TensorDataset(np.ones((6, 1, 4, 4), np.float32), np.arange(6))


def draws() -> Any:
    return data.Draws(0, 0, np.arange(2))


def pictures() -> Any:
    return np.ones((2, 3, 8, 8), np.float32)


def _weights(path: Path) -> None:
    mr.save({"w": mr.ones(2)}, path)


def _checkpoint(path: Path) -> None:
    from minires.train import save_checkpoint

    save_checkpoint(path, model=classifier(), progress={"epoch": 1})


# What a parameter of this name is given, where the recipe of a function says nothing else.
BY_NAME: dict[str, Make] = {
    "x": images,
    "input": images,
    "y": matrix,
    "other": matrix,
    "w": vector(4, 4, 3, 3),
    "tensor": matrix,
    "tensors": lambda: [matrix(), matrix()],
    "dtype": lambda: "float32",
    "shape": lambda: (2, 3),
    "fill_value": lambda: 0.5,
    "value": lambda: 0.5,
    "n": lambda: 3,
    "k": lambda: 1,
    "dim": lambda: 0,
    "dim0": lambda: 0,
    "dim1": lambda: 1,
    "chunks": lambda: 2,
    "split_size": lambda: 1,
    "index": lambda: 0,
    "start": lambda: 0,
    "end": lambda: 4,
    "steps": lambda: 3,
    "low": lambda: 0,
    "high": lambda: 5,
    "seed": lambda: 1,
    "name": lambda: "a",
    "array": lambda: np.ones((2, 3), np.float32),
    "data": lambda: [[1.0, 2.0]],
    "source": lambda: np.ones((2, 3), np.float32),
    "f": lambda: square,
    "fn": lambda: lambda module: None,
    "function": lambda: square,
    "hook": lambda: lambda *values: None,
    "inputs": matrix,
    "v": lambda: mr.ones(2, 3),
    "condition": lambda: mr.ones(2, 3) > 0,
    "stride": lambda: 1,
    "kernel_size": lambda: 3,
    "output_size": lambda: 2,
    "num_groups": lambda: 2,
    "in_channels": lambda: 4,
    "out_channels": lambda: 4,
    "channels": lambda: 4,
    "num_features": lambda: 4,
    "in_features": lambda: 6,
    "out_features": lambda: 3,
    "num_channels": lambda: 4,
    "normalized_shape": lambda: 6,
    "modules": lambda: [nn.ReLU()],
    "module": nn.ReLU,
    "params": lambda: classifier().parameters(),
    "parameters": lambda: classifier().parameters(),
    "optimizer": sgd,
    "gamma": lambda: 0.5,
    "milestones": lambda: [1, 3],
    "state_dict": lambda: {},
    "model": classifier,
    "net": network,
    "loader": batches,
    "train_loader": batches,
    "test_loader": batches,
    "epochs": lambda: 1,
    "epoch": lambda: 0,
    "values": lambda: [mr.ones(2)],
    "dataset": dataset,
    "indices": lambda: np.array([0, 1]),
    "draws": draws,
    "path": lambda: Path.cwd() / "file",
    "folder": lambda: Path.cwd() / "folder",
    "activated": images,
    "depth": lambda: 8,
    "block": lambda: models.BasicBlock,
    "mode": lambda: True,
    "max_norm": lambda: 1.0,
    "clip_value": lambda: 1.0,
    "weight_decay": lambda: 0.1,
    "val": lambda: 0.5,
    "step": lambda: 1,
    "base_lr": lambda: 0.1,
    "lr": lambda: 0.1,
    "schedulers": lambda: [optim.StepLR(sgd(), 2)],
    **vision.BY_NAME,
}

_by_running = {
    "running_mean": vector(4),
    "running_var": vector(4),
}
_count = {"num_batches_tracked": lambda: mr.tensor(0)}
_classes = {"x": matrix, "input": matrix, "target": labels, "logits": matrix}
_same = {"x": matrix, "input": matrix, "target": lambda: mr.ones(2, 3)}
_module_like = {"self": network}

# Beside those: what one function is given. ``*name`` is a tuple for ``*name`` of the signature.
RECIPES: dict[str, dict[str, Make]] = {
    "show.filters": {"net": seen},
    "show.gradient_flow": {"net": after_backward},
    **{
        f"show.{name}": {"net": seen, "x": one_picture}
        for name in ("activations", "feature_maps", "grad_cam", "saliency")
    },
    "mr.Device": {"type": lambda: "cpu"},
    "mr.Device.gpu": {"number": lambda: 0},
    "mr.Device.parse": {"name": lambda: "cpu"},
    "mr.Generator.manual_seed": {"self": mr.Generator},
    "mr.Tensor.backward": {"self": lambda: matrix().sum()},
    "mr.Tensor.numpy": {"self": lambda: mr.ones(2, 3)},
    "mr.Tensor.item": {"self": lambda: mr.ones(1)},
    "mr.Tensor.t": {"self": matrix},
    "mr.Tensor.__setitem__": {"self": lambda: mr.ones(2, 3)},
    "mr.Tensor.reshape_as": {"other": matrix},
    "mr.Tensor.expand_as": {"other": matrix},
    "mr.Tensor.where": {"y": matrix},
    "mr.add": {"x": matrix},
    "mr.sub": {"x": matrix},
    "mr.mul": {"x": matrix},
    "mr.div": {"x": matrix},
    "mr.pow": {"x": matrix},
    "mr.maximum": {"x": matrix},
    "mr.remainder": {"x": matrix},
    "mr.minimum": {"x": matrix},
    "mr.allclose": {"x": matrix},
    "mr.where": {"x": matrix},
    "mr.matmul": {"x": matrix, "y": lambda: mr.ones(3, 2)},
    "mr.linear": {"x": matrix, "w": vector(5, 3), "b": vector(5)},
    "mr.conv1d": {"x": sequences, "w": vector(4, 4, 3)},
    "mr.max_pool1d": {"x": sequences},
    "mr.avg_pool1d": {"x": sequences},
    "mr.adaptive_avg_pool1d": {"x": sequences},
    "mr.interpolate": {"size": lambda: 3, "mode": lambda: "nearest"},
    "mr.backend": {"name": lambda: "numpy"},
    "mr.batch_norm": {**_by_running, **_count},
    "mr.binary_cross_entropy_with_logits": _same,
    "mr.mse_loss": _same,
    "mr.cross_entropy": _classes,
    "mr.nll_loss": _classes,
    "mr.broadcast_to": {"x": lambda: mr.ones(3)},
    "mr.capture": {"*state": lambda: ()},
    "mr.clamp": {"min": lambda: 0.0},
    "mr.Tensor.clamp_": {"self": lambda: mr.ones(2, 3), "min": lambda: 0.0},
    "mr.expand": {"*shape": lambda: (2, 4, 6, 6)},
    "mr.reshape": {"*shape": lambda: (8, -1)},
    "mr.permute": {"*order": lambda: (0, 2, 3, 1)},
    "mr.from_nhwc": {"images": lambda: mr.ones(2, 5, 5, 3)},
    "mr.grad": {"outputs": lambda: OUTPUT.sum(), "inputs": lambda: OUTPUT},
    "mr.hessian": {"f": lambda: total, "x": matrix},
    "mr.hvp": {"f": lambda: total},
    "mr.vjp": {"v": lambda: mr.ones(2, 3)},
    "mr.layer_norm": {"w": lambda: None},
    "mr.group_norm": {"w": lambda: None},
    "mr.load": {"path": written("w.safetensors", _weights)},
    "mr.load_metadata": {"path": written("w.safetensors", _weights)},
    "mr.save": {"state": lambda: {"w": mr.ones(2)}, "path": lambda: "new.safetensors"},
    "mr.export_onnx": {"path": lambda: "net.onnx"},
    "mr.draw": {"net": network, "path": lambda: "net.dot"},
    "mr.summary": {"model": network},
    "mr.pad": {"padding": lambda: (1, 0)},
    "mr.randint": {"shape": lambda: (2,)},
    "mr.set_num_threads": {"n": lambda: 2},
    "mr.set_float32_matmul_precision": {"precision": lambda: "highest"},
    "mr.split": {"dim": lambda: 0, "split_size": lambda: 1000},
    "mr.Tensor.register_hook": {"self": matrix, "hook": lambda: lambda gradient: None},
    "mr.Tensor.register_final_hook": {
        "self": lambda: mr.ones(2, 3, requires_grad=True),
        "hook": lambda: lambda gradient: None,
    },
    "mr.Tensor.retain_grad": {"self": matrix},
    "mr.Tensor.to": {"*targets": lambda: ("float64",)},
    "mr.Tensor.copy_": {"self": lambda: mr.ones(2, 3)},
    "mr.Tensor.fill_": {"self": lambda: mr.ones(2, 3)},
    "mr.Tensor.zero_": {"self": lambda: mr.ones(2, 3)},
    "mr.Tensor.relu_": {"self": lambda: mr.ones(2, 3)},
    "mr.from_dlpack": {"source": lambda: np.ones(3, np.float32)},
    "nn.functional.max_pool1d": {"input": sequences},
    "nn.functional.avg_pool1d": {"input": sequences},
    "nn.functional.adaptive_avg_pool1d": {"input": sequences},
    "nn.functional.interpolate": {"size": lambda: 3, "mode": lambda: "nearest"},
    "nn.functional.conv1d": {"input": sequences, "weight": vector(4, 4, 3)},
    "nn.functional.conv2d": {"weight": vector(4, 4, 3, 3)},
    "nn.functional.conv_transpose2d": {"weight": vector(4, 4, 3, 3)},
    "nn.functional.batch_norm": _by_running,
    "nn.functional.binary_cross_entropy_with_logits": _same,
    "nn.functional.mse_loss": _same,
    "nn.functional.cross_entropy": _classes,
    "nn.functional.nll_loss": _classes,
    "nn.functional.one_hot": {"tensor": labels},
    "nn.functional.pad": {"pad": lambda: (1, 0)},
    "nn.Identity": {},
    "nn.Linear.forward": {"x": lambda: mr.ones(2, 6)},
    **{
        f"nn.{name}.forward": {"x": sequences}
        for name in ("AdaptiveAvgPool1d", "AvgPool1d", "BatchNorm1d", "Conv1d", "MaxPool1d")
    },
    "nn.LazyBatchNorm1d.initialize_parameters": {"x": sequences},
    "nn.LazyConv1d.initialize_parameters": {"x": sequences},
    "nn.BCEWithLogitsLoss.forward": _same,
    "nn.MSELoss.forward": _same,
    "nn.CrossEntropyLoss.forward": _classes,
    "nn.NLLLoss.forward": _classes,
    "nn.ModuleDict": {"modules": lambda: {"a": nn.ReLU()}},
    "nn.ModuleDict.update": {"modules": lambda: {"b": nn.ReLU()}},
    "nn.ModuleList.__getitem__": {"index": lambda: 0},
    "nn.Parameter": {},
    "nn.ParameterList": {"values": lambda: [mr.ones(2)]},
    "nn.ParameterList.append": {"value": lambda: mr.ones(2)},
    "nn.Sequential": {"*modules": lambda: (nn.ReLU(),)},
    "nn.ZeroPad2d": {"padding": lambda: 1},
    "nn.Module.__call__": {"self": network, "*args": lambda: (images(),)},
    "nn.Module.load_state_dict": {"self": network, "state_dict": lambda: network().state_dict()},
    "nn.Module.register_buffer": {**_module_like, "tensor": lambda: mr.ones(2)},
    "nn.Module.register_parameter": {**_module_like, "param": lambda: nn.Parameter([1.0])},
    "nn.Module.to": {**_module_like, "target": lambda: "float64"},
    "nn.Module.train": _module_like,
    "nn.init.calculate_gain": {"nonlinearity": lambda: "relu"},
    "optim.LambdaLR": {"lr_lambda": lambda: lambda step: 0.5},
    "optim.CosineAnnealingLR": {"T_max": lambda: 10},
    "optim.OneCycleLR": {"max_lr": lambda: 0.5, "total_steps": lambda: 10},
    "optim.StepLR": {"step_size": lambda: 2},
    "optim.LRScheduler.load_state_dict": {
        "state_dict": lambda: optim.StepLR(sgd(), 2).state_dict()
    },
    "optim.LRScheduler.check_state_dict": {
        "state_dict": lambda: optim.StepLR(sgd(), 2).state_dict()
    },
    "optim.ChainedScheduler.load_state_dict": {"state_dict": chained_state},
    "optim.ChainedScheduler.check_state_dict": {"state_dict": chained_state},
    "optim.ReduceLROnPlateau.load_state_dict": {
        "state_dict": lambda: optim.ReduceLROnPlateau(sgd()).state_dict()
    },
    "optim.ReduceLROnPlateau.check_state_dict": {
        "state_dict": lambda: optim.ReduceLROnPlateau(sgd()).state_dict()
    },
    "optim.Optimizer.load_state_dict": {"state_dict": lambda: sgd().state_dict()},
    "optim.Optimizer.check_state_dict": {"state_dict": lambda: sgd().state_dict()},
    "optim.no_decay_groups": {"model_or_named_params": classifier},
    "optim.ReduceLROnPlateau.step": {"metrics": lambda: 1.0},
    "optim.Optimizer.add_param_group": {"group": lambda: {"params": [mr.nn.Parameter([1.0])]}},
    "data.Compose": {"transforms": lambda: [data.RandomHorizontalFlip()]},
    "data.Compose.__call__": {"x": pictures},
    "data.RandomCrop.__call__": {"x": pictures},
    "data.RandomHorizontalFlip.__call__": {"x": pictures},
    "data.Normalize.__call__": {"x": lambda: np.ones((2, 8, 8, 3), np.float32)},
    "data.Normalize": {"mean": lambda: (0.5, 0.5, 0.5), "std": lambda: (1.0, 1.0, 1.0)},
    "data.TensorDataset": {"x": pictures, "*others": lambda: (np.arange(2),)},
    "data.find_source": {"name": lambda: "digits"},
    "data.load": {"name": lambda: "digits"},
    "data.get": {"name": lambda: "digits", "progress": lambda: False},
    "data.random_split": {"lengths": lambda: [4, 2]},
    "data.BatchSampler": {
        "sampler": lambda: range(6),
        "batch_size": lambda: 2,
        "drop_last": lambda: False,
    },
    "data.ConcatDataset": {"datasets": lambda: [dataset(), dataset()]},
    "data.DistributedSampler": {"num_replicas": lambda: 2, "rank": lambda: 0},
    "data.DistributedSampler.set_epoch": {"epoch": lambda: 1},
    "data.RandomSampler": {"data_source": dataset},
    "data.SequentialSampler": {"data_source": dataset},
    "data.SubsetRandomSampler": {"indices": lambda: [0, 1]},
    "data.WeightedRandomSampler": {"weights": lambda: [1.0, 2.0], "num_samples": lambda: 3},
    "data.default_collate": {"batch": lambda: [(1, 2.0), (3, 4.0)]},
    "models.CifarNet": {"blocks": lambda: 1, "in_channels": lambda: 4},
    "models.create": {"name": lambda: "cifar_resnet8"},
    "models.ResNet": {
        "layers": lambda: (1, 1, 1, 1),
        "num_classes": lambda: 3,
        "in_channels": lambda: 4,
    },
    "models.SqueezeExcitation": {"reduction": lambda: 2},
    "models.cifar_wide_resnet": {"depth": lambda: 10, "width": lambda: 1},
    "models.keras_resnet50": {"input_shape": lambda: (3, 64, 64)},
    "train.load_checkpoint": {"path": written("c.npz", _checkpoint)},
    "train.read_progress": {"path": written("c.npz", _checkpoint)},
    "train.save_checkpoint": {"progress": lambda: {"epoch": 1}},
    "train.write_atomic": {"content": lambda: "text"},
    "train.write_json_atomic": {"value": lambda: {"a": 1}},
    "interop.strip_prefix": {"state": lambda: {"module.w": mr.ones(2)}},
    "gradcheck.check": {"inputs": point},
    "gradcheck.check2": {"inputs": point},
    "gradcheck.check_adjoint": {"f": lambda: doubled, "inputs": point},
    "gradcheck.taylor": {"inputs": point, "steps": lambda: 5},
    "gradcheck.check_module": {
        "module": lambda: nn.Linear(2, 2).double(),
        "inputs": lambda: mr.ones(1, 2, dtype="float64", requires_grad=True),
    },
    "gradcheck.analytic_jacobian": {"inputs": lambda: POINT, "wrt": lambda: POINT},
    "gradcheck.numeric_jacobian": {"inputs": lambda: POINT, "wrt": lambda: POINT},
    "gradcheck.detection_bound": {"probes": lambda: 3, "times": lambda: 2.0},
    "captured.Captured": {"state": lambda: ()},
    "captured.Captured.__call__": {
        "self": lambda: mr.capture(square),
        "*args": lambda: (mr.ones(2),),
    },
    "device.backend_name": {"place": lambda: mr.ones(2).numpy()},
    "device.backend_of": {"place": lambda: mr.ones(2).numpy()},
    "distributed.all_gather": {"tensor_list": lambda: [matrix()], "tensor": matrix},
    "distributed.all_gather_into_tensor": {
        "output_tensor": lambda: mr.ones(1, 2, 3),
        "input_tensor": matrix,
    },
    "distributed.all_gather_object": {"object_list": lambda: [None], "obj": lambda: "any"},
    "distributed.broadcast_object_list": {"object_list": lambda: ["any"]},
    "distributed.DistributedDataParallel": {"module": lambda: nn.Linear(3, 2)},
    "device.kernels": {"op": lambda: "relu"},
    "device.move": {"device": lambda: mr.Device("cpu")},
    "random.set_state": {"state": mr.random.get_state},
    "study.StudyConfig": {},
    **vision.RECIPES,
    "y in mr.Tensor": {"y": lambda: 1.0},
    "mr.Tensor.requires_grad = y": {"y": lambda: True},
    "mr.Tensor @ y": {"y": lambda: mr.ones(3, 2)},
    "y @ mr.Tensor": {"y": lambda: mr.ones(3, 2), "x": matrix},
}
for _symbol in "&|^":  # of integers; and writes in place, into what needs no gradient
    RECIPES[f"mr.Tensor {_symbol} y"] = RECIPES[f"y {_symbol} mr.Tensor"] = {"x": whole, "y": whole}
for _symbol in ("//", "%"):
    RECIPES[f"mr.Tensor {_symbol} y"] = {"x": plain, "y": plain}
    RECIPES[f"y {_symbol} mr.Tensor"] = {"x": plain, "y": plain}
for _symbol in ("+=", "*=", "/=", "**="):
    RECIPES[f"mr.Tensor {_symbol} y"] = {"x": plain}
for _name in ("add_", "sub_", "mul_", "div_", "pow_"):
    RECIPES[f"mr.Tensor.{_name}"] = {"self": plain}
OUTPUT: Any = mr.ones(2, 3, requires_grad=True)
POINT: Any = mr.ones(2, dtype="float64", requires_grad=True)

# Arguments that are made together, since they know each other.
TOGETHER: dict[str, Make] = {"optim.SequentialLR": schedulers}

# What a method is called on, where its class has no constructor to take it from.
INSTANCES: dict[str, Make] = {
    "mr.Tensor": matrix,
    "nn.Module": network,
    "optim.Optimizer": sgd,
    "nn.ModuleList": lambda: nn.ModuleList([nn.ReLU(), nn.ReLU()]),
    "nn.ModuleDict": lambda: nn.ModuleDict({"a": nn.ReLU()}),
    "nn.ParameterList": lambda: nn.ParameterList([mr.ones(2), mr.ones(2)]),
    "optim.LRScheduler": lambda: optim.StepLR(sgd(), 2),
    "data.ImageDataset": lambda: data.load("digits"),
    "mr.Generator": mr.Generator,
}

# What needs a package that users may leave out.
NEEDS = {"mr.export_onnx": "onnx"}

# Not called, and why; with the methods of a class.
SKIPPED = {
    "nn.Module": "what subclasses implement; its methods are called on a Sequential",
    "nn.Module.forward": "what subclasses implement",
    "optim.Optimizer": "what subclasses implement; its methods are called on SGD",
    "optim.LRScheduler": "what subclasses implement; its methods are called on StepLR",
    "data.Dataset": "what subclasses implement",
    "data.Sampler": "what subclasses implement",
    "mr.Function": "what subclasses implement; its methods are the engine's",
    "nn.Upsample": "keeps what it is given; mr.interpolate, which is called, checks it",
    "nn.UpsamplingBilinear2d": "keeps what it is given; mr.interpolate, which is called, checks it",
    "nn.UpsamplingNearest2d": "keeps what it is given; mr.interpolate, which is called, checks it",
    "nn.UninitializedBuffer": "has no values; tests/nn/test_lazy.py asks it for all there is",
    "nn.UninitializedParameter": "has no values; tests/nn/test_lazy.py asks it for all there is",
    "nn.LazyLinear.__call__": "takes whatever its forward does, as nn.Module.__call__",
    "nn.Summary": "a record that the library fills",
    "data.Source": "a record that the library fills",
    "data.ImageDataset": "a record that the library fills; data.load makes one",
    "train.Running": "a record that the library fills",
    "train.EpochResult": "a record that the library fills",
    "optim.swa_utils.AveragedModel": "tests/optim/test_swa_utils.py calls it",
    "optim.swa_utils.AveragedModel.forward": "gives what it is given to the network",
    "train.Trained": "a record that the library fills",
    "train.Trained.predict": "needs a run; tests/train has its own",
    "train.Trained.probabilities": "needs a run; tests/train has its own",
    "train.load_run": "needs a run; tests/train has its own",
    "train.Run": "a record that the library fills",
    "train.Run.stop": "a record of any reason",
    "train.Callback.on_fit_start": "what fit() calls",
    "train.Callback.on_step": "what fit() calls",
    "train.Callback.on_epoch_end": "what fit() calls",
    "train.Callback.on_fit_end": "what fit() calls",
    "train.EarlyStopping.on_fit_start": "what fit() calls",
    "train.EarlyStopping.on_epoch_end": "what fit() calls",
    "train.CSVLogger.on_fit_start": "what fit() calls",
    "train.CSVLogger.on_epoch_end": "what fit() calls",
    "train.TensorBoard": "needs tensorboardX; tests/train/test_writers.py calls it",
    "train.LRSearch": "a record that the library fills",
    "train.ModelCheckpoint.on_fit_start": "what fit() calls",
    "train.ModelCheckpoint.on_epoch_end": "what fit() calls",
    "gradcheck.AdjointReport": "a record that the library fills",
    "gradcheck.ArgumentResult": "a record that the library fills",
    "gradcheck.Report": "a record that the library fills",
    "gradcheck.TaylorReport": "a record that the library fills",
    "study.Protocol": "a record that the library fills",
    "study.StudyResults": "a record that the library fills",
    **{
        f"show.{name}": "a record that the library fills"
        for name in ("Activations", "FeatureMaps", "Filters", "Flow", "GradCAM", "Saliency")
    },
    "study.run_study": "trains for half a minute; its settings are StudyConfig's",
    "study.resume_study": "needs a run; tests/study has its own",
    "distributed.DistributedDataParallel.forward": "gives what it is given to the network",
    "distributed.Group": "the engine's; takes arrays as they are",
    "distributed.ReduceOp": "an enumeration",
    "device.cupy": "needs a GPU",
    "device.memory": "gives back whatever is no array",
    "cuda.device": "needs a GPU",
    "cuda.get_device_capability": "needs a GPU",
    "cuda.get_device_name": "needs a GPU",
    "cuda.mem_get_info": "needs a GPU",
    "cuda.memory_allocated": "needs a GPU",
    "cuda.memory_reserved": "needs a GPU",
    "cuda.memory_summary": "needs a GPU",
    "cuda.set_device": "needs a GPU",
    "cuda.synchronize": "needs a GPU",
    "mr.Tensor.cuda": "needs a GPU",
    "nn.Module.cuda": "needs a GPU",
    "data.get": "downloads",
    **vision.SKIPPED,
}
