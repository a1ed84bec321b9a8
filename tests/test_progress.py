"""How progress reads."""

from __future__ import annotations

import pytest

from ptychodus_pinn_torch.backend import EpochReport
from ptychodus_pinn_torch.progress import ProgressLine, describe_report, format_duration


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [(0.4, '0 s'), (59.6, '1 min 00 s'), (200, '3 min 20 s'), (7500, '2 h 05 min')],
)
def test_durations_are_said_as_people_say_them(seconds, text):
    assert format_duration(seconds) == text


def test_a_report_tells_what_is_known_and_nothing_else():
    assert describe_report(EpochReport('train', 3, 9)) == 'train: 3 of 9'
    report = EpochReport('train', 3, 9, loss=0.5, held_out=0.25, floor=0.125, remaining_s=70)
    assert describe_report(report) == (
        'train: 3 of 9, loss 0.5 (photon noise alone: 0.125), held-out error 0.25, 1 min 10 s left'
    )


def test_a_log_gets_few_lines_and_a_quiet_one_none(capsys):
    for is_quiet in (False, True):
        line = ProgressLine(is_quiet=is_quiet)
        for step in range(50):
            line(EpochReport('train', step, 50))
        line.close()
    assert capsys.readouterr().err == 'train: 0 of 50\n'
