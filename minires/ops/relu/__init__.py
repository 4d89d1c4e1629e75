from .op import relu, relu_

__all__ = ["relu", "relu_"]
