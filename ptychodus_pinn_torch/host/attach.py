"""Adds the reconstructor libraries of an entry-point group to Ptychodus; never raises into it."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import entry_points, version
from types import ModuleType
from typing import Any

__all__ = ['LIBRARY_GROUP', 'SUPPORTED_VERSIONS', 'attach', 'find_host_fault']

logger = logging.getLogger(__name__)

LIBRARY_GROUP = 'ptychodus.reconstructor_libraries'
SUPPORTED_VERSIONS = '>=1.7,<1.8'
SUPPORTED_RELEASE = (1, 7)

_CORE = 'ptychodus.model.core'
_CONTROLLER = 'ptychodus.controller.core'
_MARK = 'attaches_reconstructor_libraries'
_SEAMS = {
    _CORE: (
        'ProcessingCore',
        ('self', 'task_manager', 'settings_registry', 'product_api', 'algorithm_libraries'),
    ),
    _CONTROLLER: (
        'ProcessingController',
        (
            'self', 'algorithm_parameter', 'processing_api', 'product_repository',
            'product_table_model', 'globus', 'genesis', 'view', 'status_view',
            'file_dialog_factory', 'view_controller_factories',
        ),
    ),
}  # fmt: skip
"""The class of each module that is replaced by one composed of it, and its constructor."""

ABSTRACT_METHODS = frozenset(
    {
        'name', 'get_progress_goal', 'reconstruct', 'is_model_loaded', 'get_model_file_filter',
        'load_model_from_file', 'get_model_file_extension', 'save_model',
        'get_training_data_file_filter', 'export_training_data', 'train',
    }
)  # fmt: skip
"""What Ptychodus asks of a trainable reconstructor."""


def attach() -> bool:
    """Returns whether the libraries are attached; says in one error line why they are not.

    Two classes that Ptychodus looks up by name are replaced by subclasses that take a longer list.
    Where a module is not imported yet, that happens when it is: a headless run never sees PyQt5.
    """
    fault = find_host_fault()
    if fault:
        logger.error('PINN-Torch is not attached. %s', fault)
        return False
    for name, compose in ((_CORE, _compose_core), (_CONTROLLER, _compose_controller)):
        if name in sys.modules:
            _replace_seam(sys.modules[name], compose)
        else:
            sys.meta_path.insert(0, OneShotFinder(name, compose))
    return True


def find_host_fault() -> str:
    """Returns why this Ptychodus cannot be used; empty when it can."""
    found = version('ptychodus')
    if tuple(int(part) for part in found.split('.')[:2] if part.isdigit()) != SUPPORTED_RELEASE:
        return (
            f'It works with Ptychodus {SUPPORTED_VERSIONS}, but {found} is installed: '
            f"pip install 'ptychodus{SUPPORTED_VERSIONS}'"
        )
    from ptychodus.api.reconstruct import TrainableReconstructor

    methods: frozenset[str] = getattr(TrainableReconstructor, '__abstractmethods__', frozenset())
    if methods != ABSTRACT_METHODS:
        names = ', '.join(sorted(methods ^ ABSTRACT_METHODS))
        return f'Ptychodus {found} asks for other methods of a reconstructor ({names}).'
    return ''


def find_seam_fault(module: ModuleType) -> str:
    """Returns what is not as expected in a module of Ptychodus; empty when all is."""
    name, expected = _SEAMS[module.__name__]
    seam = getattr(module, name, None)
    if seam is None:
        return f'{module.__name__} has no {name}.'
    found = tuple(inspect.signature(seam.__init__).parameters)
    if found != expected:
        return f'{name} takes ({", ".join(found)}), not ({", ".join(expected)}).'
    return ''


class OneShotFinder(MetaPathFinder):
    """Replaces the class of a module right after its first import, and then goes away."""

    def __init__(self, name: str, compose: Callable[[ModuleType], type]) -> None:
        self._name = name
        self._compose = compose

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec that the import system would find, with a longer `exec_module`."""
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_act(module: ModuleType) -> None:
            execute(module)
            _replace_seam(module, self._compose)

        spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec


def _replace_seam(module: ModuleType, compose: Callable[[ModuleType], type]) -> None:
    """Puts what is composed of a class of Ptychodus in its place, once."""
    seam_name, _ = _SEAMS[module.__name__]
    if hasattr(getattr(module, seam_name, None), _MARK):
        return
    try:
        if fault := find_seam_fault(module):
            logger.error(
                'PINN-Torch is not attached, this Ptychodus is not one of %s as published: %s',
                SUPPORTED_VERSIONS, fault,
            )  # fmt: skip
        else:
            composed = compose(module)
            setattr(composed, _MARK, True)
            setattr(module, seam_name, composed)
    except Exception:
        logger.exception('PINN-Torch could not be attached to %s.', module.__name__)


class ProcessingTask:
    """The background task of Ptychodus, as a reconstructor sees it."""

    def __init__(self, task_manager: Any, monitor: Any) -> None:
        self._task_manager = task_manager
        self._monitor = monitor

    def is_stopping(self) -> bool:
        """Returns whether the user pressed Stop or is closing Ptychodus.

        Ptychodus itself asks only between two results, and never when it is being closed.
        """
        return bool(self._monitor.is_stopping or self._task_manager.is_stopping)

    def update_progress(self, progress: int, progress_goal: int) -> None:
        """Moves the progress bar."""
        self._monitor.update_progress(progress, progress_goal)

    def refresh(self) -> None:
        """Has the buttons look again at what can be done; only from the window's own thread."""
        self._monitor.notify_observers()


def _compose_core(module: ModuleType) -> type:
    base: type = module.ProcessingCore

    class AttachingProcessingCore(base):
        """Processing core that lists the libraries of the entry-point group as well."""

        def __init__(
            self,
            task_manager: Any,
            settings_registry: Any,
            product_api: Any,
            algorithm_libraries: Sequence[Any],
        ) -> None:
            is_developing = module.logger.getEffectiveLevel() <= logging.DEBUG
            attached = load_libraries(settings_registry, is_developing, algorithm_libraries)
            super().__init__(
                task_manager, settings_registry, product_api, [*algorithm_libraries, *attached]
            )
            self.algorithm_parameter.attached_libraries = tuple(attached)
            for library in attached:
                if hasattr(library, 'connect_task'):
                    library.connect_task(
                        ProcessingTask(task_manager, self.processing_api.task_monitor)
                    )

    return AttachingProcessingCore


def _compose_controller(module: ModuleType) -> type:
    from .view import compose_processing_controller

    return compose_processing_controller(module.ProcessingController)


def load_libraries(
    settings_registry: Any, is_developer_mode_enabled: bool, present: Iterable[Any]
) -> list[Any]:
    """Returns the libraries of the entry-point group; one that is broken costs one error line."""
    names = {library.name.casefold() for library in present}
    libraries: list[Any] = []
    for item in entry_points(group=LIBRARY_GROUP):
        fault = ''
        try:
            library = item.load()(settings_registry, is_developer_mode_enabled)
            name = library.name
            list(library)
        except (Exception, SystemExit) as error:
            fault = f'{type(error).__name__}: {error}'
            logger.debug('Traceback of %s', item.name, exc_info=True)
        else:
            if '_' in name:
                fault = f'its name {name!r} contains "_".'
            elif name.casefold() in names:
                fault = f'its name {name!r} is taken.'
        if fault:
            origin = f' of {item.dist.name}' if item.dist is not None else ''
            logger.error(
                'The reconstructor library %s%s is left out: %s', item.value, origin, fault
            )
        else:
            names.add(name.casefold())
            libraries.append(library)
    return libraries
