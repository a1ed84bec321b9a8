"""Measures what docs/benchmarks.md says of live reconstructions: `python tests/benchmarks/live.py WHAT`.

`scan`: the measured scan, replayed at 50 frames/s over two sockets, shuffled; `sockets`: messages at 2000
frames/s into the joiner; `many`: 100 scans in one call.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.live.live_reconstruction import LiveReconstruction
from ptychodus_pinn_torch.live.sources import ZmqSource
from ptychodus_pinn_torch.scan.io.output import write_scan_npz

DATA = Path(
    os.environ.get('PTYCHODUS_PINN_DATA', Path(__file__).resolve().parents[3] / 'shared' / 'data')
)
ADDRESSES = ('tcp://127.0.0.1:6561', 'tcp://127.0.0.1:6562')


def replay(path: Path, *words: Any) -> subprocess.Popen[bytes]:
    """Starts a process that sends a scan."""
    sockets = [word for address in ADDRESSES for word in ('--zmq', address)]
    command = [sys.executable, '-m', 'ptychodus_pinn_torch.cli', 'replay', str(path), *sockets]
    return subprocess.Popen([*command, '--quiet', *map(str, words)])


def listen(live: Any) -> list[threading.Thread]:
    """Starts the sources of both sockets."""
    threads = []
    for address in ADDRESSES:
        source = ZmqSource(address)
        thread = threading.Thread(target=source.run, args=(live, threading.Event()))
        thread.start()
        threads.append(thread)
    return threads


def scan() -> None:
    """Lag, losses, and the distance of the last image from that of the file."""
    path = DATA / 'velociprobe_siemens_128.npz'
    known = pinn.read_scan(path)
    options = {'execution.num_threads': 1}
    lags = []
    with LiveReconstruction(known.probe, bad_pixels=~known.good_pixels, options=options) as live:
        live.prepare()
        sender, threads = replay(path, '--rate', 50, '--shuffle', 1), listen(live)
        while any(thread.is_alive() for thread in threads) or live.status().lag_s:
            lags.append(live.status().lag_s)
            time.sleep(0.05)
        sender.wait()
        status = live.status()
        image = live.finish()
        whole = pinn.reconstruct(live.scan(), options=options)
    lost = known.num_patterns - status.joined
    distance = numpy.abs(numpy.angle(image.object_ * whole.object_.conj())).max()
    print(f'{lost} lost, lag {max(lags):.2f} s at most, {numpy.mean(lags):.2f} s in the mean')
    print(f'{distance:.1e} rad at most from the image of the file')


def sockets(seconds: int = 60, rate: int = 2000) -> None:
    """Losses and memory of the joiner alone, 64 x 64 uint16."""
    number = seconds * rate
    with tempfile.TemporaryDirectory() as folder:
        small = pinn.simulate(num_positions=2000, step_px=1.0)
        ids = numpy.arange(number)
        memory = []
        live = LiveReconstruction(small.probe, folder=Path(folder) / 'journal')
        live._start = lambda: None  # type: ignore[method-assign]
        threads = listen(live)
        sender = subprocess.Popen([sys.executable, '-c', SENDER, str(number), str(rate)])
        began = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            time.sleep(5.0)
            memory.append(int(Path('/proc/self/statm').read_text().split()[1]) * 4096 / 2**20)
        sender.wait()
        joined = live.status().joined
        spent = time.monotonic() - began
        live.close()
    print(f'{len(ids) - joined} of {len(ids)} lost in {spent:.0f} s; memory in MB {memory}')


SENDER = f"""
import sys, time
import numpy, zmq
from ptychodus_pinn_torch.live.messages import END, encode_frames, encode_positions
number, rate = int(sys.argv[1]), int(sys.argv[2])
context = zmq.Context()
senders = [context.socket(zmq.PUSH) for _ in range(2)]
for sender, address in zip(senders, {ADDRESSES!r}):
    sender.bind(address)
frames = numpy.random.default_rng(0).poisson(9.0, (50, 64, 64)).astype(numpy.uint16)
began = time.monotonic()
for first in range(0, number, 50):
    time.sleep(max(0.0, began + first / rate - time.monotonic()))
    ids = numpy.arange(first, first + 50)
    senders[0].send(encode_frames(ids, frames))
    senders[1].send(encode_positions(ids, numpy.zeros((50, 2))))
for sender in senders:
    sender.send(END)
    sender.close()
context.term()
"""


def many(number: int = 100) -> None:
    """What a call with many scans takes beyond their own seconds; three of them are spoilt."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / 'scans'
        folder.mkdir()
        for seed in range(number):
            simulated = pinn.simulate(num_positions=256, seed=1, object_seed=seed)
            path = write_scan_npz(folder / f'{seed:03d}.npz', simulated)
            if seed in (20, 40, 60):
                path.write_bytes(path.read_bytes()[:5000])
        out = Path(name) / 'out'
        began = time.monotonic()
        status = main(
            ['reconstruct', str(folder), '--output', str(out), '--no-picture', '--quiet',
             '--threads', '1']
        )  # fmt: skip
        spent = time.monotonic() - began
        with (out / 'results.csv').open() as file:
            rows = list(csv.DictReader(file))
    own = sum(float(row['seconds']) for row in rows if row['seconds'])
    failed = sum(bool(row['failure']) for row in rows)
    print(f'status {status}, {len(rows) - failed} done, {failed} failed')
    print(f'{spent:.1f} s, the images alone {own:.1f} s: {spent / own:.3f}')
    print(f'{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB at the peak')


WHAT = {'scan': scan, 'sockets': sockets, 'many': many}

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('what', choices=WHAT)
    WHAT[parser.parse_args().what]()
