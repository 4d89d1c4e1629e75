"""The words of a study's report, table and figures, in every language that they are written in.

A study keeps the name of its language in ``results["lang"]``; one without is in English.
``say = words.of(results)`` gives its words, and ``say("seeds", count=3)`` one of them with its
numbers. All languages have the same keys, and for each key the same placeholders: numbers are
formatted alike everywhere. The words of the page may hold markup; what is put into them is escaped
by the page (:mod:`minires.study.report`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minires import arguments
from minires.study.words.en import ENGLISH
from minires.study.words.vi import VIETNAMESE

LANGUAGES = {"en": ENGLISH, "vi": VIETNAMESE}


def language(name: Any) -> str:
    """``name``, if there are words in that language.

    Raises:
        ArgumentError: there are none; names the languages that there are.
    """
    return arguments.choice("language", name, LANGUAGES)


class Words:
    """The words of one language: ``say("epochs.many", count=3)`` is ``"3 epochs"``."""

    def __init__(self, lang: str) -> None:
        self.lang = language(lang)
        self.table: Mapping[str, str] = LANGUAGES[lang]

    def __call__(self, key: str, **values: Any) -> str:
        return self.table[key].format(**values)

    def name(self, key: str) -> str:
        """The word for a key of results.json, as in ``"recipe.lr"``; without one the key itself."""
        return self.table.get(key, key.partition(".")[2].replace("_", " "))

    def kind(self, kind: str) -> str:
        """A kind of network, as in ``"plain"``."""
        return self(f"kind.{kind}")

    def network(self, kind: str, depth: int) -> str:
        """A network, as in ``"plain-56"``."""
        return self("network", kind=self.kind(kind), depth=depth)

    def epochs(self, count: int) -> str:
        """So many epochs."""
        return self("epochs.one" if count == 1 else "epochs.many", count=count)


def of(results: Mapping[str, Any]) -> Words:
    """The words in the language of a study's results."""
    return Words(results.get("lang", "en"))


def sentence(text: str) -> str:
    """``text`` with a capital letter in front, and otherwise as it is."""
    return text[:1].upper() + text[1:]
