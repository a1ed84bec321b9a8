"""What is done to a growing image in the time that there is: new frames first, then the oldest look."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from ..config import Config
from ..physics.devices import choose_device, set_threads
from ..reconstruction.placing import place_map
from ..reconstruction.procedure import load_model
from .growing_image import GrowingImage
from .joiner import Joined
from .live_image import LiveImage

__all__ = ['PacedImage']

MAX_NEW, MAX_NEW_IN_HASTE = 64, 256
"""Frames that are taken in at a time; and when the network is left out to catch up."""

LATENCY_S = 1.0
"""The network is left out where a frame would have to wait longer until physics has seen it."""

FEWEST_REFINED, MOST_REFINED, REFINED_S = 16, 256, 0.25
"""Frames of a round of refinement while nothing comes: so many as take so long."""

MAX_LOOKS = 28
"""Looks at each frame after which the refinement rests."""

JUDGED_FRAMES, JUDGED_EVERY_S = 128, 2.0
"""Frames of a sample by which the map of the misfit is made, and how often."""


class PacedImage:
    """A growing image with its network, and the time that both take.

    Args:
        probe: (P, H, W) as it was given.
        good_pixels: (H, W), True where the detector can be trusted.
        config: Says whether there is a network, and where the work is done.
        model: Its archive; the shipped model by default.
        backend: The engine that runs it.
    """

    def __init__(
        self,
        probe: NDArray[numpy.complex64],
        good_pixels: NDArray[numpy.bool_],
        config: Config,
        model: Path | None,
        backend: str,
    ) -> None:
        set_threads(config.execution.num_threads)
        network = None
        if config.reconstruction.start == 'network':
            network = load_model(model, config, backend).network
        device = choose_device(config.execution.accelerator)
        self._image = GrowingImage(probe, good_pixels, network, device)
        self._has_network = network is not None
        self._seconds = {True: 0.0, False: 0.0}
        self._refined, self._refining_s = 0, 0.0
        self._judged_s = 0.0
        self._map: tuple[NDArray[numpy.float32], NDArray[numpy.int64]] | None = None

    def see(self, frames: NDArray[Any], new: Joined, waited_s: float) -> int:
        """Returns how many of the new frames were taken in; the network only where time allows."""
        number = min(len(new), MAX_NEW)
        with_network = self._has_network and waited_s + number * self._seconds[True] < LATENCY_S
        if not with_network:
            number = min(len(new), MAX_NEW_IN_HASTE)
        started = time.monotonic()
        self._image.see(
            frames, new.rows[:number], new.positions[:number], with_network=with_network
        )
        each = (time.monotonic() - started) / number
        before = self._seconds[with_network]
        self._seconds[with_network] = each if not before else 0.5 * (before + each)
        self._refined = 0
        return number

    def refine(self) -> bool:
        """Returns whether there was something to refine."""
        known = self._image.num_seen
        if not known or self._refined > MAX_LOOKS * known:
            return False
        wanted = int(REFINED_S / self._refining_s) if self._refining_s else FEWEST_REFINED
        number = min(known, max(FEWEST_REFINED, min(MOST_REFINED, wanted)))
        started = time.monotonic()
        self._image.refine(number)
        self._refining_s = (time.monotonic() - started) / number
        self._refined += number
        return True

    def snapshot(self) -> LiveImage:
        """Returns the present image."""
        object_, coverage, origin = self._image.image()
        if time.monotonic() - self._judged_s > JUDGED_EVERY_S:
            self._judged_s = time.monotonic()
            self._map = self._image.judge(JUDGED_FRAMES), origin
        return LiveImage(
            object_,
            coverage,
            (float(origin[0]), float(origin[1])),
            self._image.num_seen,
            None
            if self._map is None
            else place_map(self._map[0], self._map[1] - origin, object_.shape),
        )
