"""Files of every format of Ptychodus: products, and patterns and positions of instruments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy
import pytest
from scipy.io import savemat

from ptychodus_pinn_torch.scan.io.images import read_image
from ptychodus_pinn_torch.scan.io.product_files import PRODUCTS
from ptychodus_pinn_torch.scan.io.products import ObjectGrid, ProductArrays, product_of_arrays
from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.scan import Scan

WAVELENGTH_M = 12.398419843320026e-7 / 1e4
PIXEL_M, CENTER_M = 1e-8, (3e-6, -2e-6)
DETECTOR_PIXEL_M = WAVELENGTH_M / (32 * PIXEL_M)
"""Of 32 pixels, one metre behind the sample."""


def product(scan: Scan) -> Any:
    """Returns the host's product of a scan, whose object does not lie about zero."""
    about = {'photon_energy_eV': 1e4, 'detector_distance_m': 1.0, 'name': 'scan'}
    arrays = (scan.positions_px, scan.probe, scan.truth, (PIXEL_M, PIXEL_M), CENTER_M, about)
    return product_of_arrays(ProductArrays(*arrays))


def metres(scan: Scan) -> numpy.ndarray:
    """Returns the positions (N, 2) of that product."""
    return ObjectGrid(scan.object_.shape, (PIXEL_M, PIXEL_M), CENTER_M).to_m(scan.positions_px)


# -- products


def write_by_host(name: str) -> Callable[[Path, Scan], None]:
    def write(path: Path, scan: Scan) -> None:
        from ptychodus_pinn_torch.scan.io.hosted import load_registry

        writers = load_registry().product_file_writers
        writers.get_strategy_by_name(name).write(path, product(scan))

    return write


def write_training_data(path: Path, scan: Scan) -> None:
    from ptychodus.api.assemble import AssembledDiffractionData
    from ptychodus.api.geometry import PixelGeometry
    from ptychodus.api.io import save_training_data
    from ptychodus.api.reconstruct import prepare_reconstruct_input

    pixel = PixelGeometry(DETECTOR_PIXEL_M, DETECTOR_PIXEL_M)
    numbers, patterns = numpy.arange(scan.num_patterns), numpy.array(scan.patterns)
    data = AssembledDiffractionData(numbers, patterns, pixel, numpy.zeros((32, 32), bool))
    save_training_data(path, prepare_reconstruct_input(data, product(scan)))


def write_slac(path: Path, scan: Scan) -> None:
    y, x = scan.positions_px.T
    about = {'photon_energy_eV': 1e4, 'detector_distance_m': 1.0}
    about['detector_pixel_size_m'] = DETECTOR_PIXEL_M
    numpy.savez(path, xcoords_start=x, ycoords_start=y, probeGuess=scan.probe,
                objectGuess=scan.truth, diffraction=numpy.moveaxis(scan.patterns, 0, -1), **about)  # fmt: skip


def write_nsls(path: Path, scan: Scan) -> None:
    places = metres(scan)
    with h5py.File(path, 'w') as file:
        file['det_dist'], file['energy'] = 1e6, 10.0
        file['img_pixel_size_x'] = file['img_pixel_size_y'] = PIXEL_M
        file['pos_xy'] = numpy.stack([numpy.arange(len(places)), *places.T[::-1] * 1e6])
        file['prb'], file['obj'] = scan.probe, scan.truth


def write_fold_slice(path: Path, scan: Scan) -> None:
    places_px = (metres(scan) - CENTER_M)[:, ::-1] / PIXEL_M
    outputs = {'probe_positions': places_px, 'fourier_error_out': numpy.arange(3.0)}
    told = {'lambda': WAVELENGTH_M, 'dx_spec': [PIXEL_M, PIXEL_M]}
    arrays = {'object': scan.truth, 'probe': numpy.moveaxis(scan.probe, 0, -1)}
    savemat(path, {'outputs': outputs, 'p': told, **arrays})


WRITERS = {
    'HDF5': ('.h5', write_by_host('HDF5')),
    'NPZ': ('.npz', write_by_host('NPZ')),
    'CXI': ('.cxi', write_by_host('CXI')),
    'Ptychodus_Training_Data': ('.h5', write_training_data),
    'SLAC_NPZ': ('.npz', write_slac),
    'NSLS_II_MATLAB': ('.mat', write_nsls),
    'fold_slice_mat': ('.mat', write_fold_slice),
}


@pytest.mark.parametrize('patterns', ['a.npy', 'diffraction.h5'])
@pytest.mark.parametrize('name', WRITERS)
def test_a_product_of_any_format_goes_with_the_patterns(
    tmp_path: Path, tiny_scan: Scan, name: str, patterns: str
) -> None:
    ending, write = WRITERS[name]
    path = tmp_path / f'result{ending}'
    write(path, tiny_scan)
    numpy.save(tmp_path / 'a.npy', tiny_scan.patterns)
    with h5py.File(tmp_path / 'diffraction.h5', 'w') as file:
        file['patterns'] = tiny_scan.patterns
    scan = read_scan(tmp_path / patterns, product=path)
    assert numpy.array_equal(scan.patterns, tiny_scan.patterns)
    assert numpy.array_equal(scan.probe, tiny_scan.probe)
    assert numpy.array_equal(scan.object_, tiny_scan.truth)
    assert scan.pixel_size_m == pytest.approx((PIXEL_M, PIXEL_M), rel=1e-9)
    assert scan.metadata['photon_energy_eV'] == pytest.approx(1e4)
    found = ObjectGrid(scan.object_.shape, (PIXEL_M, PIXEL_M), scan.object_center_m)
    read, wanted = found.to_m(scan.positions_px), metres(tiny_scan)
    if name in ('HDF5', 'NPZ', 'CXI', 'NSLS_II_MATLAB'):  # others do not say where the object lies
        assert numpy.abs(read - wanted).max() < 1e-9
    assert numpy.abs((read - read[0]) - (wanted - wanted[0])).max() < 1e-9
    if name not in ('SLAC_NPZ', 'NSLS_II_MATLAB'):  # these do not say where its middle is
        assert numpy.abs(scan.positions_px - tiny_scan.positions_px).max() < 1e-6


@pytest.mark.parametrize('name', WRITERS)
def test_a_product_of_any_format_is_an_image(tmp_path: Path, tiny_scan: Scan, name: str) -> None:
    ending, write = WRITERS[name]
    path = tmp_path / f'result{ending}'
    write(path, tiny_scan)
    image = read_image(path)
    assert numpy.array_equal(image.object_, tiny_scan.truth)
    assert image.probe is not None and numpy.array_equal(image.probe, tiny_scan.probe)
    if name != 'SLAC_NPZ':  # read by the names of an NPZ
        assert image.positions_px is not None and len(image.positions_px) == 35
        assert image.pixel_size_m == pytest.approx((PIXEL_M, PIXEL_M), rel=1e-9)


def test_every_format_of_products_is_known() -> None:
    from ptychodus_pinn_torch.scan.io.hosted import load_registry

    readers = {each.simple_name: each.strategy for each in load_registry().product_file_readers}
    assert {name: type(reader).__name__ for name, reader in readers.items()} == {
        name: row[3] for name, row in PRODUCTS.items()
    }
    assert set(WRITERS) == set(PRODUCTS)


@pytest.mark.parametrize('name', ['Ptychodus_Training_Data', 'SLAC_NPZ'])
@pytest.mark.parametrize('is_named', [True, False])
def test_a_file_that_is_its_own_product_is_a_whole_scan(
    tmp_path: Path, tiny_scan: Scan, name: str, is_named: bool
) -> None:
    ending, write = WRITERS[name]
    path = tmp_path / f'set{ending}'
    write(path, tiny_scan)
    if not is_named and name == 'SLAC_NPZ':
        with pytest.raises(ValueError, match=r'set.npz has no key .xcoords.; it holds'):
            read_scan(path)
        return
    scan = read_scan(path, patterns_format=name if is_named else None)
    assert numpy.array_equal(scan.patterns, tiny_scan.patterns)
    assert numpy.array_equal(scan.probe, tiny_scan.probe)
    assert numpy.array_equal(scan.object_, tiny_scan.truth)


def test_a_product_that_cannot_be_read_is_one_sentence(tmp_path: Path, tiny_scan: Scan) -> None:
    numpy.save(tmp_path / 'a.npy', tiny_scan.patterns)
    (tmp_path / 'text.npz').write_text('nothing', encoding='ascii')
    numpy.savez(tmp_path / 'other.npz', numbers=numpy.arange(3))
    write_by_host('NPZ')(tmp_path / 'run.npz', tiny_scan)
    with numpy.load(tmp_path / 'run.npz') as arrays:
        told = dict(arrays)
    numpy.savez(tmp_path / 'run.npz', **{**told, 'name': numpy.array([print], object)})
    numpy.savez(tmp_path / 'part.npz', **{key: told[key] for key in told if key != 'probe'})
    cut = (tmp_path / 'part.npz').read_bytes()[:-300]
    (tmp_path / 'cut.npz').write_bytes(cut)
    write_nsls(tmp_path / 'matlab.mat', tiny_scan)
    with h5py.File(tmp_path / 'matlab.mat', 'r+') as file:
        del file['det_dist']
        file['det_dist'] = [
            [1e6]
        ]  # as MATLAB writes every number, which the reader does not expect
    for name, words in {
        'text.npz': 'is no product, it holds nothing', 'other.npz': 'is no product, it holds numbers',
        'run.npz': 'Python objects', 'part.npz': r'no complete product \(probe',
        'cut.npz': 'cannot be read', 'matlab.mat': 'cannot read it as NSLS_II_MATLAB',
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=f'{name}.*{words}') as caught:
            read_scan(tmp_path / 'a.npy', product=tmp_path / name)
        assert '\n' not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        read_scan(tmp_path / 'a.npy', product=tmp_path / 'none.npz')


# -- files of instruments

ALL = {'energy_ev': 1e4, 'distance_m': 1.0, 'detector_pixel_um': (1e6 * DETECTOR_PIXEL_M,)}
Files = dict[str, Any]


def text(path: Path, rows: numpy.ndarray, header: str = '') -> Path:
    """Writes y,x for .csv and x y for .txt, as the host reads them."""
    is_csv = path.suffix == '.csv'
    lines = [f'{y!r},{x!r}' if is_csv else f'{x!r} {y!r}' for y, x in rows.tolist()]
    path.write_text(header + '\n'.join(lines) + '\n', encoding='ascii')
    return path


def write_hdf5(path: Path, arrays: dict[str, Any]) -> Path:
    with h5py.File(path, 'w') as file:
        for name, values in arrays.items():
            file[name] = values
    return path


def npy_csv(folder: Path, scan: Scan) -> Files:
    numpy.save(folder / 'a.npy', scan.patterns)
    places = text(folder / 'p.csv', metres(scan), '# y,x in metres\n')
    return {'path': folder / 'a.npy', 'positions_file': places, **ALL}


def npy_txt(folder: Path, scan: Scan) -> Files:
    return {**npy_csv(folder, scan), 'positions_file': text(folder / 'p.txt', metres(scan))}


def tiff_stack(folder: Path, scan: Scan) -> Files:
    import tifffile

    tifffile.imwrite(folder / 'scan_0.tif', numpy.array(scan.patterns))
    places = text(folder / 'p.csv', metres(scan))
    return {'path': folder / 'scan_0.tif', 'positions_file': places, **ALL}


def tiff_series(folder: Path, scan: Scan) -> Files:
    import tifffile

    for number, pattern in enumerate(numpy.array(scan.patterns)):
        tifffile.imwrite(folder / f'scan_{number + 1}.tif', pattern)
    tifffile.imwrite(folder / 'dark.tif', pattern)
    places = text(folder / 'p.txt', metres(scan))
    return {'path': folder / 'scan_1.tif', 'positions_file': places, **ALL}


def cnm(folder: Path, scan: Scan) -> Files:
    path = write_hdf5(folder / 'a.h5', {'entry/data/data': scan.patterns})
    places = text(folder / 'p.csv', metres(scan))
    return {'path': path, 'patterns_format': 'CNM_APS_HXN', 'positions_file': places, **ALL}


def xpp(folder: Path, scan: Scan) -> Files:
    y_um, x_um = metres(scan).T * 1e6
    arrays = {
        'jungfrau1M/image_img': scan.patterns,
        'lmc/ch03': -x_um,  # the stage is turned by 180 degrees
        'lmc/ch04': numpy.zeros_like(x_um),
        'lmc/ch05': -y_um,
        'ipm2/sum': numpy.full(len(x_um), 2500.0),
    }
    return {'path': write_hdf5(folder / 'a.h5', arrays), 'patterns_format': 'LCLS_XPP', **ALL}


def nanomax(folder: Path, scan: Scan) -> Files:
    y_um, x_um = metres(scan).T * 1e6
    frames = {'entry/measurement/Eiger/data': scan.patterns}
    places = {'entry/measurement/pseudo/x': x_um, 'entry/measurement/pseudo/y': y_um}
    path = write_hdf5(folder / 'a.h5', {**frames, **places})
    return {'path': path, 'patterns_format': 'MAX_IV_NanoMAX', **ALL}


def csaxs(folder: Path, scan: Scan) -> Files:
    arrays = {
        'entry/data/data': scan.patterns,
        'entry/instrument/monochromator/distance': -1000.0,
        'entry/instrument/monochromator/energy': 10.0,
        'entry/instrument/eiger_4/x_pixel_size': 1e6 * DETECTOR_PIXEL_M,
        'entry/instrument/eiger_4/y_pixel_size': 1e6 * DETECTOR_PIXEL_M,
    }
    path, places = write_hdf5(folder / 'a.h5', arrays), text(folder / 'p.txt', metres(scan))
    return {'path': path, 'patterns_format': 'SLS_cSAXS', 'positions_file': places}


def fold_slice(folder: Path, scan: Scan) -> Files:
    y_m, x_m = metres(scan).T
    path = write_hdf5(folder / 'a_dp.hdf5', {'dp': scan.patterns})
    size = scan.pattern_shape[0]
    return {
        'path': path,
        'patterns_format': 'fold_slice',
        'positions_file': write_hdf5(folder / 'a_para.hdf5', {'ppX': x_m, 'ppY': y_m}),
        'positions_format': 'fold_slice',
        'energy_ev': 1e4,
        'distance_m': PIXEL_M * size * 75e-6 / WAVELENGTH_M,  # the reader says 75 um
    }


def cssi(folder: Path, scan: Scan) -> Files:
    arrays = {'exchange/data': scan.patterns, 'exchange/motor_pos': metres(scan)[:, ::-1] * 1e3}
    return {'path': write_hdf5(folder / 'a.h5', arrays), 'patterns_format': 'APS_CSSI', **ALL}


def nsls(folder: Path, scan: Scan) -> Files:
    arrays = {
        'entry/data/data': scan.patterns,
        'scan/energy': 1e4,
        'scan/exposure_time': 0.1,
        'scan/scan_positions': metres(scan)[:, ::-1].T * 1e6,
    }
    told = {name: value for name, value in ALL.items() if name != 'energy_ev'}
    return {'path': write_hdf5(folder / 'a.h5', arrays), 'patterns_format': 'NSLS_II_1', **told}


INSTRUMENTS = [
    npy_csv, npy_txt, tiff_stack, tiff_series, cnm, xpp, nanomax, csaxs, fold_slice, cssi, nsls
]  # fmt: skip


def read_metres(scan: Scan) -> numpy.ndarray:
    """Returns the positions (N, 2) of a scan that was read."""
    assert scan.pixel_size_m is not None
    grid = ObjectGrid(scan.object_.shape, scan.pixel_size_m, scan.object_center_m)
    return grid.to_m(scan.positions_px)


@pytest.mark.parametrize('write', INSTRUMENTS)
def test_files_of_an_instrument_are_the_scan_that_was_written(
    tmp_path: Path, tiny_scan: Scan, write: Callable[[Path, Scan], Files]
) -> None:
    scan = read_scan(**write(tmp_path, tiny_scan))
    assert numpy.array_equal(scan.patterns, tiny_scan.patterns)
    assert numpy.abs(read_metres(scan) - metres(tiny_scan)).max() < 1e-9
    assert scan.pixel_size_m == pytest.approx((PIXEL_M, PIXEL_M), rel=1e-6)
    assert scan.metadata['photon_energy_eV'] == 1e4
    assert scan.metadata['position_indexes'].tolist() == list(range(35))


def test_frames_and_positions_are_paired_by_number(tmp_path: Path, tiny_scan: Scan) -> None:
    files = xpp(tmp_path, tiny_scan)
    with h5py.File(files['path'], 'r+') as file:
        file['ipm2/sum'][[0, 7, 34]] = 1500.0  # too dark
    scan = read_scan(**files)
    wanted = metres(tiny_scan)[1:34]
    wanted[6] = (wanted[5] + wanted[7]) / 2  # Ptychodus goes half way from one to the next
    assert numpy.array_equal(scan.patterns, tiny_scan.patterns[1:34])
    assert numpy.abs(read_metres(scan) - wanted).max() < 1e-9
    files = npy_csv(tmp_path, tiny_scan)
    text(files['positions_file'], metres(tiny_scan)[:20], '# header\n')
    scan = read_scan(**files)
    assert numpy.array_equal(scan.patterns, tiny_scan.patterns[:20])
    assert numpy.abs(read_metres(scan) - metres(tiny_scan)[:20]).max() < 1e-9


def test_check_reads_files_of_an_instrument(
    tmp_path: Path, tiny_scan: Scan, capsys: pytest.CaptureFixture[str]
) -> None:
    from ptychodus_pinn_torch.cli import main

    files = fold_slice(tmp_path, tiny_scan)
    flags = {'patterns_format': '--patterns-format', 'positions_file': '--positions',
             'positions_format': '--positions-format', 'energy_ev': '--energy-ev',
             'distance_m': '--distance-m'}  # fmt: skip
    said = [word for name, flag in flags.items() for word in (flag, str(files[name]))]
    assert main(['check', str(files['path']), *said, '--json']) == 0
    assert '35 positions span 17 x 17 pixels' in capsys.readouterr().out
    del said[2:4]
    assert main(['check', str(files['path']), *said]) == 1
    assert 'a_dp.hdf5' in capsys.readouterr().err


@pytest.mark.parametrize('write', [cnm, csaxs])
def test_patterns_of_an_instrument_without_positions_ask_for_them(
    tmp_path: Path, tiny_scan: Scan, write: Callable[[Path, Scan], Files]
) -> None:
    files = write(tmp_path, tiny_scan)
    del files['positions_file']
    with pytest.raises(ValueError, match=r'a\.h5.*--positions'):
        read_scan(**files)


# -- positions of their own for other layouts


def pair_without_product(path: Path, scan: Scan) -> Path:
    with h5py.File(path / 'diffraction.h5', 'w') as file:
        file['patterns'] = scan.patterns
        file['patterns'].attrs['detector_pixel_width_m'] = DETECTOR_PIXEL_M
    return path / 'diffraction.h5'


def pair(path: Path, scan: Scan) -> Path:
    write_by_host('HDF5')(path / 'product.h5', scan)
    return pair_without_product(path, scan)


def cxi_pair(path: Path, scan: Scan) -> Path:
    write_by_host('CXI')(path / 'a.cxi', scan)
    with h5py.File(path / 'a.cxi', 'r+') as file:
        file['entry_1/instrument_1/detector_1/data'] = scan.patterns
    return path / 'a.cxi'


def host_training_data(path: Path, scan: Scan) -> Path:
    write_training_data(path / 'a.h5', scan)
    return path / 'a.h5'


def training_set(path: Path, scan: Scan) -> Path:
    names = {'diff3d': scan.patterns, 'probeGuess': scan.probe}
    return write_hdf5(path / 'a.h5', {**names, 'xcoords': [0.0] * 35, 'ycoords': [0.0] * 35})


def training_set_last(path: Path, scan: Scan) -> Path:
    numpy.savez(path / 'a.npz', diff3d=numpy.moveaxis(scan.patterns, 0, -1), probeGuess=scan.probe)
    return path / 'a.npz'


def matlab_set(path: Path, scan: Scan) -> Path:
    savemat(path / 'a.mat', {'diff3d': numpy.moveaxis(scan.patterns, 0, -1), 'probe': scan.probe})
    return path / 'a.mat'


@pytest.mark.parametrize('num_positions', [35, 20])
@pytest.mark.parametrize(
    'write',
    [pair, pair_without_product, cxi_pair, host_training_data, training_set, training_set_last,
     matlab_set],
)  # fmt: skip
def test_positions_of_a_file_go_before_those_of_any_layout(
    tmp_path: Path, tiny_scan: Scan, write: Callable[[Path, Scan], Path], num_positions: int
) -> None:
    path = write(tmp_path, tiny_scan)
    wanted = (metres(tiny_scan) + [2 * PIXEL_M, -PIXEL_M])[:num_positions]
    is_about_zero = write is host_training_data
    told = wanted - CENTER_M if is_about_zero else wanted
    is_whole = write in (pair, cxi_pair, host_training_data)
    more = {} if is_whole else ALL
    scan = read_scan(path, positions_file=text(tmp_path / 'p.csv', told), **more)
    assert numpy.array_equal(scan.patterns, tiny_scan.patterns[:num_positions])
    assert numpy.abs(read_metres(scan) - told).max() < 1e-9
    assert scan.pixel_size_m == pytest.approx((PIXEL_M, PIXEL_M), rel=1e-6)
    if write is not pair_without_product:
        assert numpy.array_equal(scan.probe, tiny_scan.probe)
    if is_whole:
        assert numpy.array_equal(scan.object_, tiny_scan.truth)


def test_positions_are_paired_with_the_numbers_of_the_patterns(
    tmp_path: Path, tiny_scan: Scan
) -> None:
    kept = numpy.delete(numpy.arange(35), [3, 17])
    with h5py.File(tmp_path / 'diffraction.h5', 'w') as file:
        file['patterns'], file['indexes'] = numpy.array(tiny_scan.patterns)[kept], kept
    places = text(tmp_path / 'p.csv', metres(tiny_scan))
    scan = read_scan(tmp_path / 'diffraction.h5', positions_file=places, **ALL)
    assert numpy.abs(read_metres(scan) - metres(tiny_scan)[kept]).max() < 1e-9
    with pytest.raises(ValueError, match='diffraction.h5.*--energy-ev, --distance-m, --detector'):
        read_scan(tmp_path / 'diffraction.h5', positions_file=places)


# -- one scan by every route


FEW_EPOCHS = {'reconstruction.refine_epochs': 3}


@pytest.fixture(scope='module')
def npz_route(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scan, Scan, numpy.ndarray]:
    """A simulated scan; as it is read from an NPZ of ours without a probe; and the image of that."""
    import ptychodus_pinn_torch as pinn

    scan = pinn.simulate(pattern_size=32, num_positions=81, step_px=3.0, photons=1e6, seed=11)
    path = tmp_path_factory.mktemp('route') / 'scan.npz'
    about = {'energy_eV': 1e4, 'distance_m': 1.0, 'detector_pixel_m': DETECTOR_PIXEL_M}
    numpy.savez(path, diff3d=scan.patterns, positions_m=metres(scan), pixel_size_m=PIXEL_M, **about)
    read = read_scan(path)
    return scan, read, pinn.reconstruct(read, options=FEW_EPOCHS).object_


@pytest.mark.slow
@pytest.mark.parametrize('write', [npy_csv, tiff_series, cnm, fold_slice])
def test_every_route_gives_the_same_image(
    tmp_path: Path,
    npz_route: tuple[Scan, Scan, numpy.ndarray],
    write: Callable[[Path, Scan], Files],
) -> None:
    import ptychodus_pinn_torch as pinn

    simulated, wanted, image = npz_route
    scan = read_scan(**write(tmp_path, simulated))
    assert numpy.array_equal(scan.patterns, wanted.patterns)
    assert scan.patterns.dtype == wanted.patterns.dtype
    assert numpy.array_equal(scan.probe, wanted.probe)
    assert numpy.array_equal(scan.good_pixels, wanted.good_pixels)
    assert scan.object_.shape == wanted.object_.shape
    # the pixel size is in the NPZ, and made of energy, distance and detector elsewhere
    assert numpy.abs(scan.positions_px - wanted.positions_px).max() < 1e-9
    found = pinn.reconstruct(scan, options=FEW_EPOCHS).object_
    assert numpy.abs(found - image).max() < 1e-5 * numpy.abs(image).max()
