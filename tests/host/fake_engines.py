"""Engines that learn nothing and misbehave in every way that a worker process can."""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy

from ptychodus_pinn_torch.backend import EpochReport, Moved, Reconstruction, Trust

STEP_S = 0.02


class PlainEngine:
    """Counts its steps, writes a model that is a text file, and marks every position."""

    name = 'plain'

    def train(self, request, report):
        total = request.config.training.max_steps
        try:
            for step in range(1, total + 1):
                time.sleep(STEP_S)
                report(
                    EpochReport(
                        phase='train',
                        step=step,
                        total=total,
                        epoch=step // 10,
                        loss=1.0 / step,
                        held_out=2.0 / step,
                        remaining_s=(total - step) * STEP_S,
                        is_epoch_end=step % 10 == 0,
                    )
                )
        except KeyboardInterrupt:
            pass
        request.output.write_text(f'{len(request.scans)} {len(request.validation)} {step}')
        return request.output

    def reconstruct(self, request, report):
        scan = request.scan
        for step in range(1, 6):
            time.sleep(STEP_S)
            report(EpochReport(phase='refine', step=step, total=5, loss=1.0 / step))
        logging.getLogger('ptychodus_pinn_torch.fake').warning('Nearly.')
        object_ = scan.object_ * numpy.complex64(1j)
        for y, x in numpy.rint(scan.positions_px).astype(int):
            object_[y, x] = 7.0
        return Reconstruction(
            object_=object_,
            positions_px=scan.positions_px + numpy.array([1.0, 2.0]),
            probe=scan.probe * 2,
            probe_variation=(
                None
                if scan.probe_variation is None
                else replace(
                    scan.probe_variation.scaled(3.0), weights=-scan.probe_variation.weights
                )
            ),
            losses=((0, 0.5), (1, 0.25)),
            coverage=numpy.ones(object_.shape, numpy.float32),
            seconds={'refine': 0.1},
            start='network',
            messages=('All is well.', 'Nearly.'),
            trust=Trust(
                'right',
                f'{scan.name}: the image is right.',
                1.0,
                numpy.ones(scan.num_patterns),
                numpy.ones(object_.shape, numpy.float32),
                Moved(positions_rms_px=1.5, positions_max_px=2.5),
            ),
            freed=tuple(
                name
                for name in ('probe', 'positions')
                if getattr(request.config.reconstruction, f'update_{name}') == 'on'
            ),
        )


class ChattyEngine(PlainEngine):
    """Prints more than a pipe holds, from Python and from below it."""

    def reconstruct(self, request, report):
        for _ in range(2000):
            print('x' * 500)
            os.write(1, b'{"tag": "trained"}\n')
        sys.stderr.write('y' * 500_000)
        return super().reconstruct(request, report)


class FailingEngine(PlainEngine):
    def train(self, request, report):
        raise ValueError('The scan is made of cheese: measure another one.')

    def reconstruct(self, request, report):
        raise TypeError('cheese')


class ExhaustedEngine(PlainEngine):
    def reconstruct(self, request, report):
        raise MemoryError


class KilledEngine(PlainEngine):
    def train(self, request, report):
        os.kill(os.getpid(), signal.SIGKILL)

    reconstruct = train


class CrashingEngine(PlainEngine):
    def reconstruct(self, request, report):
        ctypes.string_at(0)


class LeavingEngine(PlainEngine):
    def reconstruct(self, request, report):
        os.write(2, b'the last thing I saw was a bright light\n')
        os._exit(3)


class UnsendableEngine(PlainEngine):
    def reconstruct(self, request, report):
        import dataclasses

        return dataclasses.replace(super().reconstruct(request, report), start=lambda: None)


class EndlessEngine(PlainEngine):
    """Works for ever, hears no request to stop and no SIGTERM, and has a child of that kind."""

    def train(self, request, report):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
        subprocess.Popen(['sh', '-c', "trap '' TERM; sleep 600"])
        step = 0
        while True:
            step += 1
            try:
                time.sleep(0.05)
                report(EpochReport(phase='train', step=step % 100, total=100, loss=1.0))
            except KeyboardInterrupt:
                pass

    reconstruct = train


class MuteEngine(PlainEngine):
    """Never reports."""

    def train(self, request, report):
        time.sleep(600)

    reconstruct = train


class SlowStepEngine(PlainEngine):
    """Trains in earnest; once there is a best model, a step lasts ten seconds and hears nothing."""

    def train(self, request, report):
        from ptychodus_pinn_torch.config import override_config
        from ptychodus_pinn_torch.training.run import train
        from ptychodus_pinn_torch.training.run_folder import best_of

        def slow(item):
            end_s = time.monotonic() + 10.0 * best_of(request.output).exists()
            while time.monotonic() < end_s:
                time.sleep(0.05)
            report(item)

        options = {
            'training.start': 'none',
            'training.max_steps': 100_000,
            'training.warmup_fraction': 0.0,
            'training.early_stopping': 1000,  # judged after each epoch
            'network.num_stages': 2,
            'network.width': 4,
            'network.num_memory': 2,
            'grouping.group_size': 9,
        }
        request = replace(
            request, backend='pytorch', config=override_config(request.config, options)
        )
        return train(request, slow)
