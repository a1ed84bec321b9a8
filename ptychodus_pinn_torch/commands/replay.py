"""`ptychodus-pinn replay`: sends a scan at a given rate, as a detector would."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from ..scan.scan import Scan
from . import UsageError
from ._scan_options import add_scan_options, read_scan_from

__all__ = ['configure', 'run']

Send = Callable[[str, NDArray[Any], NDArray[Any]], None]


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.usage = 'ptychodus-pinn replay SCAN (--zmq ADDRESS | --folder DIR | --hdf5 FILE) [...]'
    parser.add_argument('scan', type=Path, metavar='SCAN', help='file or folder of the scan')
    parser.add_argument(
        '--zmq', action='append', default=[], metavar='ADDRESS',
        help='bind a PUSH socket here; a second one is for the positions',
    )  # fmt: skip
    parser.add_argument('--folder', type=Path, metavar='DIR', help='write files into this folder')
    parser.add_argument('--hdf5', type=Path, metavar='FILE', help='write this file (SWMR)')
    parser.add_argument(
        '--rate', type=float, default=50.0, metavar='HZ', help='frames per second (default: 50)'
    )
    parser.add_argument(
        '--batch', type=int, default=10, metavar='N', help='frames sent at a time (default: 10)'
    )
    parser.add_argument(
        '--shuffle', type=int, metavar='SEED', help='send frames and positions in random orders'
    )
    parser.add_argument('--as-json', action='store_true', help='messages in JSON instead of CBOR')
    add_scan_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Sends everything; returns 0 when all was handed over."""
    ways = [bool(arguments.zmq), arguments.folder is not None, arguments.hdf5 is not None]
    if sum(ways) != 1:
        raise UsageError('say where to: --zmq, --folder or --hdf5, one of them.')
    if not arguments.rate > 0.0 or arguments.batch < 1:
        raise UsageError('--rate and --batch must be positive.')
    if arguments.as_json and not arguments.zmq:
        raise UsageError('--as-json has no effect without --zmq: leave it out.')
    scan = read_scan_from(arguments, arguments.scan)
    if arguments.zmq:
        _over_sockets(arguments, scan)
    elif arguments.folder is not None:
        _into_folder(arguments, scan)
    else:
        _into_hdf5(arguments, scan)
    if not arguments.quiet:
        sys.stdout.write(f'{scan.num_patterns} frames were sent.\n')
    return 0


def _send_all(arguments: argparse.Namespace, scan: Scan, send: Send) -> None:
    """Sends batches at the rate that was asked for, frames and positions in their own orders."""
    frames = positions = numpy.arange(scan.num_patterns)
    if arguments.shuffle is not None:
        rng = numpy.random.default_rng(arguments.shuffle)
        frames, positions = rng.permutation(frames), rng.permutation(positions)
    began = time.monotonic()
    for first in range(0, scan.num_patterns, arguments.batch):
        part = slice(first, first + arguments.batch)
        time.sleep(max(0.0, began + first / arguments.rate - time.monotonic()))
        send('positions', positions[part], scan.positions_px[positions[part]])
        send('frames', frames[part], numpy.asarray(scan.patterns[frames[part]]))


def _over_sockets(arguments: argparse.Namespace, scan: Scan) -> None:
    try:
        import zmq

        from ..live.messages import END, encode_frames, encode_positions
    except ImportError as error:
        raise UsageError(
            "--zmq needs pyzmq and cbor2: pip install 'ptychodus-pinn-torch[live]'"
        ) from error
    if len(arguments.zmq) > 2:
        raise UsageError('--zmq: one address, or two: for frames and for positions.')
    with zmq.Context() as context:
        sockets = []
        for address in arguments.zmq:
            socket = context.socket(zmq.PUSH)
            try:
                socket.bind(address)
            except zmq.ZMQError as error:
                raise UsageError(f'{address}: cannot be bound: {error}.') from error
            sockets.append(socket)
        encoders = {'frames': encode_frames, 'positions': encode_positions}
        of_kind = {'frames': sockets[0], 'positions': sockets[-1]}

        def send(kind: str, ids: NDArray[Any], values: NDArray[Any]) -> None:
            of_kind[kind].send(encoders[kind](ids, values, as_json=arguments.as_json))

        _send_all(arguments, scan, send)
        for socket in sockets:
            socket.send(END)
            socket.close()


def _into_folder(arguments: argparse.Namespace, scan: Scan) -> None:
    from ..scan.io.output import write_npz

    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f'{folder}: is not empty: name another folder.')
    number = 0

    def send(kind: str, ids: NDArray[Any], values: NDArray[Any]) -> None:
        nonlocal number
        number += 1
        name = 'frames' if kind == 'frames' else 'positions_px'
        write_npz(folder / f'{number:06d}_{kind}.npz', {'ids': ids, name: values})

    _send_all(arguments, scan, send)
    (folder / 'finished').touch()


def _into_hdf5(arguments: argparse.Namespace, scan: Scan) -> None:
    import h5py

    if arguments.hdf5.exists():
        raise FileExistsError(f'{arguments.hdf5}: exists already: give another name.')
    if arguments.shuffle is not None:
        raise UsageError('--shuffle: the rows of a file tie frames and positions: leave it out.')
    height, width = scan.pattern_shape
    with h5py.File(arguments.hdf5, 'w', libver='latest') as file:
        frames = file.create_dataset(
            'entry/data/data', (0, height, width), scan.patterns.dtype,
            maxshape=(None, height, width), chunks=(1, height, width),
        )  # fmt: skip
        places = file.create_dataset('entry/positions_px', (0, 2), float, maxshape=(None, 2))
        file.attrs['finished'] = False
        file.swmr_mode = True

        def send(kind: str, ids: NDArray[Any], values: NDArray[Any]) -> None:
            dataset = frames if kind == 'frames' else places
            dataset.resize(len(dataset) + len(ids), axis=0)
            dataset[-len(ids) :] = values
            dataset.flush()

        _send_all(arguments, scan, send)
        file.attrs['finished'] = True
        file.flush()
