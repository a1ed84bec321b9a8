"""TensorFlow for tests: where it is missing they skip, or fail where it is required."""

import importlib.util
import os

import pytest

REQUIRE_VARIABLE = 'PTYCHODUS_PINN_REQUIRE_TENSORFLOW'
REASON = "TensorFlow is not installed: pip install 'ptychodus-pinn-torch[tensorflow]'"


def is_required():
    """Returns whether a missing TensorFlow is a failure."""
    return os.environ.get(REQUIRE_VARIABLE, '').strip() == '1'


def has_tensorflow():
    """Returns whether TensorFlow is installed, or fails where it must be."""
    found = importlib.util.find_spec('tensorflow') is not None
    if not found and is_required():
        pytest.fail(f'{REQUIRE_VARIABLE}=1, but {REASON}', pytrace=False)
    return found


def require_tensorflow():
    """Returns TensorFlow on one thread, or skips the module that asks."""
    if not has_tensorflow():
        pytest.skip(REASON, allow_module_level=True)
    from ptychodus_pinn_torch.config import Config, override_config
    from ptychodus_pinn_torch.tensorflow_backend.loading import set_threads

    set_threads(override_config(Config(), {'execution.num_threads': 1}).execution.num_threads)
    import tensorflow

    return tensorflow
