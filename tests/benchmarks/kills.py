"""Kills commands at random moments and counts what is lost: `python tests/benchmarks/kills.py 30`.

Each command runs in a folder that also holds files of a user. It is ended by SIGKILL, by SIGTERM,
or by a disk that is full (RLIMIT_FSIZE), and then started again. Counted are files of the user
that have changed, files under a final name that cannot be read, temporary files that SIGTERM or a
full disk has left, and runs that do not come to an end when they are started again.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.models.archive import read_archive
from ptychodus_pinn_torch.scan.io.images import read_image
from ptychodus_pinn_torch.scan.io.output import write_scan_npz

PRECIOUS = {'notes.json': b'{"scan": 1}', 'scan0.csv': b'1,2\n', 'mine.png': b'\x89PNG of mine'}
QUICK = ['--threads', '1', '--refine', '3', '--quiet']
SMALL = [
    *('--start', 'none', '--network.num-stages', '2', '--network.width', '4', '--steps', '60'),
    *('--network.num-memory', '2', '--grouping.group-size', '9', '--no-check', '--quiet'),
    *('--training.warmup-fraction', '0'),
]
KINDS = ('SIGKILL', 'SIGTERM', 'full disk')
MAX_S = 120.0


@dataclass(frozen=True)
class Job:
    """A command: its words, those that take it up again, and how long the interesting part lasts."""

    words: list[str]
    again: list[str]
    seconds: float


def make_jobs(scans: Path, stream: Path, out: Path) -> dict[str, Job]:
    """Returns the commands by name; they read `scans` and `stream` and write into `out`."""
    first = str(scans / 'scan0.npz')
    one = ['reconstruct', first, '--output', str(out / 'image.h5'), *QUICK]
    many = ['reconstruct', str(scans), '--output', str(out), *QUICK]
    train = ['train', first, '--output', str(out / 'model.h5.zip'), *SMALL]
    live = ['live', '--probe', first, '--output', str(out), '--folder', str(stream), *QUICK[:2]]
    live += ['--quiet', '--every', '0.1']
    return {
        'reconstruct': Job(one, [*one, '--overwrite'], 4.0),
        'many scans': Job(many, many, 6.0),
        'train': Job(train, [*train, '--resume', '--overwrite'], 8.0),
        'live': Job(live, [*live, '--resume'], 6.0),
    }


def run(words: list[str], kind: str | None, after_s: float, limit: int) -> int:
    """Returns the status of a command that is ended after a while, or by a file that grows too long."""

    def shrink_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = subprocess.Popen(
        [sys.executable, '-m', 'ptychodus_pinn_torch.cli', *words],
        preexec_fn=shrink_disk if kind == 'full disk' else None,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        process.wait(MAX_S if kind in (None, 'full disk') else after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL if kind is None else signal.Signals[kind])
        process.wait(MAX_S)
    return process.returncode


READERS: dict[str, Callable[[Path], object]] = {
    '.npz': read_image,
    '.h5': read_image,
    '.json': lambda path: json.loads(path.read_text()),
    '.zip': read_archive,
    '.ckpt': lambda path: zipfile.ZipFile(path).testzip(),
    '.png': lambda path: path.read_bytes().index(b'IEND', -12),
    '.csv': lambda path: path.read_text().index('\n', -1),
}


def broken(out: Path) -> list[str]:
    """Returns the files under final names that cannot be read."""
    found = []
    for path in sorted(out.rglob('*')):
        is_own = path.name in PRECIOUS or path.name.startswith('.') or 'csv' in path.parts
        if path.is_dir() or is_own or path.name == 'setup.npz':
            continue
        try:
            READERS.get(path.suffix, Path.stat)(path)
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            found.append(f'{path.name}: {error}')
    return found


def kill_once(name: str, kind: str, rng: random.Random, scans: Path, stream: Path) -> Counter[str]:
    """Returns what was lost in one kill, by its name, and whether it hit."""
    with tempfile.TemporaryDirectory(prefix='kills-') as folder:
        out = Path(folder)
        for file, content in PRECIOUS.items():
            (out / file).write_bytes(content)
        inputs = {path: path.read_bytes() for path in (*scans.iterdir(), *stream.iterdir())}
        job = make_jobs(scans, stream, out)[name]
        after_s, limit = 2.0 + rng.uniform(0.0, job.seconds), int(10 ** rng.uniform(2.0, 5.5))
        status = run(job.words, kind, after_s, limit)
        lost = Counter({'kills': 1, 'hits': int(status != 0), 'crashes': int(status == -11)})
        lost['files that are half written'] = len(broken(out))
        hidden = [path for path in out.rglob('.*') if path.is_file()]
        lost['temporary files'] = 0 if kind == 'SIGKILL' else len(hidden)
        begun = (out / 'model.run' / 'last.ckpt').exists(), (out / 'journal' / 'setup.npz').exists()
        again = job.again if name not in ('train', 'live') or any(begun) else job.words
        if name == 'train' and (out / 'model.h5.zip').exists() and not any(begun):
            again = [*again, '--overwrite']
        status = run(again, None, MAX_S, 0) if status else 0
        lost['runs that do not go on'] = int(status != 0)
        lost['files that are half written'] += len(broken(out))
        changed = [
            name for name, content in PRECIOUS.items() if (out / name).read_bytes() != content
        ]
        changed += [str(path) for path, content in inputs.items() if path.read_bytes() != content]
        lost['files of the user that have changed'] = len(changed)
        return lost


def main() -> None:
    """Kills as often as asked for, and prints a line for each and the sums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('number', type=int, help='of kills')
    parser.add_argument('--seed', type=int, default=0)
    arguments = parser.parse_args()
    rng, total = random.Random(arguments.seed), Counter[str]()
    with tempfile.TemporaryDirectory(prefix='kills-') as folder:
        scans, stream = Path(folder, 'scans'), Path(folder, 'stream')
        scans.mkdir()
        stream.mkdir()
        for number in range(3):
            scan = pinn.simulate(pattern_size=32, num_positions=64, step_px=3.0, seed=number)
            write_scan_npz(scans / f'scan{number}.npz', scan)
        for first in range(0, scan.num_patterns, 8):
            part = slice(first, first + 8)
            numpy.save(stream / f'frames_{first:04d}.npy', scan.patterns[part])
            numpy.save(stream / f'positions_{first:04d}.npy', scan.positions_px[part])
        (stream / 'finished').touch()
        names = list(make_jobs(scans, stream, Path(folder)))
        for index in range(arguments.number):
            name, kind = names[index % len(names)], KINDS[index // len(names) % len(KINDS)]
            began = time.monotonic()
            found = kill_once(name, kind, rng, scans, stream)
            total += found
            told = ', '.join(f'{number} {what}' for what, number in found.items() if number)
            print(f'{name}, {kind}: {told}; {time.monotonic() - began:.0f} s', flush=True)
    print(', '.join(f'{number} {what}' for what, number in total.items()))


if __name__ == '__main__':
    main()
