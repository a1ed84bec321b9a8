"""The picture of an image shows where to believe it, and says whether to."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from matplotlib.figure import Figure

from ptychodus_pinn_torch.backend import Moved, Reconstruction, Trust
from ptychodus_pinn_torch.console import plain_text
from ptychodus_pinn_torch.pictures import (
    Panel,
    draw_comparison,
    draw_image,
    draw_reconstruction,
    draw_scan,
)
from ptychodus_pinn_torch.scan.io.images import Image
from ptychodus_pinn_torch.scan.scan import Scan


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Returns a list that receives every figure that is written."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, 'savefig', keep)
    return figures


def image_of(scan: Scan, trust: Trust | None) -> Reconstruction:
    coverage = numpy.zeros(scan.object_.shape, numpy.float32)
    coverage[5:-5, 7:-7] = 1.0
    return Reconstruction(
        scan.truth, scan.positions_px, scan.probe, ((1, 0.2), (2, 0.1)), coverage, trust=trust
    )


def test_the_picture_has_the_map_and_the_verdict(
    tmp_path: Path, tiny_scan: Scan, drawn: list[Figure]
) -> None:
    values = numpy.full(tiny_scan.object_.shape, 1.5, numpy.float32)
    values[:9] = numpy.nan
    frames = numpy.ones(tiny_scan.num_patterns)
    sentence = f'{tiny_scan.name}: the image is wrong, because of this: do that.'
    moved = Moved(positions_rms_px=1.25, positions_max_px=7.5)
    trust = Trust('wrong', sentence, 1.5, frames, values, moved)
    draw_reconstruction(tmp_path / 'a.png', tiny_scan, image_of(tiny_scan, trust))
    (figure,) = drawn
    panel = next(x for x in figure.axes if x.get_title() == 'misfit over photon noise')
    shown = panel.images[0].get_array()
    numpy.testing.assert_array_equal(shown.filled(numpy.nan), values[5:-5, 7:-7])
    labels = [x.get_text() for x in panel.images[0].colorbar.ax.get_yticklabels()]
    assert labels == ['1/4', '1/2', '1', '2', '4']
    caption = ' '.join(figure.get_suptitle().split())
    assert 'The image is wrong, because of this: do that. Positions were moved by 1.2' in caption
    assert figure._suptitle.get_color() == 'firebrick'  # type: ignore[attr-defined]


def test_an_image_without_a_verdict_is_drawn_too(
    tmp_path: Path, tiny_scan: Scan, drawn: list[Figure]
) -> None:
    draw_reconstruction(tmp_path / 'a.png', tiny_scan, image_of(tiny_scan, None))
    assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')
    assert 'misfit over photon noise' not in [x.get_title() for x in drawn[0].axes]


@pytest.mark.parametrize(
    'name', ['$\\alpha$.npz', 'a$b$c$.npz', 'a_$^{.npz', os.fsdecode(b'\xff.npz'), '\x1b[2J']
)
def test_any_name_is_drawn_as_it_is(
    tmp_path: Path, tiny_scan: Scan, drawn: list[Figure], name: str
) -> None:
    image = Image(Path(name), tiny_scan.object_, probe=tiny_scan.probe[0])
    draw_image(tmp_path / 'a.png', image)
    assert drawn[-1].get_suptitle().replace('\\$', '$') == plain_text(name)
    draw_scan(tmp_path / 'a.png', replace(tiny_scan, name=name))
    coverage = numpy.zeros(tiny_scan.object_.shape)
    draw_comparison(tmp_path / 'a.png', [(name, [Panel(name, tiny_scan.object_)], coverage)])
