"""A short run of the driver: whatever is spoilt ends in one sentence that names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from drive import GOOD, drive
from fuzz_samples import KINDS, SCAN_KINDS

NUMBER_OF_EACH = 15


@pytest.mark.slow
@pytest.mark.parametrize('seed', [7])
def test_a_spoilt_file_ends_in_one_sentence(tmp_path: Path, seed: int) -> None:
    kinds = (*KINDS, *SCAN_KINDS)
    failures, verdicts = [], set()
    for outcome in drive(kinds, range(NUMBER_OF_EACH), seed, num_children=1):
        verdicts.add(outcome.verdict)
        if outcome.verdict not in GOOD:
            path = tmp_path / f'{outcome.job.number}_{Path(outcome.job.file).name}'
            path.write_bytes(outcome.job.data)
            failures.append(f'{path}\n{outcome.describe()}')
    assert not failures, '\n\n'.join(failures)
    assert 'sentence' in verdicts
