"""The identity path as the report of ``minires gradcheck`` shows it: proofs, numbers, pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import identity
from ..files import write_atomic
from ..identity import PathLengths, Proof, Spectra, figures
from ..identity.proof import PLAIN, RESIDUAL
from ..nn import Module
from ..report.figures import FORMATS, to_bytes

BLOCKS = {kind.__name__: kind for kind in (*PLAIN, *RESIDUAL)}
IMAGES = 2  # whose Jacobians the singular values of deep stacks are averaged over


@dataclass(frozen=True)
class Picture:
    """One figure in two layouts, as SVG: side by side for a desk, stacked for a phone.

    ``draw(narrow)`` draws it anew; ``name`` is that of its files.
    """

    name: str
    title: str
    caption: str
    wide: bytes
    narrow: bytes
    draw: Callable[[bool], Any]

    def save(self, folder: Path) -> None:
        """Write it as PNG, SVG and PDF."""
        for file_format in FORMATS:
            content = to_bytes(self.draw(False), file_format)
            write_atomic(folder / f"{self.name}.{file_format}", content)


@dataclass(frozen=True)
class Gallery:
    """What is known of the identity path of some kinds of block.

    Attributes:
        proofs: one for each kind, shortcut, stride and mode.
        heat_maps: J_F, I and their sum, one picture for each residual kind.
        spectra: singular values of deep stacks, plain and residual.
        split: a gradient by path length, and the norms along single paths.
    """

    proofs: list[Proof]
    heat_maps: list[Picture]
    spectra: tuple[Spectra, Picture]
    split: tuple[PathLengths, Picture]

    @property
    def ok(self) -> bool:
        return all(self.proofs)

    @property
    def pictures(self) -> list[Picture]:
        return [*self.heat_maps, self.spectra[1], self.split[1]]

    def failures(self) -> list[str]:
        """A text for each proof that does not hold."""
        return [str(proof) for proof in self.proofs if not proof]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: without the pictures, with the numbers that they show."""
        spectra, split = self.spectra[0], self.split[0]
        return {
            "proofs": [proof.as_dict() for proof in self.proofs],
            "singular_values": {
                "depths": list(spectra.depths),
                "plain": spectra.plain.tolist(),
                "residual": spectra.residual.tolist(),
            },
            "path_lengths": {"norms": split.norms.tolist(), "paths": split.counts},
        }


def hang(names: Collection[str], seed: int = 0) -> Gallery:
    """Prove and draw the identity path of these kinds of block, on the backend that is set."""
    kinds = [kind for name, kind in BLOCKS.items() if name in names]
    proofs = identity.prove(kinds, seed=seed)
    maps = [_heat_map(kind, seed) for kind in kinds if kind in RESIDUAL]
    spectra = identity.singular_values(images=IMAGES, seed=seed)
    split, singles, name = figures.example_split(seed=seed)
    return Gallery(
        proofs,
        maps,
        (
            spectra,
            picture(
                "singular_values",
                "Singular values of deep stacks",
                f"The same weights with and without the additions, {spectra.depths[0]} to "
                f"{spectra.depths[-1]} blocks, at initialisation.",
                lambda narrow: figures.singular_values(spectra, narrow=narrow),
            ),
        ),
        (
            split,
            picture(
                "path_lengths",
                "The gradient by path length",
                "Entry k of the left panel is the exact sum over all paths through k residual "
                "branches (Veit et al. 2016, arXiv:1605.06431).",
                lambda narrow: figures.path_lengths(split, singles, name, narrow=narrow),
            ),
        ),
    )


def _heat_map(kind: type[Module], seed: int) -> Picture:
    name, found = kind.__name__, identity.jacobians(*identity.example(kind, seed=seed))
    return picture(
        f"jacobian_{name}",
        f"The Jacobian of {name}",
        "Every entry of ∂F/∂x, of the identity, and of their sum, for a block in training with two "
        "images: batch norm couples the images in F, never in I.",
        lambda narrow: figures.heat_maps(found, name, narrow=narrow),
    )


def picture(name: str, title: str, caption: str, draw: Callable[[bool], Any]) -> Picture:
    """A figure that ``draw(narrow)`` draws."""
    wide, narrow = (to_bytes(draw(stacked), "svg") for stacked in (False, True))
    return Picture(name, title, caption, wide, narrow, draw)
