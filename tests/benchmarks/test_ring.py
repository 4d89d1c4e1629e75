"""The picture of a ring all-reduce: its turns are those of the algorithm."""

from __future__ import annotations

import itertools

import pytest


@pytest.fixture
def ring(load):
    return load("ring")


@pytest.mark.parametrize("workers", [2, 3, 4, 7])
def test_everybody_ends_with_the_whole_sum(ring, workers):
    states = ring.turns(workers)
    everyone = frozenset(range(workers))
    assert len(states) == 1 + 2 * (workers - 1)
    assert states[0] == [[{worker}] * workers for worker in range(workers)]
    assert states[-1] == [[everyone] * workers] * workers
    # half-way each has one whole part, and each part is whole somewhere
    whole = [[part == everyone for part in parts] for parts in states[workers - 1]]
    assert [sum(parts) for parts in whole] == [1] * workers
    assert [any(parts) for parts in zip(*whole)] == [True] * workers


@pytest.mark.parametrize("workers", [2, 4, 5])
def test_in_a_turn_each_worker_gets_one_part_from_its_left_neighbour(ring, workers):
    states = ring.turns(workers)
    for turn, (before, after) in enumerate(itertools.pairwise(states)):
        for worker in range(workers):
            left = (worker - 1) % workers
            changed = [k for k in range(workers) if before[worker][k] != after[worker][k]]
            assert changed == [ring.sent(left, turn, workers)]
            assert before[left][changed[0]] <= after[worker][changed[0]]
            if turn < workers - 1:  # nobody is counted twice
                assert not before[left][changed[0]] & before[worker][changed[0]]


def test_text_and_figure_show_the_turns(ring, capsys):
    ring.main([])
    printed = capsys.readouterr().out
    assert printed.startswith("at first\n  A  A     A     A     A\n  B  B")
    assert printed.endswith("after turn 6\n" + "".join(f"  {k}{'  ABCD' * 4}\n" for k in "ABCD"))
    panels = ring.figure().axes
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles[:5] == ["at first", "turn 1", "turn 2", "turn 3", "turn 3"]
    for axes, turn in zip(panels, (0, 1, 2, 3, 3, 4, 5, 6)):
        shown = [text.get_text() for text in axes.texts]
        state = ring.turns(ring.WORKERS)[turn]
        assert shown == [ring.letters(part) for parts in state for part in parts]
    assert ring.FIGURE.exists()
