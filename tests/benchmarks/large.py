"""Measures what docs/benchmarks.md says of large scans: `python tests/benchmarks/large.py WHAT`.

`memory`: memory and time of 20 000 and 200 000 patterns that are mapped from a file; `processes`: one and two
processes that make the same image.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.scan.io.output import write_scan_npz

ALONE = """
import json, sys, threading, time
import ptychodus_pinn_torch as pinn

def memory_of(name):
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) / 1024

options = {'execution.num_threads': 1}
scan = pinn.read_scan(sys.argv[1])
import numpy
pinn.reconstruct(scan.select(numpy.arange(200)), options=options)
before, peak, is_over = memory_of('RssAnon'), 0.0, threading.Event()

def watch():
    global peak
    while not is_over.wait(0.05):
        peak = max(peak, memory_of('RssAnon'))

watcher = threading.Thread(target=watch)
watcher.start()
began = time.process_time()
image = pinn.reconstruct(scan, options=options)
spent = time.process_time() - began
is_over.set()
watcher.join()
quality = pinn.compare_objects(image.object_, scan.truth, weights=(image.coverage > 0.3).astype(float))
print(json.dumps({
    'before_MB': before, 'peak_MB': peak, 'seconds': spent, 'nrmse': quality.nrmse,
    'canvas_MB': image.object_.nbytes / 2**20, 'verdict': image.trust.verdict,
    'phases': image.seconds,
}))
"""


def in_new_process(code: str, *words: object) -> dict[str, Any]:
    """Returns what a process of its own prints last, as JSON."""
    variables = {**os.environ, 'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
    done = subprocess.run(
        [sys.executable, '-c', code, *map(str, words)],
        env=variables, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def memory(numbers: tuple[int, ...] = (20_000, 200_000)) -> None:
    """Memory beyond the frames' own pages, and time per pattern."""
    rates = []
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            scan = pinn.simulate(num_positions=number, object_kind='leaves', seed=0)
            path = write_scan_npz(Path(folder) / 'scan.npz', scan)
            del scan
            found = in_new_process(ALONE, path)
        rates.append(found['seconds'] / number)
        print(number, 'patterns:', json.dumps(found), flush=True)
        print(
            f'  {found["peak_MB"] - found["before_MB"]:.0f} MB beyond what the process had before, '
            f'canvas {found["canvas_MB"]:.0f} MB, {1e6 * rates[-1]:.0f} us per pattern, '
            f'{rates[-1] / rates[0]:.2f}x linear',
            flush=True,
        )


TOGETHER = """
import json, sys, time
import numpy, torch
import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.backend import ReconstructRequest, ignore_report
from ptychodus_pinn_torch.config import Config
from ptychodus_pinn_torch.physics.team import Team
from ptychodus_pinn_torch.reconstruction.procedure import reconstruct

scan = pinn.read_scan(sys.argv[1])
config = Config.model_validate({'execution': {'num_threads': 1}})
reconstruct(ReconstructRequest(scan.select(numpy.arange(200)), config), ignore_report)
team = Team.gather(torch.device('cpu'))
team.agree(0.0)  # all are there
began, began_s = time.process_time(), time.monotonic()
image = reconstruct(ReconstructRequest(scan, config), ignore_report, None, team)
spent, spent_s = time.process_time() - began, time.monotonic() - began_s
numpy.save(sys.argv[2] + str(team.rank), image.object_)
print(image.seconds, file=sys.stderr)
print(json.dumps({'cpu_s': spent, 'wall_s': spent_s}))
team.disband()
"""


def processes(number: int) -> None:
    """One and two processes: CPU seconds of the busiest one, seconds, distance of the images."""
    with tempfile.TemporaryDirectory() as folder:
        scan = pinn.simulate(num_positions=number, object_kind='leaves', seed=0)
        path = write_scan_npz(Path(folder) / 'scan.npz', scan)
        images, figures = [], []
        for size in (1, 2):
            base = str(Path(folder) / f'image{size}_')
            common = {**os.environ, 'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
            common |= {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': '29511', 'WORLD_SIZE': str(size)}
            running = [
                subprocess.Popen(
                    [sys.executable, '-c', TOGETHER, str(path), base],
                    env={**common, 'RANK': str(rank)}, stdout=subprocess.PIPE, text=True,
                )
                for rank in range(size)
            ]  # fmt: skip
            found = [json.loads(each.communicate()[0].splitlines()[-1]) for each in running]
            figures.append({name: max(each[name] for each in found) for name in found[0]})
            images.append(numpy.load(f'{base}0.npy'))
            print(size, 'processes:', json.dumps(figures[-1]), flush=True)
    difference = numpy.linalg.norm(images[0] - images[1]) / numpy.linalg.norm(images[0])
    ratios = [figures[0][name] / figures[1][name] for name in ('cpu_s', 'wall_s')]
    print(
        f'{number} patterns: {ratios[0]:.2f}x by CPU time, {ratios[1]:.2f}x, images {difference:.1e} apart'
    )


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('what', choices=['memory', 'processes'])
    parser.add_argument('--numbers', type=int, nargs='+', help='patterns')
    arguments = parser.parse_args()
    if arguments.what == 'memory':
        memory(tuple(arguments.numbers or (20_000, 200_000)))
    else:
        for number in arguments.numbers or (4096, 16384):
            processes(number)


if __name__ == '__main__':
    main()
