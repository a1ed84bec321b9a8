"""A scan that is reconstructed while it arrives: nothing lost, an image at any time, the same at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.live import live_reconstruction
from ptychodus_pinn_torch.live.frame_store import JournalError
from ptychodus_pinn_torch.live.live_image import LiveImage
from ptychodus_pinn_torch.live.live_reconstruction import LiveReconstruction
from ptychodus_pinn_torch.metrics.comparison import compare_objects, coverage_mask
from ptychodus_pinn_torch.scan.io.output import training_arrays, write_npz
from ptychodus_pinn_torch.scan.scan import Scan

OPTIONS = {'execution.num_threads': 1}


@pytest.fixture(scope='module')
def scan() -> Scan:
    return pinn.simulate(
        pattern_size=32, num_positions=144, step_px=3.0, object_kind='leaves', photons=1e6, seed=5
    )


def on_grid(image: LiveImage, scan: Scan) -> Any:
    """Returns a live image on the grid of the object of a scan."""
    placed = numpy.full(scan.object_.shape, abs(image.object_).mean(), numpy.complex64)
    y, x = (int(value) for value in image.origin_px)
    height, width = image.object_.shape
    for row in range(max(0, y), min(placed.shape[0], y + height)):
        left, right = max(0, x), min(placed.shape[1], x + width)
        placed[row, left:right] = image.object_[row - y, left - x : right - x]
    return placed


def error(object_: Any, scan: Scan) -> float:
    assert scan.truth is not None
    return compare_objects(object_, scan.truth, weights=coverage_mask(scan)).nrmse


def wait_for(condition: Callable[[], bool], seconds: float = 100.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it does not come to an end'
        time.sleep(0.02)


def feed(live: LiveReconstruction, scan: Scan, ids: Any, seed: int = 0) -> None:
    """Hands over frames and positions of some numbers, shuffled, in pieces of all sizes."""
    rng = numpy.random.default_rng(seed)
    frames, positions = rng.permutation(ids), rng.permutation(ids)
    while len(frames) or len(positions):
        size = int(rng.integers(1, 20))
        now, frames = frames[:size], frames[size:]
        if len(now):
            live.append(now, numpy.asarray(scan.patterns[now]))
        size = int(rng.integers(1, 20))
        now, positions = positions[:size], positions[size:]
        if len(now):
            live.append_positions(now, scan.positions_px[now])


def offline(scan: Scan, folder: Path) -> Any:
    """Returns the image of a file with the same frames and no object."""
    arrays = training_arrays(
        positions_px=scan.positions_px, patterns=scan.patterns, probe=scan.probe,
        object_=scan.object_, bad_pixels=~scan.good_pixels,
    )  # fmt: skip
    del arrays['objectGuess']
    return pinn.reconstruct(pinn.read_scan(write_npz(folder / 's.npz', arrays)), options=OPTIONS)


def test_the_image_grows_and_the_last_one_is_that_of_the_file(scan: Scan, tmp_path: Path) -> None:
    everything = numpy.arange(scan.num_patterns)
    with LiveReconstruction(scan.probe, options=OPTIONS) as live:
        live.prepare()
        assert live.image() is None and live.status().joined == 0
        feed(live, scan, everything[:72])
        wait_for(lambda: live.status().seen == 72)
        half = live.image()
        assert half is not None and 16 <= half.num_frames <= 72
        feed(live, scan, everything[72:], seed=1)
        wait_for(lambda: live.status().seen == scan.num_patterns)
        wait_for(lambda: error(on_grid(live.image(), scan), scan) < 0.05)  # type: ignore[arg-type]
        found = live.image()
        assert found is not None and found.num_frames == scan.num_patterns
        assert found.object_.shape[0] > half.object_.shape[0], 'the canvas has grown'
        status = live.status()
        assert status.frames == status.positions == status.joined == scan.num_patterns
        assert status.waiting_frames == status.waiting_positions == status.repeated == 0
        image = live.finish()
        live.append(numpy.asarray([999]), numpy.asarray(scan.patterns[:1]))
        assert live.status().late == 1 and 'lag 0.0 s' in live.status().sentence()
    file = offline(scan, tmp_path)
    assert image.trust is not None and image.trust.verdict == 'right'
    assert numpy.array_equal(image.object_, file.object_), 'to the last bit'


def test_a_frame_that_comes_again_or_alone_changes_nothing(scan: Scan) -> None:
    ids = numpy.arange(scan.num_patterns)
    with LiveReconstruction(scan.probe, options=OPTIONS) as live:
        feed(live, scan, ids)
        feed(live, scan, ids[:30], seed=2)
        live.append(numpy.asarray([5000, 5001]), numpy.asarray(scan.patterns[:2]))
        live.append_positions(numpy.asarray([6000]), scan.positions_px[:1])
        status = live.status()
        assert status.repeated == 60 and status.joined == scan.num_patterns
        assert (status.waiting_frames, status.waiting_positions) == (2, 1)
        assert '2 frames and 1 positions wait' in status.sentence()
        assert live.scan().num_patterns == scan.num_patterns
        assert numpy.array_equal(live.scan().patterns, scan.patterns)


def test_bad_frames_and_positions_are_refused_and_nothing_is_taken(scan: Scan) -> None:
    frames, ids = numpy.asarray(scan.patterns[:2]), numpy.arange(2)
    bad: list[tuple[Callable[[Any], Any], str]] = [
        (lambda live: live.append(ids, frames[:1]), 'frames have shape'),
        (lambda live: live.append(ids, frames[:, :16]), 'frames have shape'),
        (lambda live: live.append(ids, frames.astype('U4')), 'frames have shape .* type <U4'),
        (lambda live: live.append(ids, -frames.astype(float) - 1), 'negative'),
        (lambda live: live.append(ids * 0.5, frames), 'whole numbers'),
        (lambda live: live.append_positions(ids, frames[:, 0, :3]), 'positions have shape'),
        (lambda live: live.append(ids.astype(numpy.uint64) + 2**63, frames), 'number 92233720368'),
        (lambda live: live.append(ids - 1, frames), 'a frame has the number -1'),
        (
            lambda live: live.append_positions(ids - 1, frames[:, 0, :2]),
            'a frame has the number -1',
        ),
        (lambda live: live.finish(), 'no frame has both'),
    ]
    for action, reason in bad:
        with LiveReconstruction(scan.probe) as live:
            with pytest.raises(ValueError, match=reason):
                action(live)
            assert live.status().frames == live.status().positions == 0
    with LiveReconstruction(scan.probe) as live:
        live.append(ids, frames)
        with pytest.raises(ValueError, match='type uint32 but the first ones were uint16'):
            live.append(ids + 2, frames.astype(numpy.uint32) + 70000)
        live.append(ids + 2, frames.astype(numpy.uint32))
        assert live.status().frames == 4
    for probe, mask, reason in (
        (scan.probe[:, :16], None, 'the probe has shape'),
        (scan.probe * numpy.nan, None, 'finite modes'),
        (scan.probe, numpy.zeros((3, 3)), 'the mask has shape'),
    ):
        with pytest.raises(ValueError, match=reason):
            LiveReconstruction(probe, bad_pixels=mask)


@pytest.mark.parametrize('value', [numpy.inf, numpy.nan, 1e300])
def test_what_is_not_finite_is_named_and_left_out_and_the_rest_is_taken(
    scan: Scan, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    frames, places = numpy.array(scan.patterns[:3], float), scan.positions_px[:3].copy()
    frames[1, 2, 3] = value
    places[2, 0] = value if value < 0 else numpy.inf
    with LiveReconstruction(scan.probe, options=OPTIONS) as live:
        live.append([10, 11, 12], frames)
        live.append_positions([10, 11, 12], places)
        assert 'of frame 11 came counts' in caplog.text
        assert 'of frame 12 came a position' in caplog.text
        assert live.status().frames == live.status().positions == 2
        live.append([11], frames[:1])  # sent again, and right
        assert live.status().joined == 2


@pytest.mark.parametrize('first', [True, False])
@pytest.mark.parametrize('far', [3e4, 1e9, 1e18, 1e308])
def test_a_position_that_is_too_far_away_ends_no_image(
    scan: Scan, tmp_path: Path, caplog: pytest.LogCaptureFixture, far: float, first: bool
) -> None:
    folder, ids = tmp_path / 'journal', numpy.arange(scan.num_patterns)
    with LiveReconstruction(scan.probe, folder=folder, options=OPTIONS) as live:
        live.prepare()
        if not first:
            feed(live, scan, ids)
            wait_for(lambda: live.status().seen == scan.num_patterns)
        live.append([999], scan.patterns[:1])
        live.append_positions([999], [[-far, far]])
        if first:
            wait_for(lambda: live.image() is not None)
            feed(live, scan, ids)
        wait_for(lambda: live.status().far == 1)
        wait_for(lambda: live.status().seen == scan.num_patterns)
        wait_for(lambda: live.image().num_frames == scan.num_patterns)  # type: ignore[union-attr]
        assert 'the position of frame 999' in caplog.text and live.status().lag_s == 0.0
        assert '1 left out, too far from the others' in live.status().sentence()
        assert len(live.joined()) == scan.num_patterns and not live.status().trouble
        assert live.finish().trust.verdict == 'right'  # type: ignore[union-attr]
    with LiveReconstruction.resume(folder, options=OPTIONS) as live:
        assert live.status().joined == scan.num_patterns + 1, 'it is kept'


def test_one_thread_works_whoever_is_first(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(threading.Thread):
        def __init__(self, **words: Any) -> None:
            time.sleep(0.01)  # long enough for the others to come as far
            super().__init__(**words)

    worked: list[LiveReconstruction] = []
    monkeypatch.setattr(LiveReconstruction, '_work', lambda self: worked.append(self))
    with LiveReconstruction(scan.probe) as live:
        starters = [threading.Thread(target=live._start) for _ in range(8)]
        monkeypatch.setattr(live_reconstruction.threading, 'Thread', Slow)
        for thread in starters:
            thread.start()
        for thread in starters:
            thread.join()
    assert len(worked) == 1


@pytest.mark.parametrize('error', [KeyError('x'), TypeError('two things'), AssertionError()])
def test_any_error_of_the_image_is_said(
    scan: Scan, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from ptychodus_pinn_torch.live import growing_image

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(growing_image.GrowingImage, 'see', fail)
    with LiveReconstruction(scan.probe, options=OPTIONS) as live:
        feed(live, scan, numpy.arange(60))
        wait_for(lambda: bool(live.status().trouble))
        assert (str(error) or 'AssertionError') in live.status().trouble


def test_a_temporary_journal_goes_with_its_process(scan: Scan, tmp_path: Path) -> None:
    code = (
        'import numpy\n'
        'from ptychodus_pinn_torch.live.live_reconstruction import LiveReconstruction\n'
        'live = LiveReconstruction(numpy.ones((8, 8)), options={"reconstruction.start": "flat"})\n'
        'live.append([1], numpy.ones((1, 8, 8)))\n'
        'print(live._folder.is_dir())\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'TMPDIR': str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == 'True\n', done.stderr
    assert not list(tmp_path.glob('ptychodus-pinn-*'))


def test_a_journal_without_its_header_is_refused_and_kept(scan: Scan, tmp_path: Path) -> None:
    folder, ids = tmp_path / 'journal', numpy.arange(20)
    with LiveReconstruction(scan.probe, folder=folder, options=OPTIONS) as live:
        feed(live, scan, ids)
    (folder / 'journal.json').unlink()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(JournalError, match='holds no journal that can be read'):
        LiveReconstruction.resume(folder)
    (folder / 'setup.npz').rename(tmp_path / 'setup.npz')
    with pytest.raises(JournalError, match='holds a journal already'):
        LiveReconstruction(scan.probe, folder=folder)
    with pytest.raises(JournalError, match='setup.npz is missing'):
        LiveReconstruction.resume(folder)
    (tmp_path / 'setup.npz').rename(folder / 'setup.npz')
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_what_was_taken_before_a_stop_is_there_afterwards(scan: Scan, tmp_path: Path) -> None:
    folder, ids = tmp_path / 'journal', numpy.arange(scan.num_patterns)
    with LiveReconstruction(scan.probe, folder=folder, options=OPTIONS) as live:
        feed(live, scan, ids[:60])
        live.append(ids[60:70], numpy.asarray(scan.patterns[60:70]))
    with pytest.raises(JournalError, match='holds a journal already'):
        LiveReconstruction(scan.probe, folder=folder)
    with LiveReconstruction.resume(folder, options=OPTIONS) as live:
        assert live.status().joined == 60 and live.status().waiting_frames == 10
        feed(live, scan, ids, seed=3)
        assert live.status().repeated == 130
        image = live.finish()
    assert numpy.array_equal(image.object_, offline(scan, tmp_path).object_)
    with pytest.raises(JournalError, match='holds no journal'):
        LiveReconstruction.resume(tmp_path / 'other')


def test_trouble_with_the_image_is_said_and_frames_are_kept(
    scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ptychodus_pinn_torch.live import growing_image

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError('the device is gone')

    monkeypatch.setattr(growing_image.GrowingImage, 'see', fail)
    with LiveReconstruction(scan.probe, options=OPTIONS) as live:
        feed(live, scan, numpy.arange(60))
        wait_for(lambda: bool(live.status().trouble))
        feed(live, scan, numpy.arange(60, 144))
        assert 'no longer grows: the device is gone' in live.status().sentence()
        image = live.finish()
        assert image.trust is not None and image.trust.verdict == 'right'


KILLED = """
import sys
import numpy
sys.path.insert(0, sys.argv[2])
from test_live_reconstruction import feed
import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.live.live_reconstruction import LiveReconstruction
scan = pinn.read_scan(sys.argv[3])
live = LiveReconstruction(scan.probe, folder=sys.argv[1])
for number in range(scan.num_patterns):
    one = numpy.asarray([number])
    live.append(one, scan.patterns[one])
    live.append_positions(one, scan.positions_px[one])
    print(number, flush=True)
    if number > 40:
        import time
        time.sleep(0.02)
"""


@pytest.mark.slow
def test_a_reconstruction_that_is_killed_is_taken_up(scan: Scan, tmp_path: Path) -> None:
    from ptychodus_pinn_torch.scan.io.output import write_scan_npz

    path = write_scan_npz(tmp_path / 'scan.npz', scan)
    folder = tmp_path / 'journal'
    words = [sys.executable, '-c', KILLED, str(folder), str(Path(__file__).parent), str(path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) > 60:
            break
    process.send_signal(signal.SIGKILL)
    told = [int(word) for word in process.stdout.read().split('\n')[:-1]] or [61]
    process.wait()
    with LiveReconstruction.resume(folder, options=OPTIONS) as live:
        assert live.status().joined >= max(told) + 1
        wait_for(lambda: live.status().seen == live.status().joined)
        feed(live, scan, numpy.arange(scan.num_patterns))
        assert live.finish().trust.verdict == 'right'  # type: ignore[union-attr]


@pytest.mark.parametrize('kind', ['plain', 'beamstop'])
def test_an_image_begins_as_bright_as_the_counts_and_is_refined_for_ever(kind: str) -> None:
    import torch

    from ptychodus_pinn_torch.live.growing_image import GrowingImage

    beamstop = 3.0 if kind == 'beamstop' else 0.0
    scan = pinn.simulate(pattern_size=32, num_positions=36, step_px=3.0, beamstop_px=beamstop)
    assert scan.truth is not None
    image = GrowingImage(scan.probe, scan.good_pixels, None, torch.device('cpu'))
    image.see(scan.patterns, numpy.arange(36), scan.positions_px)
    object_, coverage, _ = image.image()
    outside = numpy.abs(object_[coverage == 0.0])
    assert abs(outside / numpy.abs(scan.truth[coverage_mask(scan)]).mean() - 1.0).max() < 0.1
    image._looks += 2000
    image.refine(36)
    assert numpy.isfinite(image.image()[0]).all()
