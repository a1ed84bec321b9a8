"""TensorFlow and Keras, imported with care: Keras 3 also runs on other frameworks."""

from __future__ import annotations

import importlib
import logging
import os
from types import ModuleType

from ..config import Config, ConfigError

__all__ = ['choose_device', 'load_keras', 'set_threads']

logger = logging.getLogger(__name__)

KERAS_VARIABLE = 'KERAS_BACKEND'
LOG_VARIABLE = 'TF_CPP_MIN_LOG_LEVEL'
ERRORS_ONLY = '2'


def load_keras() -> ModuleType:
    """Returns Keras, running on TensorFlow whatever the environment prefers.

    Raises:
        RuntimeError: Keras was imported before, and runs on something else.
    """
    os.environ.setdefault(LOG_VARIABLE, ERRORS_ONLY)
    preferred = os.environ.get(KERAS_VARIABLE)
    os.environ[KERAS_VARIABLE] = 'tensorflow'
    try:
        keras = importlib.import_module('keras')
    finally:
        if preferred is None:
            del os.environ[KERAS_VARIABLE]
        else:
            os.environ[KERAS_VARIABLE] = preferred
    if keras.backend.backend() != 'tensorflow':
        raise RuntimeError(
            f'Keras runs on {keras.backend.backend()} in this process, and the tensorflow backend '
            f'needs it on TensorFlow: start Python with {KERAS_VARIABLE}=tensorflow.'
        )
    return keras


def set_threads(number: int) -> None:
    """Sets the CPU threads of TensorFlow; 0 leaves the choice to OMP_NUM_THREADS or to it."""
    import tensorflow as tf

    text = os.environ.get('OMP_NUM_THREADS', '')
    wanted = number or (int(text) if text.isdigit() else 0)
    if not wanted or tf.config.threading.get_intra_op_parallelism_threads() == wanted:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(wanted)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        logger.info('TensorFlow is running already and keeps the threads that it has.')


def choose_device(config: Config) -> str:
    """Returns the name of the device to run on.

    Raises:
        ConfigError: a device that TensorFlow does not offer here.
    """
    import tensorflow as tf

    wanted = config.execution.accelerator
    if wanted == 'mps':
        raise ConfigError(
            'execution.accelerator = mps is there with the pytorch backend only: choose cpu, or '
            '--backend pytorch.'
        )
    has_gpu = bool(tf.config.list_physical_devices('GPU'))
    if wanted == 'cuda' and not has_gpu:
        raise ConfigError(
            'execution.accelerator = cuda, but TensorFlow finds no GPU (tensorflow-cpu never '
            'does): install tensorflow[and-cuda], or choose cpu.'
        )
    return '/GPU:0' if has_gpu and wanted != 'cpu' else '/CPU:0'
