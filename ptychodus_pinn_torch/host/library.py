"""The library PINN-Torch, as Ptychodus lists it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ptychodus.api.reconstruct import Reconstructor, ReconstructorLibrary
from ptychodus.api.settings import SettingsRegistry

from .reconstructor import HostTask, PINNTorchReconstructor
from .settings import PINNTorchSettings

if TYPE_CHECKING:
    from ptychodus.controller.data import FileDialogFactory

    from .view import PINNTorchViewControllerFactory

__all__ = ['PtychoPINNTorchReconstructorLibrary']

ROOT_LOGGER = __name__.partition('.')[0]
"""Ptychodus shows what is logged at or below the logger of a library."""


class PtychoPINNTorchReconstructorLibrary(ReconstructorLibrary):
    """Two reconstructors that share their settings, each with a model of its own."""

    def __init__(
        self, settings_registry: SettingsRegistry, is_developer_mode_enabled: bool = False
    ) -> None:
        super().__init__(ROOT_LOGGER)
        self.settings = PINNTorchSettings(settings_registry)
        self.reconstructors = tuple(
            PINNTorchReconstructor(mode, self.settings) for mode in ('unsupervised', 'supervised')
        )

    @property
    def name(self) -> str:
        """The name before the underscore of the algorithms' keys."""
        return 'PINN-Torch'

    def __iter__(self) -> Iterator[Reconstructor]:
        return iter(self.reconstructors)

    def connect_task(self, task: HostTask) -> None:
        """Tells the reconstructors where to ask for Stop and to show progress."""
        for reconstructor in self.reconstructors:
            reconstructor.task = task

    def create_view_controller_factory(
        self, file_dialog_factory: FileDialogFactory
    ) -> PINNTorchViewControllerFactory:
        """Returns what makes the settings views; needs PyQt5."""
        from .view import PINNTorchViewControllerFactory

        return PINNTorchViewControllerFactory(self)
