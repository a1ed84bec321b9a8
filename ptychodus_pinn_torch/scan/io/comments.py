"""Our line in the comments of a product of Ptychodus; all others are the user's."""

from __future__ import annotations

__all__ = ['add_comment']

MARK = 'PINN-Torch: '


def add_comment(comments: str, sentence: str) -> str:
    """Returns comments with a sentence of ours as the last line.

    A line that an earlier reconstruction has left is replaced; everything else stays as it is.
    """
    kept = '\n'.join(line for line in comments.split('\n') if not line.startswith(MARK))
    between = '' if not kept or kept.endswith('\n') else '\n'
    return f'{kept}{between}{MARK}{" ".join(sentence.split())}'
