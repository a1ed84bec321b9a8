"""`ptychodus-pinn live`: an image that grows while the scan is measured."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from ..backend import EpochReport, Reconstruction
from ..progress import ProgressLine, describe_report
from ..scan.scan import Scan
from . import UsageError
from ._config_options import backend_from, config_from
from ._images import MadeImage, figures_of, summarise
from ._outputs import add_overwrite_option, check_output

if TYPE_CHECKING:
    from ..live.live_reconstruction import LiveReconstruction
    from ..live.page import LivePage
    from ..live.sources import Source

__all__ = ['configure', 'run']

logger = logging.getLogger(__name__)

JOURNAL = 'journal'
TERMINAL_S, LOG_S = 0.5, 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.usage = 'ptychodus-pinn live --probe FILE --output FOLDER SOURCE [option ...]'
    parser.add_argument(
        '--probe', type=Path, required=True, metavar='FILE',
        help='scan, product or image with the probe; mask and pixel size of a scan count as well',
    )  # fmt: skip
    parser.add_argument(
        '--output', type=Path, required=True, metavar='FOLDER',
        help='for journal, live image, product and final image',
    )  # fmt: skip
    group = parser.add_argument_group('sources, any number of them')
    group.add_argument(
        '--hdf5', action='append', default=[], metavar='FILE[:FRAMES[:POSITIONS]]',
        help='a growing HDF5 file (SWMR), with the names of its datasets',
    )  # fmt: skip
    group.add_argument(
        '--folder', action='append', default=[], type=Path, metavar='DIR',
        help='a folder into which *.npy and *.npz are written',
    )  # fmt: skip
    group.add_argument(
        '--zmq', action='append', default=[], metavar='ADDRESS',
        help='a PUSH socket of messages in CBOR or JSON, such as tcp://127.0.0.1:5555',
    )  # fmt: skip
    group.add_argument(
        '--pva', action='append', default=[], metavar='PV[,POSITIONS]',
        help='an EPICS pvAccess NTNDArray, and the PV of its positions',
    )  # fmt: skip
    parser.add_argument(
        '--frames', type=int, metavar='N', help='end when so many frames are joined'
    )
    parser.add_argument(
        '--idle', type=float, default=0.0, metavar='S',
        help='end when nothing has come for so long; 0 waits for ever (default: 0)',
    )  # fmt: skip
    parser.add_argument(
        '--every', type=float, default=2.0, metavar='S',
        help='seconds between two writings of image and product (default: 2)',
    )  # fmt: skip
    parser.add_argument(
        '--serve',
        type=int,
        metavar='PORT',
        help='show a page at 127.0.0.1:PORT; 0 takes a free one',
    )
    parser.add_argument('--model', type=Path, metavar='FILE', help='model archive')
    parser.add_argument('--backend', help='pytorch or tensorflow')
    parser.add_argument(
        '--resume', action='store_true', help='go on with the journal in the folder'
    )
    parser.add_argument('--json', action='store_true', help='print the figures of the end as JSON')
    add_overwrite_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Takes in, shows, and makes the image of the whole at the end."""
    backend = backend_from(arguments)
    config = config_from(arguments, backend=backend)
    sources = _sources(arguments)
    folder: Path = arguments.output
    files = {name: folder / name for name in ('live.png', 'product.h5', 'image.npz', 'image.png')}
    inputs = [arguments.probe, arguments.model, *(text.split(':')[0] for text in arguments.hdf5)]
    for path in files.values():
        check_output(
            path, arguments, suffixes=(path.suffix,), inputs=inputs, is_ours=arguments.resume
        )
    from ..live.live_reconstruction import LiveReconstruction

    known = _known(arguments.probe)
    journal = folder / JOURNAL
    options: dict[str, Any] = {'model': arguments.model, 'backend': backend, 'config': config}
    if arguments.resume:
        live = LiveReconstruction.resume(journal, **options)
        if not numpy.array_equal(live.probe, known.probe):
            live.close()
            raise UsageError(
                f'{arguments.probe}: has another probe than the journal: name that one.'
            )
    else:
        live = LiveReconstruction(
            known.probe, bad_pixels=~known.good_pixels, pixel_size_m=known.pixel_size_m,
            folder=journal, **options,
        )  # fmt: skip
    with live:
        live.prepare()
        page = _open_page(arguments, live)
        try:
            is_whole = _receive(arguments, live, sources, _Output(live, known, files, page))
            result = _finish(arguments, live, page)
            made = MadeImage(live.scan(), result, dict(result.seconds))
            made.write(files['image.npz'])
            made.write(files['product.h5'])
            made.draw(files['image.png'])
            if page is not None:
                page.end(
                    result.trust.sentence if result.trust else 'the end',
                    files['image.png'].read_bytes(),
                )
        finally:
            if page is not None:
                page.close()
        if arguments.json:
            status = vars(live.status())
            sys.stdout.write(json.dumps({'status': status, **figures_of(made)}) + '\n')
        elif not arguments.quiet:
            sys.stdout.write(f'{live.status().sentence()}\n{summarise(made, files["image.npz"])}')
    return int(not is_whole)


def _sources(arguments: argparse.Namespace) -> list[Source]:
    """Returns the sources that were named.

    Raises:
        UsageError: none, or what a source needs is not installed.
    """
    from ..live.epics_source import PvaSource
    from ..live.sources import FolderSource, Hdf5Source, SourceError, ZmqSource

    found: list[Source] = []
    try:
        for text in arguments.hdf5:
            path, *names = text.split(':')
            found.append(Hdf5Source(Path(path), *names[:2]))
        found += [FolderSource(path) for path in arguments.folder]
        found += [ZmqSource(address) for address in arguments.zmq]
        for text in arguments.pva:
            frames, _, positions = text.partition(',')
            found.append(PvaSource(frames, positions))
    except SourceError as error:
        raise UsageError(str(error)) from error
    if not found:
        raise UsageError('nothing to take frames from: name --hdf5, --folder, --zmq or --pva.')
    return found


def _known(path: Path) -> Scan:
    """Returns a scan without patterns that has the probe, mask, pixel size and metadata of a file."""
    from ..scan.io.images import read_image
    from ..scan.io.reading import read_scan

    try:
        return read_scan(path)
    except ValueError:
        image = read_image(path)
    if image.probe is None:
        raise ValueError(
            f'{path}: holds no probe: name a scan, a product or an image that has one.'
        )
    probe = image.probe if image.probe.ndim == 3 else image.probe[None]
    return Scan(
        name=path.name,
        patterns=numpy.zeros((1, *probe.shape[1:]), numpy.uint8),
        positions_px=numpy.zeros((1, 2)),
        probe=probe.astype(numpy.complex64),
        object_=image.object_,
        good_pixels=numpy.ones(probe.shape[1:], bool),
        pixel_size_m=image.pixel_size_m,
    )


def _receive(
    arguments: argparse.Namespace,
    live: LiveReconstruction,
    sources: list[Source],
    output: _Output,
) -> bool:
    """Runs the sources until they end, enough has come, or Ctrl-C; shows how it goes.

    Returns whether none of them failed.
    """
    stopping, troubles = threading.Event(), []

    def feed(source: Source) -> None:
        try:
            source.run(live, stopping)
        except Exception as error:  # noqa: BLE001 - whatever ends a source, it is said
            troubles.append(' '.join(str(error).split()) or type(error).__name__)

    threads = [threading.Thread(target=feed, args=(source,), daemon=True) for source in sources]
    for thread in threads:
        thread.start()
    last, since = 0, time.monotonic()
    try:
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.05)
            status = live.status()
            come = status.frames + status.positions
            if come != last:
                last, since = come, time.monotonic()
            is_idle = 0.0 < arguments.idle < time.monotonic() - since
            if is_idle or (arguments.frames is not None and status.joined >= arguments.frames):
                break
            output.update(arguments)
    except KeyboardInterrupt:
        if not live.status().joined:
            raise
        logger.warning('interrupted: the image of what has come is made; again to stop at once.')
    stopping.set()
    for thread in threads:
        thread.join()
    output.update(arguments, is_last=True)
    for trouble in troubles:
        logger.error('%s', trouble)
    if troubles and not live.status().joined:
        raise ValueError(troubles[0])
    return not troubles


def _finish(
    arguments: argparse.Namespace, live: LiveReconstruction, page: LivePage | None
) -> Reconstruction:
    with ProgressLine(is_quiet=arguments.quiet) as progress:

        def report(item: EpochReport) -> None:
            progress(item)
            if page is not None and item.total:
                page.sentence = f'all frames are in; the final image: {describe_report(item)}'

        return live.finish(report)


def _open_page(arguments: argparse.Namespace, live: LiveReconstruction) -> LivePage | None:
    if arguments.serve is None:
        return None
    from ..live.page import LivePage

    def status() -> dict[str, Any]:
        found = live.status()
        sentence = page.sentence or found.sentence()
        return {**vars(found), 'sentence': sentence, 'picture': page.number}

    page = LivePage(arguments.serve, status)
    logger.warning('the image is shown at %s', page.address)
    return page


class _Output:
    """Writes the status line, the picture, the product and the page now and then."""

    def __init__(
        self, live: LiveReconstruction, known: Scan, files: dict[str, Path], page: LivePage | None
    ) -> None:
        self._live, self._known, self._files, self._page = live, known, files, page
        self._told_s = self._written_s = -1e9
        self._num_written = 0
        self._is_terminal = sys.stderr.isatty()

    def update(self, arguments: argparse.Namespace, *, is_last: bool = False) -> None:
        """Does what it is time for."""
        now = time.monotonic()
        if not arguments.quiet and now - self._told_s > (
            TERMINAL_S if self._is_terminal else LOG_S
        ):
            self._told_s = now
            text = self._live.status().sentence()
            sys.stderr.write(f'\r\033[K{text}' if self._is_terminal else f'{text}\n')
            sys.stderr.flush()
        if now - self._written_s > arguments.every or is_last:
            self._written_s = now
            self._write()
        if is_last and self._is_terminal and not arguments.quiet:
            sys.stderr.write('\n')

    def _write(self) -> None:
        image = self._live.image()
        if image is None or image.num_frames == self._num_written:
            return
        from ..pictures import draw_live
        from ..scan.io.output import write_product

        self._num_written = image.num_frames
        title = self._live.status().sentence()
        draw_live(self._files['live.png'], title, image.object_, image.coverage, image.misfit_map)
        if self._page is not None:
            self._page.show(self._files['live.png'].read_bytes())
        joined = self._live.joined()
        positions = joined.positions[: image.num_frames] - numpy.asarray(image.origin_px)
        scan = Scan(
            name='live',
            patterns=numpy.broadcast_to(
                numpy.uint8(0), (len(positions), *self._known.pattern_shape)
            ),
            positions_px=positions,
            probe=self._known.probe,
            object_=image.object_,
            good_pixels=self._known.good_pixels,
            pixel_size_m=self._known.pixel_size_m,
            metadata={**self._known.metadata, 'name': 'live'},
        )
        write_product(
            self._files['product.h5'], scan, image.object_, positions, self._known.probe, []
        )
