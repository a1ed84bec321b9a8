"""Images as commands make them: read, reconstructed, written, described."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from numpy.typing import NDArray

from ..backend import Reconstruction, ReconstructRequest
from ..config import Config
from ..progress import ProgressLine
from ..scan.scan import Scan
from ._scan_options import read_scan_from

if TYPE_CHECKING:
    from ..physics.team import Team
    from ..reconstruction.procedure import LoadedModel

__all__ = ['IMAGE_SUFFIXES', 'MadeImage', 'figures_of', 'make_image', 'summarise', 'write_image']

IMAGE_SUFFIXES = ('.npz', '.h5', '.hdf5')


@dataclass
class MadeImage:
    """An image with its scan, and the seconds that each phase took."""

    scan: Scan
    result: Reconstruction
    seconds: dict[str, float]

    def write(self, output: Path) -> None:
        """Writes it as NPZ or product; what that took counts as a phase."""
        started = time.monotonic()
        write_image(output, self.scan, self.result)
        self.seconds['write'] = time.monotonic() - started

    def draw(self, picture: Path) -> None:
        """Writes its picture."""
        from ..pictures import draw_reconstruction

        draw_reconstruction(picture, self.scan, self.result)


def make_image(
    arguments: argparse.Namespace,
    path: Path,
    config: Config,
    backend: str,
    *,
    model: LoadedModel | None = None,
    team: Team | None = None,
) -> MadeImage:
    """Returns the image of the scan at a path, read as the flags say, with progress on the console.

    Raises:
        ValueError: no scan that can be used.
    """
    started = time.monotonic()
    scan = read_scan_from(arguments, path)
    read_s = time.monotonic() - started
    request = ReconstructRequest(scan, config, arguments.model, backend)
    from ..physics.team import ALONE
    from ..reconstruction.procedure import reconstruct

    with ProgressLine(is_quiet=arguments.quiet) as progress:
        result = reconstruct(request, progress, model, team or ALONE)
    return MadeImage(scan, result, {'read': read_s, **result.seconds})


def write_image(output: Path, scan: Scan, result: Reconstruction) -> None:
    """Writes an image as NPZ or as a product of Ptychodus, by its ending."""
    from ..scan.io.output import write_product, write_reconstruction_npz

    contents = {
        'object_': result.object_,
        'positions_px': result.positions_px,
        'probe': result.probe,
        'losses': result.losses,
    }
    if output.suffix == '.npz':
        variation = result.probe_variation
        write_reconstruction_npz(
            output,
            **contents,
            judged=_judged(result),
            variation=variation,
            messages=result.messages,
        )
    else:
        comment = '' if result.trust is None else result.trust.summary(without=scan.name)
        scan = replace(scan, probe_variation=result.probe_variation)
        write_product(output, scan, **contents, comment=comment)


def _judged(result: Reconstruction) -> dict[str, Any]:
    """Returns what is known of an image's quality, by the keys of an NPZ."""
    judged = {'coverage': result.coverage}
    if result.trust is not None:
        judged |= {'misfit_map': result.trust.map, 'misfit_frames': result.trust.frames}
    return judged


def figures_of(image: MadeImage) -> dict[str, Any]:
    """Returns what a script wants to know of an image."""
    result = image.result
    figures: dict[str, Any] = {
        'start': result.start,
        'epochs': len(result.losses),
        'error': result.losses[-1][1] if result.losses else None,
        'held_out': result.held_out,
        'freed': result.freed,
        'messages': result.messages,
        'seconds': image.seconds,
    }
    if result.trust is not None:
        frames = result.trust.frames
        figures['verdict'] = result.trust.verdict
        figures['sentence'] = result.trust.sentence
        figures['to_noise'] = result.trust.to_noise
        figures['frames'] = [round(float(x), 3) if x == x else None for x in frames]
        figures['map'] = _describe_map(result.trust.map)
        figures['moved'] = result.trust.moved.figures()
    return figures


def _describe_map(values: NDArray[Any]) -> dict[str, Any] | None:
    """Returns the median of a map (Y, X), its highest value and where that one is, (y, x)."""
    known = numpy.isfinite(values)
    if not known.any():
        return None
    place = numpy.unravel_index(numpy.argmax(numpy.where(known, values, -1.0)), values.shape)
    return {
        'median': float(numpy.median(values[known])),
        'highest': float(values[place]),
        'highest_at_px': [int(index) for index in place],
    }


def summarise(image: MadeImage, output: Path) -> str:
    """Returns what a user wants to know of an image, in lines."""
    scan, result = image.scan, image.result
    times = ', '.join(f'{name} {seconds:.2f} s' for name, seconds in image.seconds.items())
    lines = [
        f'{output}: {scan.num_patterns} patterns, started from the {result.start}, '
        f'{len(result.losses)} epochs of refinement'
    ]
    if result.losses:
        lines.append(f'relative amplitude error {result.losses[-1][1]:.5f}')
    if result.held_out is not None:
        lines.append(f'on held-out patterns {result.held_out:.5f}')
    if result.trust is not None:
        lines.append(result.trust.summary())
    rate = scan.num_patterns / sum(image.seconds.values())
    lines.append(f'{times}; {rate:.0f} patterns/s')
    return '\n'.join(lines) + '\n'
