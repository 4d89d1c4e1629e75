from .op import adam, rmsprop, sgd, zero

__all__ = ["adam", "rmsprop", "sgd", "zero"]
