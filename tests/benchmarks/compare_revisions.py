"""Time of an image and of a training step, of two revisions side by side on one core.

    python tests/benchmarks/compare_revisions.py OLD_PYTHON=OLD_SOURCE NEW_PYTHON=NEW_SOURCE

Each side is an interpreter and the folder of its sources. The two take turns, so that what else the
machine does meets both; the ratio is that of the medians of CPU time.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

CODE = {
    'reconstruct, default, 1024 patterns of 64 px': """
import time, ptychodus_pinn_torch as pinn
scan = pinn.simulate(num_positions=1024, seed=1)
pinn.reconstruct(scan.select(slice(0, 64)))
begin = time.process_time(); pinn.reconstruct(scan, options={'execution.num_threads': 1})
print('SECONDS', time.process_time() - begin)
""",
    'reconstruct, flat start, 4 epochs': """
import time, ptychodus_pinn_torch as pinn
scan = pinn.simulate(num_positions=1024, seed=1)
options = {'reconstruction.start': 'flat', 'reconstruction.refine_epochs': 4}
options |= {'execution.num_threads': 1}
pinn.reconstruct(scan.select(slice(0, 64)), options=options)
begin = time.process_time(); pinn.reconstruct(scan, options=options)
print('SECONDS', time.process_time() - begin)
""",
    'training step, unrolled, default size': """
import tempfile, time, ptychodus_pinn_torch as pinn
scan = pinn.simulate(num_positions=256, seed=1)
marks = {}
def report(item):
    marks.setdefault('first', (item.step, time.process_time()))
    marks['last'] = (item.step, time.process_time())
options = {'training.max_steps': 14, 'execution.num_threads': 1, 'execution.logger': 'none'}
options |= {'training.holdout_fraction': 0.0}
with tempfile.TemporaryDirectory() as folder:
    pinn.train(scan, folder + '/m.h5.zip', options=options, report=report)
(a, s), (b, t) = marks['first'], marks['last']
print('SECONDS', (t - s) / (b - a))
""",
}


def seconds(python: str, source: str, code: str) -> float:
    """Returns the CPU seconds that a process of its own prints."""
    names = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')
    variables = {**os.environ, 'PYTHONPATH': source, **dict.fromkeys(names, '1')}
    done = subprocess.run(
        [python, '-c', code],
        cwd=source,
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.rpartition('SECONDS')[2])


if __name__ == '__main__':
    sides = [argument.split('=') for argument in sys.argv[1:3]]
    for title, text in CODE.items():
        found: list[list[float]] = [[], []]
        for turn in range(5):
            for side in (0, 1) if turn % 2 else (1, 0):
                found[side].append(seconds(*sides[side], text))
        old, new = (statistics.median(values) for values in found)
        print(f'{title}: {old:.3f} -> {new:.3f} CPU-s, {new / old:.3f}x')
