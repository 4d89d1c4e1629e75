"""What a study compares: its settings, and the networks that they name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from minires import arguments, data
from minires.errors import ArgumentError, message, quoted
from minires.models.cifar import blocks_per_stage
from minires.study import protocols
from minires.study.tables import KINDS

Key = tuple[int, str, int]  # (depth, kind, seed) of a network


@dataclass(frozen=True)
class StudyConfig:
    """What a study compares, on which data, by which recipe. Checked by :meth:`check`."""

    dataset: str = "digits"
    depths: tuple[int, ...] = (8, 20, 32, 56)
    kinds: tuple[str, ...] = KINDS
    seeds: tuple[int, ...] = (0,)
    shortcut: str = "A"
    protocol: protocols.Protocol = protocols.PROTOCOLS["quick"]
    limit: int | None = None

    def check(self) -> None:
        """Raise for anything that would fail later.

        Raises:
            ArgumentError: a depth that is not 6n+2, an unknown kind, shortcut or data set, a
                negative seed, or an empty list.
        """
        data.find_source(self.dataset)
        for name in ("depths", "kinds", "seeds"):
            values = getattr(self, name)
            if not isinstance(values, tuple | list):
                raise ArgumentError(message("study", f"{name} as a tuple", quoted(values)))
            if not values:
                raise ArgumentError(message("study", f"at least one of {name}", "none"))
            if len(set(values)) != len(values):
                raise ArgumentError(message("study", f"each of {name} once", values))
        for depth in self.depths:
            blocks_per_stage(depth)
        for kind in self.kinds:
            arguments.choice("kind of network", kind, KINDS)
        for seed in self.seeds:
            arguments.integer("study", "seed", seed, 0, 2**64 - 1)
        arguments.choice("shortcut", self.shortcut, ("A", "B"))
        if self.limit is not None:
            arguments.integer("study", "limit", self.limit, 1)
        if not isinstance(self.protocol, protocols.Protocol):
            got = quoted(self.protocol)
            raise ArgumentError(message("study", "a protocol of study.PROTOCOLS", got))

    def to_json(self) -> dict[str, Any]:
        """The settings as plain values."""
        lists = {name: list(getattr(self, name)) for name in ("depths", "kinds", "seeds")}
        return {**asdict(self), **lists, "protocol": self.protocol.to_json()}


def from_json(stored: dict[str, Any]) -> StudyConfig:
    """The settings that a stored study has."""
    config = StudyConfig(
        dataset=stored["dataset"],
        depths=tuple(stored["depths"]),
        kinds=tuple(stored["kinds"]),
        seeds=tuple(stored["seeds"]),
        shortcut=stored["shortcut"],
        protocol=protocols.Protocol.from_json(stored["protocol"]),
        limit=stored["limit"],
    )
    config.check()
    return config


def networks(config: StudyConfig) -> list[Key]:
    """Every network of a study, in the order in which results have them."""
    return [(d, k, s) for d in config.depths for s in config.seeds for k in config.kinds]


def name_of(config: StudyConfig, key: Key) -> str:
    """What a network is called: ``plain-8``, with several seeds ``plain-8 seed 0``."""
    depth, kind, seed = key
    return f"{kind}-{depth}" + (f" seed {seed}" if len(config.seeds) > 1 else "")
