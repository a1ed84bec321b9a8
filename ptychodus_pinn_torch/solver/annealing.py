"""Which epochs a run of the solver consists of: a search with large steps, then smaller ones."""

from __future__ import annotations

from dataclasses import dataclass

from ..physics.measurement import Measurement

__all__ = [
    'MAX_SEARCH',
    'MIN_SEARCH',
    'Phase',
    'anneal',
    'finish',
    'follows_likelihood',
    'is_low_dose',
    'is_time_to_straighten',
    'least_search',
    'longest_run',
    'phases_of',
    'search',
]

MIN_SEARCH, MIN_LOW_SEARCH, MIN_HIDDEN_SEARCH, MAX_SEARCH = 2, 3, 5, 32
"""Epochs of a search from a good start at least, at low dose, and where most of the light meets bad
pixels, which hide large scales; and of any search at most."""

MOSTLY_HIDDEN = 0.5
"""Part of the light of an empty beam on good pixels, below which most of it is."""

MOVING_BATCH = 32

LOW_DOSE, LOWEST_DOSE = 5e4, 3e3
"""Photons per pattern below which many patterns share an update, and steps are small; and below
which the likelihood of single counts would cost more noise than its bias is worth."""

STRAIGHTEN_EPOCHS, STRAIGHTEN_INTERVAL = (1, 3, 5), 4
"""Epochs of a search after which large scales are put right; then every so many."""


def is_time_to_straighten(epoch: int) -> bool:
    """Returns whether large scales are put right after that epoch of a search, counted from 1."""
    last = STRAIGHTEN_EPOCHS[-1]
    return epoch in STRAIGHTEN_EPOCHS or (epoch > last and not (epoch - last) % STRAIGHTEN_INTERVAL)


def _photons(measurement: Measurement) -> float:
    return float(measurement.totals.sum()) / measurement.num_patterns


def least_search(measurement: Measurement) -> int:
    """Returns how many epochs a search from a good start has at least."""
    if float(measurement.visible_part) < MOSTLY_HIDDEN:
        return MIN_HIDDEN_SEARCH
    return MIN_LOW_SEARCH if is_low_dose(measurement) else MIN_SEARCH


def is_low_dose(measurement: Measurement) -> bool:
    """Returns whether the steps must be small, since photons are few."""
    return _photons(measurement) < LOW_DOSE


def follows_likelihood(measurement: Measurement) -> bool:
    """Returns whether the last steps follow the likelihood of single counts.

    Where many pixels hold a few of them it is unbiased, which roots are not. Roots stand what is
    wrong with a measurement better: in bright scans, held-out patterns have to decide.
    """
    return LOWEST_DOSE <= _photons(measurement) < LOW_DOSE


@dataclass(frozen=True)
class Phase:
    """Epochs with one step; what is left of the noise in the image follows the step.

    Attributes:
        num_epochs: Passes over the patterns.
        batch: Patterns per update.
        step: Factor on the object update.
        is_last: Steps are small: they may follow the likelihood of single counts.
        is_straightened: Large scales are put right after it.
        is_together: Its epochs are steps of all patterns at once; batch and step do not count.
    """

    num_epochs: int
    batch: int
    step: float
    is_last: bool = False
    is_straightened: bool = False
    is_together: bool = False


def search(num_epochs: int, *, is_low: bool, is_gentle: bool, moving: int = 0) -> Phase:
    """Returns the epochs in which momentum finds the object.

    Args:
        num_epochs: Of the phase.
        is_low: Photons are few.
        is_gentle: The start is good.
        moving: Patterns of the scan where their positions are updated: they want an object of
            little noise, and so larger batches.
    """
    if is_low:
        return Phase(num_epochs, 64, 0.3) if is_gentle else Phase(num_epochs, 16, 0.5)
    return Phase(num_epochs, min(MOVING_BATCH, max(8, moving // 32)), 1.0)


def anneal(search_epochs: int, *, is_low: bool) -> list[Phase]:
    """Returns the phases after a search: steps get smaller, batches larger.

    They take about two thirds of the time of the search, at least three epochs.
    """
    number = max(1, search_epochs // 4)
    last = max(1, number // 2)
    if is_low:
        return [Phase(number, 64, 0.2, is_last=True), Phase(last, 128, 0.2, is_last=True)]
    return [
        Phase(number, 16, 0.5, is_last=True, is_straightened=True),
        Phase(number, 16, 0.2, is_last=True),
        Phase(last, 32, 0.2, is_last=True),
    ]


def finish(search_epochs: int, *, is_low: bool, steps: int, is_likely: bool = False) -> list[Phase]:
    """Returns the phases after patterns that were held out have judged.

    Bright scans want large steps once more. In the end come steps of all patterns at once: at low dose the
    most that unseen counts may want, and in bright scans where the likelihood of counts is followed.

    Args:
        search_epochs: Of the search.
        is_low: Photons are few.
        steps: Of all patterns at once.
        is_likely: The likelihood of counts is followed.
    """
    if is_low:
        return [Phase(steps, 0, 0.0, is_last=True, is_together=True)]
    number = max(1, search_epochs // 4)
    last = Phase(max(1, number // 2), 32, 0.2, is_last=True)
    if is_likely:
        last = Phase(steps, 0, 0.0, is_last=True, is_together=True)
    return [Phase(number, 16, 0.5, is_last=True), Phase(number, 16, 0.2, is_last=True), last]


def longest_run(
    num_patterns: int, *, least: int, is_low: bool, is_gentle: bool, has_moves: bool = False
) -> list[Phase]:
    """Returns the longest search that a scan may need, and what follows it.

    Fewer epochs in large scans, where each has more updates, and from a good start, but not fewer
    than `least`; twice as many where positions move.
    """
    wanted = 4096 // num_patterns - MIN_SEARCH if is_gentle else max(4, 8192 // num_patterns)
    wanted *= 2 if has_moves else 1
    epochs = min(MAX_SEARCH, max(least, wanted))
    return [
        search(epochs, is_low=is_low, is_gentle=is_gentle, moving=num_patterns if has_moves else 0),
        *anneal(epochs, is_low=is_low),
    ]


def phases_of(num_epochs: int, *, is_low: bool, is_gentle: bool) -> list[Phase]:
    """Returns a run of exactly so many epochs.

    Args:
        num_epochs: In all; none for 0.
        is_low: Photons are few.
        is_gentle: The start is so good that a few epochs of large steps would spoil it.
    """
    if num_epochs == 0:
        return []
    shortest = anneal(0, is_low=is_low)
    if not (is_gentle or is_low) and num_epochs < 4 * (len(shortest) + 1):
        # an object that has not been found yet gains more by searching on
        last = shortest[: num_epochs // 4]
        return [search(num_epochs - len(last), is_low=False, is_gentle=False), *last]
    for search_epochs in range(num_epochs, 0, -1):
        annealing = anneal(search_epochs, is_low=is_low)
        left = num_epochs - sum(phase.num_epochs for phase in annealing)
        if left >= search_epochs:
            return [search(left, is_low=is_low, is_gentle=is_gentle), *annealing]
    first = [] if is_gentle and not is_low else [search(1, is_low=is_low, is_gentle=is_gentle)]
    return [*first, *shortest][:num_epochs]
