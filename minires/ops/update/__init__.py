from .op import adam, sgd, zero

__all__ = ["adam", "sgd", "zero"]
