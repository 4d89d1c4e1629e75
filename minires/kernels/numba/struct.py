"""Structs: sizes with names, which a kernel takes as one argument.

What follows from the sizes of a layer, dozens of whole numbers and some tables of them, is one flat
array of 64-bit words. Its layout is written down once, as a NamedTuple::

    class Sizes(NamedTuple):
        height: int
        width: int
        rows: Table  # of as many entries as there are rows

    sizes_at = struct(Sizes)

Python writes the array: ``np.array(Sizes(height=5, width=7, rows=3))``, then the entries of the
table. A kernel reads it: with ``sizes = sizes_at(words, 0)``, ``sizes.width`` is ``words[1]``. The
word of a :data:`Table` says where the table begins, in words from the first of the struct, and
``sizes.rows[k]`` is its k-th entry::

    words    5       7       3       r0  r1  r2  r3  r4
             height  width   rows -> |

In machine code a struct is the address of its first word and a name is the distance from there, so
that names cost nothing. In interpreted kernels it is an object with these properties.
"""

from __future__ import annotations

from typing import Any, NewType, get_type_hints

from llvmlite import ir
from numba import types
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import models, register_model

from .vector import INDEX, INTERPRETED, operation

Table = NewType("Table", int)  # where a table of words begins
WORDS = types.CPointer(types.int64)


class Struct(types.Type):
    """The type of a struct: of each field its name, its place and whether it is a table."""

    def __init__(self, name: str, fields: dict[str, bool]):
        self.fields = {field: (place, fields[field]) for place, field in enumerate(fields)}
        super().__init__(name=name)  # short: it becomes part of the name of every function

    @property
    def key(self) -> Any:
        """What makes two types the same."""
        return self.name, tuple(self.fields.items())


@register_model(Struct)
class _StructModel(models.PrimitiveModel):
    """A struct is the address of its first word."""

    def __init__(self, manager: Any, kind: Struct):
        super().__init__(manager, kind, INDEX.as_pointer())


if not INTERPRETED:

    @infer_getattr
    class _Fields(AttributeTemplate):
        """``struct.name`` is a whole number, or the pointer to a table."""

        key = Struct

        def generic_resolve(self, kind: Struct, name: str) -> Any:  # type: ignore[override]
            if name not in kind.fields:
                return None
            _, is_table = kind.fields[name]
            return WORDS if is_table else types.int64

    @lower_getattr_generic(Struct)
    def _read(context: Any, builder: Any, kind: Struct, struct: Any, name: str) -> Any:
        place, is_table = kind.fields[name]
        word = builder.load(builder.gep(struct, [ir.Constant(INDEX, place)]))
        return builder.gep(struct, [word]) if is_table else word


def struct(layout: type[tuple[Any, ...]]) -> Any:
    """What reads structs of this layout: ``at(words, i)`` is the one that begins at ``words[i]``.

    ``words`` is an array of words, or a struct, from whose first word ``i`` then counts.
    """
    hints = get_type_hints(layout)
    fields = {name: hint is Table for name, hint in hints.items()}
    kind = Struct(layout.__name__, fields)

    def at(context, words, i):
        def generate(context, builder, signature, args):
            return builder.gep(args[0], [args[1]])

        return kind(words, types.int64), generate

    return operation(_plain(layout.__name__, fields), at)


def _plain(name: str, fields: dict[str, bool]) -> Any:
    """What ``at`` does in interpreted kernels."""

    def number(place: int) -> Any:
        return property(lambda struct: struct.words[place])

    def table(place: int) -> Any:
        return property(lambda struct: struct.words[struct.words[place] :])

    members = {
        field: (table if is_table else number)(place)
        for place, (field, is_table) in enumerate(fields.items())
    }
    view: Any = type(name, (), members)

    def at(words: Any, i: int) -> Any:
        struct = view()
        struct.words = getattr(words, "words", words)[i:]
        return struct

    return at
