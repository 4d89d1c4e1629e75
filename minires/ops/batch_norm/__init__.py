from .op import batch_norm

__all__ = ["batch_norm"]
