"""Files of torch: tensors and plain values, and nothing that would have to be run."""

from __future__ import annotations

from typing import Any

from .safe_zip import ArchiveError, SafeZip

__all__ = ['load_tensors']


def load_tensors(bundle: SafeZip) -> Any:
    """Returns the tree of tensors and plain values in a torch file.

    Raises:
        ArchiveError: it wants to run code, or is damaged.
    """
    import pickle

    import torch

    source = bundle.source
    try:
        return torch.load(bundle.repacked(), map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArchiveError(
            f'{source}: holds Python objects that would have to be run to be read: refused.'
        ) from error
    except ArchiveError:
        raise
    except (
        RuntimeError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        AssertionError,
        OverflowError,
        MemoryError,
        OSError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip('.')
        raise ArchiveError(f'{source}: is damaged or no torch file: {reason}.') from error
