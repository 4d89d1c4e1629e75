from .op import MaxPool2dGeometry, max_pool2d

__all__ = ["MaxPool2dGeometry", "max_pool2d"]
