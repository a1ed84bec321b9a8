"""Comments of a product: one line is ours, the others are the user's."""

from __future__ import annotations

import pytest

from ptychodus_pinn_torch.scan.io.comments import add_comment


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ('', 'PINN-Torch: new.'),
        ('mine', 'mine\nPINN-Torch: new.'),
        ('mine\n', 'mine\nPINN-Torch: new.'),
        ('PINN-Torch: old.', 'PINN-Torch: new.'),
        ('a\nPINN-Torch: old.\n\n b \r\nc', 'a\n\n b \r\nc\nPINN-Torch: new.'),
        ('of PINN-Torch: mine', 'of PINN-Torch: mine\nPINN-Torch: new.'),
    ],
)
def test_a_line_of_ours_is_added_or_replaced_and_all_others_stay(given: str, expected: str) -> None:
    assert add_comment(given, 'new.') == expected
    assert add_comment(expected, 'new.') == expected


def test_a_sentence_is_one_line() -> None:
    assert add_comment('', 'one\n two.') == 'PINN-Torch: one two.'
