"""Spoils files of every kind and counts how the commands end.

    python tests/fuzz/drive.py --mutations 10000 --seed 1 [--kinds scan pair] [--keep FOLDER]

Every spoilt file must end in one sentence that names it, within 20 s and 1.5 GB; none may run, crash
the interpreter or come back as somebody else's error. The same seed makes the same files.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import selectors
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from fuzz_formats import MEANINGS, SPECIAL
from fuzz_mutations import spoil_bytes
from fuzz_samples import KINDS, SCAN_KINDS, Kind, make_samples

__all__ = ['GOOD', 'Outcome', 'drive']

LIMIT_S = 20.0
GOOD = ('fine', 'sentence')
MAX_JOBS = 400
"""Of one process, so that memory that is not given back is not taken for that of a file."""


@dataclass(frozen=True)
class Job:
    """A spoilt file and the command that reads it."""

    kind: Kind
    number: int
    file: str
    data: bytes
    command: str


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    job: Job
    verdict: str
    last: str
    trace: str = ''
    seconds: float = 0.0

    def describe(self) -> str:
        """Returns what an engineer wants to see."""
        job = self.job
        text = f'{job.kind.name} {job.number} ({job.file}), {self.verdict}: {job.command}\n    {self.last}'
        return f'{text}\n{self.trace}' if self.trace and self.verdict not in GOOD else text


def make_job(kind: Kind, number: int, seed: int, samples: Path) -> Job:
    """Returns the spoilt file of a number; the same for the same seed."""
    rng = random.Random(f'{seed}/{kind.name}/{number}')
    file, command = rng.choice(kind.files), rng.choice(kind.commands)
    form = 'yaml' if file.endswith('.yaml') else kind.format
    data = (samples / file).read_bytes()
    if form in SPECIAL and rng.random() < 0.12:
        data = rng.choice(SPECIAL[form])
    elif rng.random() < 0.3:
        data = spoil_bytes(data, rng)
    else:
        try:
            data = MEANINGS[form](data, rng)
        except Exception:  # noqa: BLE001 - no file can be written like that
            data = spoil_bytes(data, rng)
    return Job(kind, number, file, data, command.replace('FILE', file))


@dataclass
class Child:
    """A process that runs commands, made anew when it has died."""

    samples: Path
    folder: Path
    process: subprocess.Popen[str] | None = None
    num_jobs: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, job: Job) -> Outcome:
        """Returns how the command of a job ended."""
        spoilt, output = self.folder / 'spoilt', self.folder / 'output'
        for place in (spoilt, output):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
        for name in job.kind.files:
            (spoilt / name).parent.mkdir(exist_ok=True)
            shutil.copy(self.samples / name, spoilt / name)
        (spoilt / job.file).write_bytes(job.data)
        places = {'@': str(spoilt), '%': str(self.samples), '>': str(output)}
        words = [places.get(word[0], word[0]) + word[1:] for word in job.command.split()]
        answer = self._ask({'words': words, 'place': str(spoilt)})
        if isinstance(answer, str):
            return Outcome(job, answer, '')
        verdict = 'time-out' if answer['seconds'] > LIMIT_S else answer['verdict']
        return Outcome(job, verdict, answer['last'], answer['trace'], answer['seconds'])

    def _ask(self, job: dict[str, Any]) -> dict[str, Any] | str:
        process = self._alive()
        assert process.stdin is not None
        process.stdin.write(json.dumps(job) + '\n')
        process.stdin.flush()
        # the clock of the wall runs on while others work: what counts is the time of the process
        line = self._line(2 * LIMIT_S + 20.0)
        if line:
            self.num_jobs += 1
            return json.loads(line)
        is_running = line is None
        self.close()
        return 'time-out' if is_running else f'ended {process.returncode}'

    def _alive(self) -> subprocess.Popen[str]:
        if self.num_jobs >= MAX_JOBS:
            self.close()
        if self.process is None:
            environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg'}
            environment['OMP_STACKSIZE'] = '256K'  # of as many threads as a configuration asks for
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name('fuzz_child.py'))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True, env=environment,
            )  # fmt: skip
            self.num_jobs = 0
            assert self._line(300.0) == 'ready\n'
        return self.process

    def _line(self, seconds: float) -> str | None:
        """Returns the next line; nothing where the process has ended, None where time is over."""
        assert self.process is not None and self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                return None
        return self.process.stdout.readline()

    def close(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def drive(
    kinds: Sequence[Kind], numbers: Iterable[int], seed: int, num_children: int = 2
) -> Iterator[Outcome]:
    """Yields how each command ended; every number makes one file of each kind."""
    with tempfile.TemporaryDirectory() as place:
        samples = Path(place, 'samples')
        samples.mkdir()
        make_samples(samples)
        children = [Child(samples, Path(place, f'child{i}')) for i in range(num_children)]

        def work(place_of: tuple[Kind, int]) -> Outcome:
            job = make_job(*place_of, seed, samples)
            child = next(item for item in children if item.lock.acquire(blocking=False))
            try:
                return child.run(job)
            finally:
                child.lock.release()

        try:
            with ThreadPoolExecutor(num_children) as pool:
                yield from pool.map(work, [(kind, number) for number in numbers for kind in kinds])
        finally:
            for child in children:
                child.close()


def main() -> int:
    """Prints a table by kind, and every failure; returns 1 where there was one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--mutations', type=int, default=1000)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--kinds', nargs='*', default=[], help='default: all')
    parser.add_argument('--only', type=int, help='one number of each kind')
    parser.add_argument('--children', type=int, default=2)
    parser.add_argument('--keep', type=Path, help='folder for the files that have failed')
    arguments = parser.parse_args()
    kinds = [
        kind
        for kind in (*KINDS, *SCAN_KINDS)
        if not arguments.kinds or kind.name in arguments.kinds
    ]
    numbers = range(-(-arguments.mutations // len(kinds)))
    if arguments.only is not None:
        numbers = range(arguments.only, arguments.only + 1)
    counts: dict[str, Counter[str]] = {kind.name: Counter() for kind in kinds}
    slowest: Outcome | None = None
    for outcome in drive(kinds, numbers, arguments.seed, arguments.children):
        counts[outcome.job.kind.name][outcome.verdict] += 1
        if slowest is None or outcome.seconds > slowest.seconds:
            slowest = outcome
        if outcome.verdict not in GOOD or arguments.only is not None:
            print(outcome.describe(), flush=True)
            if arguments.keep is not None:
                arguments.keep.mkdir(parents=True, exist_ok=True)
                name = f'{outcome.job.kind.name}_{outcome.job.number}_{Path(outcome.job.file).name}'
                (arguments.keep / name).write_bytes(outcome.job.data)
    verdicts = sorted({verdict for count in counts.values() for verdict in count})
    print(f'{"kind":<14}', *(f'{verdict:>12}' for verdict in verdicts))
    for name, count in counts.items():
        print(f'{name:<14}', *(f'{count[verdict] or "-":>12}' for verdict in verdicts))
    if slowest is not None:
        print(f'the slowest took {slowest.seconds:.1f} s: {slowest.describe()}')
    return int(
        any(
            count[verdict]
            for count in counts.values()
            for verdict in verdicts
            if verdict not in GOOD
        )
    )


if __name__ == '__main__':
    sys.exit(main())
