from .op import Conv2dGeometry, conv2d

__all__ = ["Conv2dGeometry", "conv2d"]
