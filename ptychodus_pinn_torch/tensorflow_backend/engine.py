"""The TensorFlow engine behind the `Backend` protocol."""

from __future__ import annotations

import importlib.util

from ..config import Config, ConfigError, override_config, refuse_without_effect
from ..models.archive import Archive, check_backend
from ..networks.contract import Network
from ..training.fitting import Fitted, TrainingRun
from .loading import choose_device, load_keras, set_threads

__all__ = ['TensorFlowBackend']


class TensorFlowBackend:
    """Runs the convolutional network on Keras and TensorFlow (see `backend.Backend`)."""

    name, has_varying_probes = 'tensorflow', False

    def __init__(self) -> None:
        """Imports Keras before anything else imports TensorFlow, so that it is on TensorFlow.

        Raises:
            RuntimeError: TensorFlow is not installed, or Keras runs on something else.
        """
        if importlib.util.find_spec('tensorflow') is None:
            raise RuntimeError(
                'TensorFlow backend selected, but tensorflow is not installed: '
                "pip install 'ptychodus-pinn-torch[tensorflow]'"
            )
        load_keras()

    def settle(self, config: Config) -> tuple[Config, str]:
        """Returns the configuration of a training run here, and a sentence for the user.

        The default network, `unrolled`, becomes `cnn`, which the sentence says.

        Raises:
            ConfigError: an option that has no effect here; names it.
        """
        kind, message = config.network.kind, ''
        if config.network == Config().network:
            config = override_config(config, {'network.kind': 'cnn'})
            message = (
                'The tensorflow backend has no unrolled network, which is the default: training '
                'the cnn network instead.'
            )
        elif kind != 'cnn':
            raise ConfigError(
                f'network.kind = {kind}: the tensorflow backend has the cnn network only: choose '
                f'cnn, or --backend pytorch.'
            )
        refuse_without_effect(config, command='train', backend=self.name)
        return config, message

    def load_network(self, archive: Archive, config: Config) -> Network:
        """Returns the network of an archive, whichever engine trained it, ready to reconstruct.

        Raises:
            ArchiveError: an archive of a network that only the other engine has.
            ConfigError: an option that has no effect here.
            ValueError: weights that do not fit the network.
        """
        check_backend(archive, self.name)
        refuse_without_effect(config, command='reconstruct', backend=self.name)
        set_threads(config.execution.num_threads)
        from .keras_network import KerasCnn, StackedNetwork

        network = KerasCnn(archive.config.network)
        network.load(archive.network_weights(), str(archive.path or 'the archive'))
        return StackedNetwork(network, choose_device(config))

    def fit(self, run: TrainingRun) -> Fitted:
        """Returns the best weights of a run by Keras' own `fit`."""
        set_threads(run.config.execution.num_threads)
        import tensorflow as tf

        from .keras_fit import fit

        with tf.device(choose_device(run.config)):
            return fit(run)
