"""How an image comes about: the best start, refined; examined first where counts are not explained."""

from __future__ import annotations

from torch import Tensor

from ..config import Config
from ..networks.contract import Network
from ..physics.measured_scan import MeasuredScan
from ..physics.measurement import Measurement
from ..solver.state import NOTHING, Freed, SolverState
from .examining import Examination, Found
from .refined import Refined
from .refining import Refinement
from .run_log import RunLog
from .scaling import stretched
from .splitting import sample_patterns, split_patterns
from .starts import choose_start, drop_broken_starts, network_start, object_start, sketch_start
from .stretching import is_stretched
from .time_budget import measure_pace

__all__ = ['ImageMaking']

EXPLAINED, FAR_FROM_EXPLAINED = 1.3, 8.0
"""Error of an image, over that of photon noise, up to which nothing needs to be examined; and of a start,
from which on it makes no sense to refine it before it is known what is wrong."""

ENOUGH_EPOCHS = 16
"""Epochs that there must be time for, so that a sketch comes before the refinement, and that what is wrong is
looked for before it."""


class ImageMaking:
    """Makes the image of a scan.

    Args:
        measured: The scan.
        network: Makes the start, where there is one.
        config: What is wanted.
        log: Takes reports, times and sentences.
    """

    def __init__(
        self, measured: MeasuredScan, network: Network | None, config: Config, log: RunLog
    ) -> None:
        self.measured, self.config, self.log = measured, config, log
        self.pace = measure_pace(measured, log)
        self.split = split_patterns(measured.positions_px, config.training.seed)
        self.network = network
        if network is not None and not self.pace.allows_network(network.num_passes):
            self.network = None
            log.say(
                f'{measured.scan.name}: the time of {log.budget_s:g} s is too short for the network: it is '
                'left out.'
            )
        self.is_precise = self.network is not None and self.network.is_precise

    def run(self) -> Refined:
        """Returns the refined best start."""
        given, to_noise, is_good = self._choose_start()
        examination = Examination(self.measured, self.config, self.log)
        forced, begun = examination.forced.names(), None
        if not self.config.reconstruction.refine_epochs or not (forced or examination.possible):
            return self._refine(given, is_gentle=is_good)
        if not forced and (to_noise < FAR_FROM_EXPLAINED or self.pace.epochs_left < ENOUGH_EPOCHS):
            run = self._refinement(given.freed, is_gentle=is_good)
            begun = run.begin(given.name, given.state)
            if not self._is_to_be_examined(begun):
                return self._finish(run, begun, is_gentle=is_good)
        found = examination.run(
            given.name,
            (begun or given).state.canvas,
            self._run_network if self.network is not None else None,
            is_refined=begun is not None,
        )
        if begun is not None and not found.freed.names():
            run.finish(begun)
            return begun
        # what was freed has only begun to come right
        is_good = found.name == 'network' and self.is_precise and not found.freed.names()
        return self._refine(found, is_gentle=is_good)

    def _run_network(self, measurement: Measurement) -> Tensor:
        assert self.network is not None
        return network_start(self.network, measurement, self.config, self.log)

    def _choose_start(self) -> tuple[Found, float, bool]:
        """Returns the start that explains the counts best, its error to noise, and whether it is good."""
        measured, options = self.measured, self.config.reconstruction
        starts, is_sketched = {'flat': measured.measurement.flat()}, False
        if self.network is not None:
            starts['network'] = self._run_network(measured.measurement)
        elif options.start == 'object':
            starts['object'] = object_start(measured)
        elif options.refine_epochs < 0 and self.pace.epochs_left > ENOUGH_EPOCHS:
            starts['flat'] = sketch_start(measured.measurement, self.split.training, self.log)
            is_sketched = True
        drop_broken_starts(starts, measured, self.log)
        self.network = self.network if 'network' in starts else None
        chosen = choose_start(starts, measured, self.config, self.log)
        is_good = self.is_precise if chosen.name == 'network' else is_sketched
        state = SolverState.start(starts[chosen.name], measured.measurement)
        return Found(chosen.name, state, NOTHING), chosen.to_noise, is_good

    def _refinement(self, freed: Freed, *, is_gentle: bool) -> Refinement:
        return Refinement(
            self.measured,
            self.config,
            self.log,
            split=self.split,
            pace=self.pace,
            freed=freed,
            is_gentle=is_gentle,
        )

    def _refine(self, found: Found, *, is_gentle: bool) -> Refined:
        run = self._refinement(found.freed, is_gentle=is_gentle)
        return self._finish(run, run.begin(found.name, found.state), is_gentle=is_gentle)

    def _finish(self, run: Refinement, begun: Refined, *, is_gentle: bool) -> Refined:
        """Returns what is begun as it ends; begun again where all positions are to be farther apart."""
        may_stretch = self.config.reconstruction.update_positions != 'off'
        if may_stretch and not begun.freed.names() and (part := run.find_scale(begun)):
            run = self._refinement(begun.freed, is_gentle=is_gentle)
            begun = run.begin(begun.start, stretched(begun.state, part))
        run.finish(begun)
        return begun

    def _is_to_be_examined(self, refined: Refined) -> bool:
        """Returns whether it is to be found out what is wrong; says where there is no time for it."""
        measurement, log = self.measured.measurement, self.log
        sample, is_late = sample_patterns(measurement), log.left_s < log.budget_s / 2
        if refined.to_noise < EXPLAINED and (
            is_late or not is_stretched(refined.state, measurement, sample)
        ):
            return False
        if is_late:
            log.say(
                f'{self.measured.scan.name}: the time of {log.budget_s:g} s is too short to find out why the '
                'counts are not explained.'
            )
        return not is_late
