"""The commands simulate, check, inspect and evaluate, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest

from ptychodus_pinn_torch import PositionTransform
from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.models.archive import shipped_model
from ptychodus_pinn_torch.scan.io.output import write_product, write_reconstruction_npz
from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.scan import Scan


def _run(capsys, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def _is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b'\x89PNG') and path.stat().st_size > 10_000


def test_simulated_scan_holds_what_was_asked_for(tmp_path: Path, capsys):
    path = tmp_path / 'scan.npz'
    options = '--pattern-size 48 --num-positions 30 --step 3 --object leaves --probe kb'
    more = '--num-modes 2 --photons 1e5 --beamstop 2 --path spiral --seed 7'
    out = _run(capsys, 'simulate', path, *options.split(), *more.split())
    assert '30 patterns of 48 x 48' in out
    scan = read_scan(path)
    assert scan.patterns.shape == (30, 48, 48) and scan.num_modes == 2
    assert numpy.sum(numpy.abs(scan.probe) ** 2) == pytest.approx(1e5, rel=1e-4)
    assert scan.truth is not None and not scan.good_pixels[24, 24]


def test_same_seed_writes_the_same_file(tmp_path: Path, capsys):
    for name in ('a', 'b'):
        _run(capsys, 'simulate', tmp_path / f'{name}.npz', '--num-positions', 9)
    first, second = (read_scan(tmp_path / f'{name}.npz') for name in ('a', 'b'))
    numpy.testing.assert_array_equal(first.patterns, second.patterns)


def test_check_prints_findings(tiny_scan_path: Path, capsys):
    out = _run(capsys, 'check', tiny_scan_path)
    assert 'calibration' in out and 'orientation' in out
    findings = json.loads(_run(capsys, 'check', tiny_scan_path, '--json'))
    assert {item['level'] for item in findings} <= {'ok', 'warning'}
    assert all(set(item) == {'level', 'topic', 'message'} for item in findings)


def test_inspect_says_what_a_scan_holds(tmp_path: Path, tiny_scan_path: Path, capsys):
    out = _run(capsys, 'inspect', tiny_scan_path, '--draw', tmp_path / 'scan.png')
    assert '35 of 32 x 32 pixels, uint16' in out and '2 modes' in out
    assert '57 x 69 pixels' in out and 'known: the scan is simulated' in out
    assert _is_png(tmp_path / 'scan.png')


def test_inspect_reads_as_the_flags_say(tmp_path: Path, capsys):
    path = tmp_path / 'scan.npz'
    _run(capsys, 'simulate', path, '--num-positions', 16)
    assert '16 of 48 x 48 pixels' in _run(capsys, 'inspect', path, '--crop', 48)
    assert '16 of 32 x 32 pixels' in _run(capsys, 'inspect', path, '--bin', 2)


@pytest.fixture
def image_path(tmp_path: Path, tiny_scan: Scan) -> Path:
    """An image with 3 % noise, and a factor."""
    noise = numpy.random.default_rng(0).normal(size=tiny_scan.truth.shape) * 0.03
    return write_reconstruction_npz(
        tmp_path / 'image.npz',
        object_=2j * (tiny_scan.truth + noise),
        positions_px=tiny_scan.positions_px,
        probe=tiny_scan.probe / 2,
        losses=[(1, 0.1)],
    )


def test_inspect_says_what_an_image_holds(tmp_path: Path, image_path: Path, capsys):
    out = _run(capsys, 'inspect', image_path, '--draw', tmp_path / 'image.png')
    assert '57 x 69 pixels' in out and 'positions    35' in out
    assert _is_png(tmp_path / 'image.png')


def test_inspect_says_what_the_model_in_a_folder_is(data_folder: Path, capsys):
    out = _run(capsys, 'inspect', data_folder / 'tf_archive' / 'gs1')
    assert 'ptychopinn' in out and 'pattern_size' in out


def test_inspect_says_what_a_lone_product_holds(tmp_path: Path, tiny_scan: Scan, capsys):
    scan = tiny_scan
    path = write_product(
        tmp_path / 'product.h5', scan, scan.truth, scan.positions_px, scan.probe, []
    )
    assert '57 x 69 pixels of 10 nm' in _run(capsys, 'inspect', path)


def test_evaluate_measures_an_image(tiny_scan_path: Path, image_path: Path, capsys):
    arguments = ('evaluate', image_path, '--reference', tiny_scan_path, '--scan', tiny_scan_path)
    figures = json.loads(_run(capsys, *arguments, '--json'))
    assert 0.03 < figures['nrmse'] < 0.045
    assert figures['num_pixels'] < 57 * 69, 'only where the probe was'
    assert figures['num_patterns'] == 35 and figures['data_error'] > 0
    table = _run(capsys, *arguments)
    assert 'NRMSE' in table and 'dB for a range of' in table and 'Nyquist' in table


def test_compare_puts_images_of_anyone_into_one_table_and_picture(
    tmp_path: Path, tiny_scan_path: Path, tiny_scan: Scan, image_path: Path, capsys
):
    product = write_product(
        tmp_path / 'product.h5',
        tiny_scan,
        tiny_scan.truth,
        tiny_scan.positions_px,
        tiny_scan.probe,
        [],
    )
    words = ('compare', f'noisy={image_path}', product, '--scan', tiny_scan_path)
    found = json.loads(_run(capsys, *words, '--json'))
    noisy, exact = found['images']['noisy'], found['images']['product.h5']
    assert found['reference'] == 'the truth' and 0.03 < noisy['nrmse'] < 0.045
    assert exact['nrmse'] < 1e-6 and exact['ms_ssim_phase'] > 0.999
    assert exact['data_error'] < noisy['data_error'] and exact['probe_overlap'] > 0.9999
    assert noisy['probe_power_ratio'] == pytest.approx(0.25, rel=1e-4)
    assert exact['single_image_frc'] >= noisy['single_image_frc']
    table = _run(capsys, *words, '--picture', tmp_path / 'both.png')
    assert _is_png(tmp_path / 'both.png')
    title, first, second, note = table.splitlines()
    assert 'MS-SSIM' in title and first.startswith('noisy') and second.startswith('product.h5')
    assert 'compared with the truth' in note
    by_first = json.loads(_run(capsys, *words, '--reference', product, '--json'))
    assert by_first['reference'] == 'product.h5'


@pytest.mark.parametrize(
    ('words', 'status', 'reason'),
    [
        (('IMAGE', 'IMAGE'), 2, 'is the name of two images: say NAME=FILE'),
        (('IMAGE', '--picture', 'IMAGE'), 2, 'must end in .png'),
        (('missing.npz',), 1, 'missing.npz'),
        (('IMAGE', '--threshold', '2'), 1, 'only 0 pixels have a weight'),
    ],
)
def test_compare_refuses_in_one_sentence(
    tiny_scan_path: Path, image_path: Path, capsys, words: tuple[str, ...], status: int, reason: str
):
    words = tuple(str(image_path) if word == 'IMAGE' else word for word in words)
    assert main(['compare', *words, '--scan', str(tiny_scan_path)]) == status
    assert reason in capsys.readouterr().err


def test_images_of_another_grid_are_not_compared(
    tmp_path: Path, tiny_scan_path: Path, tiny_scan: Scan, image_path: Path, capsys
):
    other = write_reconstruction_npz(
        tmp_path / 'other.npz',
        object_=tiny_scan.truth[:-4],
        positions_px=tiny_scan.positions_px,
        probe=tiny_scan.probe,
        losses=[],
    )
    assert main(['compare', str(image_path), str(other), '--scan', str(tiny_scan_path)]) == 1
    assert 'other.npz holds an image of 53 x 69 pixels' in capsys.readouterr().err


def test_evaluate_takes_products_on_either_side(tmp_path: Path, tiny_scan: Scan, capsys):
    scan = tiny_scan
    path = write_product(
        tmp_path / 'product.h5', scan, scan.truth, scan.positions_px, scan.probe, []
    )
    figures = json.loads(_run(capsys, 'evaluate', path, '--reference', path, '--json'))
    assert figures['nrmse'] < 1e-9 and figures['frc_half_per_nyquist'] == 1.0


def test_evaluate_judges_by_held_out_patterns(
    tmp_path: Path, tiny_scan_path: Path, image_path: Path, capsys
):
    (tmp_path / 'held.txt').write_text('3\n7\n')
    figures = json.loads(
        _run(capsys, 'evaluate', image_path, '--scan', tiny_scan_path,
             '--held-out', tmp_path / 'held.txt', '--json')
    )  # fmt: skip
    assert figures['num_patterns'] == 2


def test_measured_reference_brings_its_own_area(real_scan_path: Path, capsys):
    figures = json.loads(
        _run(capsys, 'evaluate', real_scan_path, '--reference', real_scan_path, '--json')
    )
    assert figures['num_pixels'] == 123504 and figures['nrmse'] < 1e-9


def test_quiet_prints_nothing(tmp_path: Path, capsys):
    out = _run(capsys, 'simulate', tmp_path / 'a.npz', '--num-positions', 4, '--quiet')
    assert out == '' and (tmp_path / 'a.npz').exists()


def test_reconstruct_tells_scripts_and_people_whether_to_believe_it(tmp_path: Path, capsys):
    scan, image = tmp_path / 'scan.npz', tmp_path / 'image.npz'
    _run(capsys, 'simulate', scan, '--num-positions', 100)
    figures = json.loads(_run(capsys, 'reconstruct', scan, '--output', image, '--json'))
    assert figures['verdict'] == 'right' and figures['freed'] == [] and figures['messages'] == []
    assert len(figures['frames']) == 100 and 0.5 < figures['to_noise'] < 1.5
    assert figures['moved'] == {} and 0.5 < figures['map']['median'] < 1.5
    with numpy.load(image) as file:
        assert set(file) >= {'coverage', 'misfit_map', 'misfit_frames'}
        assert file['misfit_map'].shape == file['coverage'].shape == file['object'].shape
        assert file['misfit_frames'].shape == (100,) and file['misfit_map'].dtype == 'f4'
        highest = file['misfit_map'][tuple(figures['map']['highest_at_px'])]
        assert highest == numpy.nanmax(file['misfit_map'])
        assert figures['map']['highest'] == pytest.approx(float(highest))
    assert set(figures['seconds']) >= {'read', 'network', 'refine', 'judge', 'write'}
    assert _is_png(image.with_suffix('.png'))
    out = _run(capsys, 'reconstruct', scan, '--output', image, '--overwrite', '--no-picture')
    assert figures['sentence'] in out
    wrong = ['--num-positions', 100, '--position-error', 2]
    _run(capsys, 'simulate', tmp_path / 'wrong.npz', *wrong)
    fixed = [f'--no-update-{name}' for name in ('probe', 'positions', 'factors', 'background')]
    out = _run(
        capsys, 'reconstruct', tmp_path / 'wrong.npz', '--output', image, '--overwrite', *fixed
    )
    assert 'the image is wrong' in out and 'ptychodus-pinn check' in out


GROUPS = ('--grouping.group-size', 9)
TURNED = ('--exchange-axes', '--flip-y', '--scale-positions', '0.98')


def test_every_command_that_reads_scans_changes_their_positions(
    tmp_path: Path, tiny_scan_path: Path, capsys
):
    turned = tmp_path / 'turned.npz'
    said = 'Positions: axes exchanged, y flipped, scaled by 0.98.'
    for words in (
        ('check', tiny_scan_path),
        ('inspect', tiny_scan_path),
        ('convert', tiny_scan_path, '--output', turned),
        ('reconstruct', tiny_scan_path, '--output', tmp_path / 'i.npz', '--refine', 1),
        ('train', tiny_scan_path, '--output', tmp_path / 'm.h5.zip', '--steps', 1, *GROUPS),
        ('evaluate', tmp_path / 'i.npz', '--scan', tiny_scan_path),
    ):
        assert main([str(word) for word in (*words, *TURNED)]) == 0
        assert said in capsys.readouterr().err, words
    change = PositionTransform(exchange_axes=True, flip_y=True, scale=0.98)
    expected = read_scan(tiny_scan_path, positions=change)
    numpy.testing.assert_allclose(read_scan(turned).positions_px, expected.positions_px, atol=1e-6)
    with numpy.load(tmp_path / 'i.npz') as image:
        assert image['object'].shape == expected.object_.shape
        numpy.testing.assert_allclose(image['positions_px'], expected.positions_px, atol=2.0)


def test_flags_of_scans_are_refused_where_none_is_read(
    tmp_path: Path, image_path: Path, tiny_scan_path: Path, capsys
):
    for words in (
        ('inspect', image_path, '--flip-x', '--crop', 32),
        ('inspect', shipped_model(), '--flip-x', '--crop', 32),
        ('evaluate', image_path, '--reference', image_path, '--flip-x', '--crop', 32),
        ('convert', shipped_model(), '--output', tmp_path / 'a.h5.zip', '--flip-x', '--crop', 32),
    ):
        assert main([str(word) for word in words]) == 2
        assert '--crop and --flip-x have no effect' in capsys.readouterr().err
    assert main(['check', str(tiny_scan_path), '--scale-positions', '-1']) == 2
    assert '--scale-positions is -1: give a positive factor' in capsys.readouterr().err


def test_the_flags_that_check_names_mend_the_orientation(tmp_path: Path, capsys):
    right, wrong = tmp_path / 'right.npz', tmp_path / 'wrong.npz'
    _run(capsys, 'simulate', right, '--num-positions', 100, '--quiet')
    _run(capsys, 'convert', right, '--output', wrong, '--exchange-axes', '--flip-x', '--quiet')

    def check(*flags: str) -> dict[str, str]:
        findings = json.loads(_run(capsys, 'check', wrong, '--json', *flags))
        return next(item for item in findings if item['topic'] == 'orientation')

    found = check()
    assert found['level'] == 'warning'
    flags = found['message'].partition('pass ')[2].partition(',')[0].split()
    assert flags == ['--exchange-axes', '--flip-y']
    found = check(*flags)
    assert found['level'] == 'ok' and 'best with --exchange-axes --flip-y' in found['message']


def test_training_names_the_flags_too(tmp_path: Path, capsys):
    scan = tmp_path / 'scan.npz'
    _run(capsys, 'simulate', scan, '--num-positions', 64, '--quiet')
    words = ['train', scan, '--output', tmp_path / 'm.h5.zip', '--steps', 1, '--flip-x', *GROUPS]
    assert main([str(word) for word in words]) == 0
    assert 'leave out --flip-x' in capsys.readouterr().err


def test_reconstruct_tells_how_far_positions_were_moved(tmp_path: Path, capsys):
    scan, image = tmp_path / 'scan.npz', tmp_path / 'image.npz'
    _run(capsys, 'simulate', scan, '--num-positions', 100, '--position-error', 1)
    words = ['reconstruct', scan, '--output', image, '--no-picture', '--update-positions']
    moved = json.loads(_run(capsys, *words, '--json'))['moved']
    assert 0.7 < moved['positions_rms_px'] < 2.0 < moved['positions_max_px']
    out = _run(capsys, *words, '--overwrite')
    assert f'Positions were moved by {moved["positions_rms_px"]:.2g} px rms' in out
