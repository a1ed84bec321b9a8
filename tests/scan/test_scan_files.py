"""Reading and writing scans: every layout comes out in one convention."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy
import pytest

from ptychodus_pinn_torch.scan.io.images import read_object
from ptychodus_pinn_torch.scan.io.output import (
    write_product,
    write_reconstruction_npz,
    write_scan_npz,
)
from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.probe_variation import ProbeVariation
from ptychodus_pinn_torch.scan.scan import Scan


def _arrays(scan: Scan) -> dict[str, numpy.ndarray]:
    y, x = scan.positions_px.T
    return {
        'xcoords': x,
        'ycoords': y,
        'diff3d': numpy.asarray(scan.patterns),
        'probeGuess': scan.probe,
        'objectGuess': scan.truth,
    }


def _save(tmp_path: Path, **arrays) -> Path:
    path = tmp_path / 'scan.npz'
    numpy.savez(path, **arrays)
    return path


def _write_pair(folder: Path, scan: Scan, *, compression: str = 'lzf', shuffle: bool = False):
    """Writes diffraction.h5 and product.h5 as Ptychodus does."""
    from ptychodus.api.assemble import AssembledDiffractionData
    from ptychodus.api.geometry import PixelGeometry
    from ptychodus.api.io import save_diffraction_data

    folder.mkdir(exist_ok=True)
    order = numpy.arange(scan.num_patterns)
    if shuffle:
        order = numpy.random.default_rng(0).permutation(order)
    data = AssembledDiffractionData(
        order, numpy.asarray(scan.patterns)[order], PixelGeometry(75e-6, 75e-6), ~scan.good_pixels
    )
    save_diffraction_data(folder / 'diffraction.h5', data, compression=compression)
    write_product(
        folder / 'product.h5', scan, scan.truth, scan.positions_px, scan.probe, [(1, 0.5)]
    )
    return order


def _assert_same(read: Scan, scan: Scan) -> None:
    numpy.testing.assert_array_equal(read.patterns, scan.patterns)
    assert read.patterns.dtype == scan.patterns.dtype
    numpy.testing.assert_allclose(read.positions_px, scan.positions_px, atol=1e-9)
    numpy.testing.assert_array_equal(read.probe, scan.probe)
    numpy.testing.assert_array_equal(read.good_pixels, scan.good_pixels)


def test_own_file_gives_the_scan_back(tiny_scan: Scan, tiny_scan_path: Path):
    read = read_scan(tiny_scan_path)
    _assert_same(read, tiny_scan)
    numpy.testing.assert_array_equal(read.truth, tiny_scan.truth)
    numpy.testing.assert_array_equal(read.object_, tiny_scan.object_)
    assert not read.has_object, 'a flat object is no knowledge'
    assert read.pixel_size_m == pytest.approx(tiny_scan.pixel_size_m)
    assert read.metadata['photon_energy_eV'] == tiny_scan.metadata['photon_energy_eV']


def test_patterns_stay_on_disk_in_their_own_type(tiny_scan_path: Path):
    patterns = read_scan(tiny_scan_path).patterns
    assert isinstance(patterns, numpy.memmap) and patterns.dtype == numpy.uint16
    assert Path(patterns.filename) == tiny_scan_path
    assert not patterns.flags.writeable


def test_compressed_patterns_are_mapped_as_well(tmp_path: Path, tiny_scan: Scan):
    path = tmp_path / 'scan.npz'
    numpy.savez_compressed(path, **_arrays(tiny_scan))
    read = read_scan(path)
    assert isinstance(read.patterns, numpy.memmap)
    _assert_same(read, tiny_scan)


def test_ptychodus_training_data_is_read(tmp_path: Path, tiny_scan: Scan):
    from ptychodus.api.io import save_ptychopinn_training_data
    from ptychodus.api.reconstruct import ReconstructInput

    from ptychodus_pinn_torch.scan.io.products import make_host_product

    product = make_host_product(
        tiny_scan, tiny_scan.truth, tiny_scan.positions_px, tiny_scan.probe, []
    )
    bad = numpy.zeros((32, 32), dtype=bool)
    bad[3, 4] = True
    path = tmp_path / 'train.npz'
    save_ptychopinn_training_data(
        path, ReconstructInput(numpy.array(tiny_scan.patterns), bad, product)
    )
    read = read_scan(path)
    numpy.testing.assert_allclose(read.positions_px, tiny_scan.positions_px, atol=1e-9)
    numpy.testing.assert_allclose(read.object_, tiny_scan.truth)
    assert read.has_object and not read.good_pixels[3, 4] and read.good_pixels.sum() == 1023
    assert read.patterns.dtype == numpy.uint16


def test_measured_scan_is_read(real_scan: Scan):
    assert real_scan.patterns.shape == (516, 128, 128) and real_scan.patterns.dtype == numpy.uint16
    assert isinstance(real_scan.patterns, numpy.memmap)
    assert real_scan.object_.shape == (480, 477) and real_scan.has_object
    assert real_scan.truth is None and real_scan.num_modes == 3
    assert real_scan.pixel_size_m == pytest.approx((30.16e-9, 30.16e-9))
    assert real_scan.good_pixels.all()


@pytest.mark.parametrize('kind', ['layout', 'values'])
def test_amplitudes_are_squared_to_counts(tmp_path: Path, tiny_scan: Scan, kind):
    arrays = _arrays(tiny_scan)
    arrays['diff3d'] = numpy.sqrt(arrays['diff3d']).astype(numpy.float32)
    if kind == 'layout':
        arrays['diff3d_kind'] = numpy.asarray('amplitude')
    read = read_scan(_save(tmp_path, **arrays))
    assert read.patterns.dtype == numpy.float32
    numpy.testing.assert_allclose(read.patterns, tiny_scan.patterns, rtol=1e-5)


def test_whole_floats_are_counts(tmp_path: Path, tiny_scan: Scan):
    arrays = _arrays(tiny_scan)
    arrays['diff3d'] = arrays['diff3d'].astype(numpy.float32)
    read = read_scan(_save(tmp_path, **arrays))
    numpy.testing.assert_array_equal(read.patterns, tiny_scan.patterns)


def test_option_decides_over_values(tmp_path: Path, tiny_scan: Scan):
    path = _save(tmp_path, **_arrays(tiny_scan))
    read = read_scan(path, diffraction_kind='amplitude')
    numpy.testing.assert_allclose(
        read.patterns, numpy.square(tiny_scan.patterns, dtype=numpy.float64), rtol=1e-6
    )


@pytest.mark.parametrize('axes', ['last', 'trailing'])
def test_other_axis_orders_are_understood(tmp_path: Path, tiny_scan: Scan, axes):
    arrays = _arrays(tiny_scan)
    patterns = arrays.pop('diff3d')
    arrays['diffraction'] = (
        numpy.moveaxis(patterns, 0, -1) if axes == 'last' else patterns[..., None]
    )
    _assert_same(read_scan(_save(tmp_path, **arrays)), tiny_scan)


@pytest.mark.parametrize('size', ['abc', []])
@pytest.mark.parametrize('layout', ['pixels', 'metres'])
def test_a_pixel_size_that_is_no_number_is_refused_by_name(
    tmp_path: Path, tiny_scan: Scan, size, layout
):
    arrays = _arrays(tiny_scan)
    if layout == 'metres':
        arrays = {
            'positions_m': tiny_scan.positions_px * 1e-8,
            'diffraction': arrays['diff3d'],
            'probe': arrays['probeGuess'],
        }
    arrays['pixel_size_m'] = numpy.asarray(size)
    with pytest.raises(ValueError, match='scan.npz: pixel_size_m is .*number'):
        read_scan(_save(tmp_path, **arrays))


def test_flat_object_is_made_to_cover_every_window(tmp_path: Path, tiny_scan: Scan):
    arrays = _arrays(tiny_scan)
    del arrays['objectGuess']
    arrays['xcoords'] = arrays['xcoords'] - 1000.0
    read = read_scan(_save(tmp_path, **arrays))
    assert not read.has_object and numpy.all(read.object_ == 1)
    moved = read.positions_px - tiny_scan.positions_px
    numpy.testing.assert_allclose(moved, moved[:1].repeat(len(moved), axis=0), atol=1e-9)
    numpy.testing.assert_allclose(moved[0], numpy.rint(moved[0]), atol=1e-9)


def test_one_pattern_and_one_mode_without_axis_are_enough(tmp_path: Path, tiny_scan: Scan):
    arrays = _arrays(tiny_scan)
    for key in ('xcoords', 'ycoords', 'diff3d'):
        arrays[key] = arrays[key][:1]
    arrays['probeGuess'] = arrays['probeGuess'][0]
    read = read_scan(_save(tmp_path, **arrays))
    assert read.num_patterns == 1 and read.num_modes == 1


def test_unordered_and_repeated_positions_keep_their_patterns(tmp_path: Path, tiny_scan: Scan):
    order = numpy.array([7, 3, 3, 30, 0, 7])
    read = read_scan(write_scan_npz(tmp_path / 'some.npz', tiny_scan.select(order)))
    numpy.testing.assert_array_equal(read.patterns, numpy.asarray(tiny_scan.patterns)[order])
    numpy.testing.assert_array_equal(read.positions_px, tiny_scan.positions_px[order])


def test_nonsense_at_bad_pixels_is_read_as_zero(tmp_path: Path, tiny_scan: Scan):
    arrays = _arrays(tiny_scan)
    arrays['diff3d'] = arrays['diff3d'].astype(numpy.float32)
    arrays['diff3d'][:, 5, 6] = numpy.nan
    arrays['bad_pixels'] = numpy.zeros((32, 32), dtype=bool)
    arrays['bad_pixels'][5, 6] = True
    read = read_scan(_save(tmp_path, **arrays))
    assert numpy.all(read.patterns[:, 5, 6] == 0) and numpy.isfinite(read.patterns).all()


@pytest.mark.parametrize('name', ['', 'diffraction.h5', 'product.h5'])
def test_ptychodus_files_are_found_from_folder_or_file(tmp_path: Path, tiny_scan: Scan, name):
    _write_pair(tmp_path, tiny_scan)
    read = read_scan(tmp_path / name if name else tmp_path)
    _assert_same(read, tiny_scan)
    numpy.testing.assert_array_equal(read.object_, tiny_scan.truth)
    assert read.object_.shape[0] != read.object_.shape[1]
    assert read.metadata['detector_pixel_m'] == pytest.approx(75e-6)


def test_patterns_and_positions_are_paired_by_index(tmp_path: Path, tiny_scan: Scan):
    order = _write_pair(tmp_path, tiny_scan, shuffle=True)
    read = read_scan(tmp_path)
    numpy.testing.assert_array_equal(read.patterns, numpy.asarray(tiny_scan.patterns)[order])
    numpy.testing.assert_allclose(read.positions_px, tiny_scan.positions_px[order], atol=1e-9)


def test_patterns_without_position_are_left_out(tmp_path: Path, tiny_scan: Scan):
    _write_pair(tmp_path, tiny_scan)
    fewer = tiny_scan.select(numpy.arange(10))
    write_product(tmp_path / 'product.h5', fewer, fewer.truth, fewer.positions_px, fewer.probe, [])
    read = read_scan(tmp_path)
    assert read.num_patterns == 10
    numpy.testing.assert_array_equal(read.patterns, tiny_scan.patterns[:10])


def test_layers_and_varying_probes_are_reduced_and_said(tmp_path: Path, tiny_scan: Scan, caplog):
    _write_pair(tmp_path, tiny_scan)
    with h5py.File(tmp_path / 'product.h5', 'r+') as file:
        attributes = {key: dict(file[key].attrs) for key in ('object', 'probe')}
        layers = numpy.concatenate([file['object'][()], file['object'][()] * 0.5])
        modes = numpy.concatenate([file['probe'][()], file['probe'][()] * 0.1])
        del file['object'], file['probe'], file['object_layer_spacing_m']
        file['object'], file['probe'] = layers, modes
        file['object_layer_spacing_m'] = numpy.array([1e-6])
        file['opr_weights'] = numpy.ones((tiny_scan.num_patterns, 2))
        for key, values in attributes.items():
            file[key].attrs.update(values)
    with caplog.at_level('INFO'):
        read = read_scan(tmp_path)
    numpy.testing.assert_array_equal(read.object_, tiny_scan.truth)
    numpy.testing.assert_array_equal(read.probe, tiny_scan.probe)
    numpy.testing.assert_allclose(read.probe_variation.modes, 0.1 * tiny_scan.probe[:1])
    assert '2 layers; the first one is used' in caplog.text
    assert '2 coherent modes' in caplog.text


@pytest.fixture
def varying_scan(tiny_scan: Scan) -> Scan:
    """A scan whose probe varies, with weights that tell which pattern they belong to."""
    rng, number = numpy.random.default_rng(3), tiny_scan.num_patterns
    modes = (tiny_scan.probe[0] * rng.normal(size=(2, 1, 1))).astype(numpy.complex64)
    weights = numpy.stack([numpy.arange(number) + k for k in (1.0, 0.25, 0.5)], axis=1)
    return replace(tiny_scan, probe_variation=ProbeVariation(modes, weights))


def _assert_varies_alike(read: ProbeVariation | None, wanted: ProbeVariation | None) -> None:
    assert read is not None and wanted is not None
    numpy.testing.assert_allclose(read.modes, wanted.modes, rtol=1e-6)
    numpy.testing.assert_allclose(read.weights, wanted.weights)


def test_a_varying_probe_survives_the_way_through_files(tmp_path: Path, varying_scan: Scan):
    wanted = varying_scan.probe_variation
    _write_pair(tmp_path, varying_scan)
    read = read_scan(tmp_path)
    _assert_varies_alike(read.probe_variation, wanted)
    product = write_product(
        tmp_path / 'again.h5', read, read.object_, read.positions_px, read.probe, []
    )
    again = read_scan(tmp_path / 'diffraction.h5', product=product)
    _assert_varies_alike(again.probe_variation, wanted)
    archived = read_scan(write_scan_npz(tmp_path / 'scan.npz', read))
    _assert_varies_alike(archived.probe_variation, wanted)


def test_rows_of_weights_follow_their_patterns(tmp_path: Path, varying_scan: Scan):
    order = _write_pair(tmp_path, varying_scan, shuffle=True)
    weights = varying_scan.probe_variation.weights
    numpy.testing.assert_allclose(read_scan(tmp_path).probe_variation.weights, weights[order])
    fewer = varying_scan.select(numpy.arange(10))
    write_product(tmp_path / 'product.h5', fewer, fewer.truth, fewer.positions_px, fewer.probe, [])
    read = read_scan(tmp_path)
    kept = order[order < 10]
    numpy.testing.assert_allclose(read.probe_variation.weights, weights[kept])
    chosen = read.select(numpy.array([3, 1]))
    numpy.testing.assert_allclose(chosen.probe_variation.weights, weights[kept[[3, 1]]])


def test_weights_of_missing_positions_are_interpolated_as_positions_are(
    tmp_path: Path, varying_scan: Scan
):
    number = varying_scan.num_patterns
    kept = numpy.delete(numpy.arange(number), 4)
    _write_pair(tmp_path, varying_scan)
    fewer = varying_scan.select(kept)
    fewer = replace(fewer, metadata={**fewer.metadata, 'position_indexes': kept})
    write_product(tmp_path / 'product.h5', fewer, fewer.truth, fewer.positions_px, fewer.probe, [])
    read = read_scan(tmp_path)
    assert read.num_patterns == number
    numpy.testing.assert_allclose(
        read.probe_variation.weights, varying_scan.probe_variation.weights
    )


def test_weights_that_are_not_as_many_as_positions_are_left_out_and_said(
    tmp_path: Path, varying_scan: Scan, caplog
):
    _write_pair(tmp_path, varying_scan)
    with h5py.File(tmp_path / 'product.h5', 'r+') as file:
        weights = file['opr_weights'][:-1]
        del file['opr_weights']
        file['opr_weights'] = weights
    read = read_scan(tmp_path)
    assert read.probe_variation is None
    numpy.testing.assert_array_equal(read.probe, varying_scan.probe)
    number = varying_scan.num_patterns
    assert f'{number - 1} rows of weights for {number} positions' in caplog.text


def test_variations_that_do_not_fit_are_refused(tmp_path: Path, varying_scan: Scan):
    arrays = {
        **_arrays(varying_scan),
        'probe_variations': varying_scan.probe_variation.modes,
        'probe_weights': varying_scan.probe_variation.weights[1:],
    }
    with pytest.raises(ValueError, match='variations of the probe'):
        read_scan(_save(tmp_path, **arrays))


def test_written_product_lies_on_the_same_grid(tmp_path: Path, tiny_scan: Scan):
    from ptychodus.api.io import load_product

    scan = replace(tiny_scan, object_center_m=(2e-6, -3e-6))
    _write_pair(tmp_path, scan)
    read = read_scan(tmp_path)
    image = read.object_ * numpy.complex64(0.5j)
    path = write_product(
        tmp_path / 'out.h5', read, image, read.positions_px, read.probe, [(1, 0.3), (2, 0.2)]
    )
    first, second = load_product(tmp_path / 'product.h5'), load_product(path)
    assert second.object_.get_geometry() == first.object_.get_geometry()
    numpy.testing.assert_array_equal(second.object_.get_layer(0), image)
    for name in ('get_coordinates_x_m', 'get_coordinates_y_m', 'get_indexes'):
        numpy.testing.assert_allclose(
            getattr(second.probe_positions, name)(),
            getattr(first.probe_positions, name)(),
            atol=1e-15,
        )
    assert second.metadata == first.metadata
    assert [(loss.epoch, loss.value) for loss in second.losses] == [(1, 0.3), (2, 0.2)]


def test_reconstruction_has_its_four_keys(tmp_path: Path, tiny_scan: Scan):
    path = write_reconstruction_npz(
        tmp_path / 'r.npz',
        object_=tiny_scan.truth.astype(numpy.complex128),
        positions_px=tiny_scan.positions_px,
        probe=tiny_scan.probe,
        losses=[(1, 0.5)],
    )
    with numpy.load(path, allow_pickle=False) as file:
        assert set(file) == {'object', 'positions_px', 'probe', 'losses', 'messages'}
        assert file['object'].dtype == numpy.complex64 and file['losses'].shape == (1, 2)


def test_nothing_is_left_of_a_write_that_failed(tmp_path: Path, tiny_scan: Scan, monkeypatch):
    path = tmp_path / 'scan.npz'
    path.write_bytes(b'precious')

    def fill_up(file, **arrays):
        file.write(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(numpy, 'savez', fill_up)
    with pytest.raises(OSError, match='No space left on device') as caught:
        write_scan_npz(path, tiny_scan)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b'precious' and list(tmp_path.iterdir()) == [path]


def test_object_is_found_in_every_kind_of_file(tmp_path: Path, tiny_scan: Scan, tiny_scan_path):
    scan = tiny_scan
    product = write_product(tmp_path / 'p.h5', scan, scan.truth, scan.positions_px, scan.probe, [])
    image = write_reconstruction_npz(
        tmp_path / 'r.npz',
        object_=scan.truth,
        positions_px=scan.positions_px,
        probe=scan.probe,
        losses=[],
    )
    for path in (tiny_scan_path, product, image):
        numpy.testing.assert_array_equal(read_object(path), scan.truth)
