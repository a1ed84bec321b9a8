"""What a measurement knows of itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy
import pytest
import torch

from ptychodus_pinn_torch.config import CnnConfig
from ptychodus_pinn_torch.networks.cnn import CnnNetwork
from ptychodus_pinn_torch.networks.patchwise import merge, stitch
from ptychodus_pinn_torch.physics.chunk import Chunk, ChunkStream
from ptychodus_pinn_torch.physics.forward_model import predict
from ptychodus_pinn_torch.physics.measured_scan import ScanCounts, measure_scan
from ptychodus_pinn_torch.physics.measurement import Measurement
from ptychodus_pinn_torch.scan.scan import Scan


def measure_flat_object(scan: Scan, amplitude: float, radius_px: float) -> Measurement:
    """Returns the scan as if a flat object had been there, behind a beamstop, without noise."""
    height, width = scan.pattern_shape
    y, x = numpy.ogrid[:height, :width]
    good = numpy.hypot(y - height // 2, x - width // 2) >= radius_px
    measurement = measure_scan(replace(scan, good_pixels=good)).measurement
    canvas = torch.full(measurement.canvas_shape, amplitude, dtype=torch.complex64)
    chunk = measurement.chunk(torch.arange(measurement.num_patterns))
    return replace(measurement, counts=predict(canvas, chunk) * chunk.good_pixels)


@pytest.mark.parametrize('radius_px', [0.1, 2.0, 4.0])
def test_level_is_that_of_a_flat_object_whatever_a_beamstop_hides(
    tiny_scan: Scan, radius_px: float
) -> None:
    measurement = measure_flat_object(tiny_scan, 0.7, radius_px)
    assert float(measurement.level()) == pytest.approx(0.7, rel=1e-4)


@pytest.mark.parametrize('make_canvas', [merge, stitch])
def test_patches_of_a_new_network_have_the_level_of_what_a_beamstop_lets_through(
    tiny_scan: Scan, make_canvas
) -> None:
    measurement = measure_flat_object(tiny_scan, 0.7, 3.0)
    network = CnnNetwork(CnnConfig(pattern_size=32, first_width=4)).eval()
    with torch.no_grad():
        canvas = make_canvas(network, measurement)
    seen = canvas.coverage > 0.1 * canvas.coverage.max()
    assert float(canvas.object_.abs()[seen].mean()) == pytest.approx(0.7, rel=1e-3)


def test_small_scans_are_read_once_and_large_ones_whenever_they_are_needed(
    tiny_scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, frames_read, raw = tiny_scan.num_patterns, [], ScanCounts._raw

    def read(self: ScanCounts, indices: numpy.ndarray) -> numpy.ndarray:
        frames_read.extend(indices.tolist())
        return raw(self, indices)

    monkeypatch.setattr(ScanCounts, '_raw', read)
    given = measure_scan(tiny_scan).measurement.counts
    assert isinstance(given, ScanCounts)
    num_bytes = 4 * int(numpy.prod(given.shape))
    assert given.kept(num_bytes - 1) is given
    frames_read.clear()
    kept = given.kept(num_bytes)
    order = torch.randperm(number)
    found = [kept[order] for _ in range(3)]
    assert frames_read == list(range(number))
    read_again = given[order]
    assert len(frames_read) == 2 * number
    assert all(torch.equal(counts, read_again) for counts in found)
    assert kept.total() == given.total()


@pytest.mark.parametrize('are_kept', [False, True])
def test_chunks_that_are_gone_through_again_are_the_same_and_are_counted(
    tiny_scan: Scan, are_kept: bool
) -> None:
    measurement = replace(measure_scan(tiny_scan).measurement, chunk_size=5)
    read: list[int] = []
    used: list[int] = []

    def chunks(indices: torch.Tensor) -> Iterator[Chunk]:
        read.append(len(indices))
        yield from replace(measurement, after_chunk=used.append).chunks(indices)

    stream = ChunkStream(chunks, torch.arange(12), are_kept, used.append)
    first, again = list(stream), list(stream)
    assert [chunk.indices.tolist() for chunk in first] == [
        chunk.indices.tolist() for chunk in again
    ]
    assert all(torch.equal(a.counts, b.counts) for a, b in zip(first, again))
    assert used == [5, 5, 2] * 2
    assert read == [12] * (1 if are_kept else 2)
