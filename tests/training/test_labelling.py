"""Supervised sets: labels lie where the patterns were taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy
import pytest

from ptychodus_pinn_torch import api
from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.scan.io.images import Image
from ptychodus_pinn_torch.scan.io.output import (
    write_product,
    write_reconstruction_npz,
    write_scan_npz,
)
from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.training.labelling import cut_patches, label_scan


def test_a_patch_is_what_the_pattern_saw(tiny_scan: Scan) -> None:
    y, x = numpy.indices(tiny_scan.object_.shape)
    plane = (x + 2j * y).astype(numpy.complex64)
    patches = cut_patches(replace(tiny_scan, object_=plane))
    size = tiny_scan.pattern_shape[0]
    assert patches.shape == tiny_scan.patterns.shape and patches.dtype == numpy.complex64
    middle = patches.mean(axis=(1, 2))
    assert numpy.allclose(middle.real, tiny_scan.positions_px[:, 1], atol=1e-3)
    assert numpy.allclose(middle.imag, 2 * tiny_scan.positions_px[:, 0], atol=1e-3)
    assert numpy.allclose(patches[3, :, 1:] - patches[3, :, :-1], 1.0, atol=1e-3)
    assert patches[3].real.max() - patches[3].real.min() == pytest.approx(size - 1, abs=1e-3)


def test_outside_of_the_object_its_border_is_repeated(tiny_scan: Scan) -> None:
    moved = replace(tiny_scan, positions_px=tiny_scan.positions_px - 500.0)
    assert (cut_patches(moved) == tiny_scan.object_[0, 0]).all()


@pytest.mark.parametrize('suffix', ['.npz', '.h5'])
def test_a_set_cut_from_a_reconstruction_trains(
    tmp_path: Path, tiny_scan: Scan, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_scan.truth is not None
    scan_file = write_scan_npz(tmp_path / 'scan.npz', tiny_scan)
    moved = tiny_scan.positions_px + numpy.asarray([0.4, -0.3])
    image_file = write_reconstruction_npz(
        tmp_path / 'image.npz',
        object_=2.0 * tiny_scan.truth,
        positions_px=moved,
        probe=0.5 * tiny_scan.probe,
        losses=[],
    )
    output = tmp_path / f'set{suffix}'
    words = ['convert', str(scan_file), '--labels', str(image_file), '--output', str(output)]
    assert main(words) == 0
    assert 'labelled by' in capsys.readouterr().out
    found = read_scan(output)
    assert found.truth is None and found.has_object
    assert numpy.allclose(found.object_, 2.0 * tiny_scan.truth)
    assert numpy.allclose(found.positions_px, moved)
    assert numpy.allclose(found.probe, 0.5 * tiny_scan.probe)
    if suffix == '.npz':
        with numpy.load(output) as file:
            assert numpy.allclose(file['Y'], cut_patches(found))
    options = {'mode': 'supervised', 'network.kind': 'cnn', 'training.max_steps': 2}
    assert api.train(found, tmp_path / 'm.h5.zip', options=options).is_file()


def test_labels_of_another_scan_are_refused(
    tmp_path: Path, tiny_scan: Scan, capsys: pytest.CaptureFixture[str]
) -> None:
    image = Image(Path('image.npz'), tiny_scan.object_, positions_px=tiny_scan.positions_px[1:])
    with pytest.raises(ValueError, match='image.npz has 34 positions but .* 35 patterns'):
        label_scan(tiny_scan, image)
    with pytest.raises(ValueError, match='holds an object of 9 x 9 pixels'):
        label_scan(tiny_scan, Image(Path('image.npz'), tiny_scan.object_[:9, :9]))
    model = tmp_path / 'm.h5.zip'
    assert main(['convert', 'a.ckpt', '--labels', 'i.npz', '--output', str(model)]) == 2
    assert '--labels has no effect on a model' in capsys.readouterr().err


def test_a_product_labels_as_well(tmp_path: Path, tiny_scan: Scan) -> None:
    scan_file = write_scan_npz(tmp_path / 'scan.npz', tiny_scan)
    product = write_product(
        tmp_path / 'product.h5',
        tiny_scan,
        object_=tiny_scan.object_,
        probe=tiny_scan.probe,
        positions_px=tiny_scan.positions_px,
        losses=[],
    )
    words = ['convert', str(scan_file), '--labels', str(product), '--convention', 'amplitude']
    assert main([*words, '--output', str(tmp_path / 'set.npz')]) == 0
    with numpy.load(tmp_path / 'set.npz') as file:
        assert file['Y'].shape == tiny_scan.patterns.shape
        assert numpy.allclose(file['objectGuess'], tiny_scan.object_, atol=1e-5)
