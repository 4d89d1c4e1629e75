from .op import AvgPool2dGeometry, adaptive_avg_pool2d, avg_pool2d

__all__ = ["AvgPool2dGeometry", "adaptive_avg_pool2d", "avg_pool2d"]
