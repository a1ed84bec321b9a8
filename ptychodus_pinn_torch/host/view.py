"""The settings of PINN-Torch in the window of Ptychodus; the only module that needs PyQt5."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from ptychodus.api.observer import Observable, Observer
from ptychodus.api.parameters import StringParameter
from ptychodus.api.reconstruct import NullReconstructor
from ptychodus.controller.parameters import ParameterViewBuilder, ParameterViewController
from ptychodus.controller.processing.core import ReconstructorViewControllerFactory
from ptychodus.view.widgets import CheckableGroupBox
from PyQt5.QtCore import QTimer
from PyQt5.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from ..backend import BACKEND_VARIABLE, available_backends
from ..config import Option
from ..progress import format_duration
from .reconstructor import PINNTorchReconstructor
from .results import TrainingCurve
from .settings import PINNTorchSettings, iter_host_options

if TYPE_CHECKING:
    from .library import PtychoPINNTorchReconstructorLibrary

__all__ = ['PINNTorchViewControllerFactory', 'compose_processing_controller']

logger = logging.getLogger(__name__)

REFRESH_MS = 1000
_TRUE = {'1', 'true', 't', 'yes', 'y', 'on'}


def make_title(option: Option) -> str:
    """Returns the title of an option's group."""
    return 'Computing' if option.section == 'execution' else option.section.title()


def make_label(option: Option) -> str:
    """Returns an option's name as a person reads it, with its unit."""
    is_said = option.name.endswith(option.unit) and option.unit.endswith('s')
    name = option.name if is_said else option.name.removesuffix(f'_{option.unit}')
    unit = f' [{option.unit}]' if option.unit and not is_said else ''
    return f'{name[0].upper()}{name[1:].replace("_", " ")}{unit}:'


def make_tool_tip(option: Option) -> str:
    """Returns the description of an option with its bounds and its default."""
    bounds = ''
    if option.minimum is not None and option.maximum is not None:
        bounds = f' From {option.minimum:g} to {option.maximum:g}.'
    elif option.minimum is not None:
        bounds = f' At least {option.minimum:g}.'
    return f'<p>{option.description}{bounds} Default: {option.default}.</p>'


def select_text(combo_box: QComboBox, text: str) -> None:
    """Shows a text, also one that cannot be chosen, so that nothing else seems to be set."""
    if combo_box.findText(text) < 0:
        combo_box.addItem(text)
    combo_box.setCurrentText(text)


class OptionViewController(ParameterViewController, Observer):
    """A widget for one option; text that cannot be used is marked and explained, not changed."""

    def __init__(self, option: Option, parameter: StringParameter) -> None:
        super().__init__()
        self._option = option
        self._parameter = parameter
        self._widget, self._show_text = self._make_widget()
        self._update(parameter)
        parameter.add_observer(self)

    def get_widget(self) -> QWidget:
        """Returns the widget."""
        return self._widget

    def _make_widget(self) -> tuple[QWidget, Callable[[str], None]]:
        """Returns the widget, and what shows a text in it."""
        if self._option.kind is bool:
            check_box = QCheckBox()
            check_box.clicked.connect(lambda on: self._parameter.set_value(str(bool(on))))
            return check_box, lambda text: check_box.setChecked(text.strip().lower() in _TRUE)
        if self._option.choices:
            combo_box = QComboBox()
            combo_box.addItems(self._option.choices)
            combo_box.textActivated.connect(self._parameter.set_value)
            return combo_box, partial(select_text, combo_box)
        line_edit = QLineEdit()
        line_edit.editingFinished.connect(lambda: self._parameter.set_value(line_edit.text()))
        return line_edit, line_edit.setText

    def _update(self, observable: Observable) -> None:
        text = self._parameter.get_value()
        self._show_text(text)
        fault = PINNTorchSettings.find_fault(self._option.path, text)
        self._widget.setStyleSheet('color: #c00000;' if fault else '')
        self._widget.setToolTip(f'<p>{fault}</p>' if fault else make_tool_tip(self._option))


class ModelViewController(ParameterViewController):
    """Says which model is in use, and offers the shipped one."""

    def __init__(self, reconstructor: PINNTorchReconstructor) -> None:
        self._reconstructor = reconstructor
        self._label = QLabel()
        self._label.setWordWrap(True)
        self._label.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self._button = QPushButton('Use Shipped Model')
        self._button.setToolTip('Infer with the model that comes with PINN-Torch.')
        self._button.clicked.connect(reconstructor.use_shipped_model)
        self._button.clicked.connect(self._show)
        self._widget = QGroupBox('Model')
        layout = QVBoxLayout(self._widget)
        layout.addWidget(self._label)
        row = QHBoxLayout()
        row.addWidget(self._button)
        row.addStretch()
        layout.addLayout(row)
        # Training ends in another thread, which must not touch a widget.
        self._timer = QTimer(self._widget)
        self._timer.timeout.connect(self._show)
        self._timer.start(REFRESH_MS)
        self._show()

    def get_widget(self) -> QWidget:
        """Returns the widget."""
        return self._widget

    def _show(self) -> None:
        model = self._reconstructor.model
        self._label.setText(model.describe())
        self._label.setToolTip(str(model.path or ''))
        self._button.setVisible(model.path is not None)


class BackendViewController(ParameterViewController, Observer):
    """Chooses the backend, and shows when the environment has the last word."""

    def __init__(self, parameter: StringParameter) -> None:
        super().__init__()
        self._parameter = parameter
        self._combo_box = QComboBox()
        self._combo_box.addItems(available_backends())
        self._combo_box.setToolTip('<p>The engine that runs the network.</p>')
        self._combo_box.textActivated.connect(parameter.set_value)
        self._widget = QWidget()
        layout = QVBoxLayout(self._widget)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo_box)
        override = os.environ.get(BACKEND_VARIABLE, '').strip().lower()
        if override:
            note = QLabel(f'{BACKEND_VARIABLE}={override} in the environment overrides this.')
            note.setWordWrap(True)
            layout.addWidget(note)
        self._combo_box.setEnabled(not override)
        self._update(parameter)
        parameter.add_observer(self)

    def get_widget(self) -> QWidget:
        """Returns the widget."""
        return self._widget

    def _update(self, observable: Observable) -> None:
        select_text(self._combo_box, self._parameter.get_value().strip().lower())


class AdvancedViewController(ParameterViewController):
    """The options that few people change, group by group, folded away."""

    def __init__(self, builder: ParameterViewBuilder) -> None:
        inner = builder.build_widget(add_stretch=False)
        inner.layout().setContentsMargins(0, 0, 0, 0)  # type: ignore[union-attr]
        layout = QVBoxLayout()
        layout.addWidget(inner)
        self._widget = CheckableGroupBox('Advanced', collapse_when_unchecked=True)
        self._widget.setChecked(False)
        self._widget.set_contents_layout(layout)

    def get_widget(self) -> QWidget:
        """Returns the widget."""
        return self._widget


class PINNTorchViewControllerFactory(ReconstructorViewControllerFactory):
    """Makes the settings view of each of the two reconstructors from the declared options."""

    def __init__(self, library: PtychoPINNTorchReconstructorLibrary) -> None:
        super().__init__()
        self._library = library

    @property
    def name(self) -> str:
        """The name of the library."""
        return self._library.name

    def create_view_controller(self, reconstructor_name: str) -> QWidget:
        """Returns the view of a reconstructor, whose name arrives in lower case."""
        settings = self._library.settings
        reconstructor = next(
            item
            for item in self._library.reconstructors
            if item.name.casefold() == reconstructor_name.casefold()
        )
        basic, advanced = ParameterViewBuilder(), ParameterViewBuilder()
        basic.add_view_controller_to_top(ModelViewController(reconstructor))
        basic.add_view_controller(BackendViewController(settings.backend), 'Backend:')
        for option in iter_host_options():
            (basic if option.is_basic else advanced).add_view_controller(
                OptionViewController(option, settings.get_parameter(option.path)),
                make_label(option),
                group=make_title(option),
            )
        basic.add_view_controller_to_bottom(AdvancedViewController(advanced))
        return basic.build_widget()


def compose_processing_controller(base: type) -> type:
    """Returns a subclass of Ptychodus' controller that knows the attached libraries."""

    class AttachingProcessingController(base):
        """Processing controller with the views of attached libraries."""

        def __init__(self, algorithm_parameter: Any, processing_api: Any, *arguments: Any) -> None:
            *others, status_view, file_dialog_factory, factories = arguments
            libraries = getattr(algorithm_parameter, 'attached_libraries', ())
            self._attached_monitor: Any = processing_api.task_monitor
            self._attached_status_view = status_view
            self._plotted_curve = TrainingCurve()
            select_some_algorithm(algorithm_parameter)
            super().__init__(
                algorithm_parameter,
                processing_api,
                *others,
                status_view,
                file_dialog_factory,
                [*factories, *make_factories(libraries, file_dialog_factory)],
            )
            self._attached_monitor.add_observer(self)

        def _sync_model_to_view(self) -> None:
            super()._sync_model_to_view()
            reconstructor = self._algorithm_parameter.get_current_reconstructor()
            if isinstance(reconstructor, PINNTorchReconstructor):
                self._sync_action_buttons_to_selection()

        def _sync_action_buttons_to_selection(self) -> None:
            """Enables Infer where there is something to infer from and a model to do it with."""
            super()._sync_action_buttons_to_selection()
            reconstructor = self._algorithm_parameter.get_current_reconstructor()
            if isinstance(reconstructor, PINNTorchReconstructor):
                button = self._actions_view.reconstruct_button
                button.setEnabled(button.isEnabled() and reconstructor.is_model_loaded())

        def _update(self, observable: Any) -> None:
            super()._update(observable)
            if observable is not self._attached_monitor:
                return
            is_processing = observable.is_processing
            if not is_processing:
                self._sync_model_to_view()
            reconstructor = self._algorithm_parameter.get_current_reconstructor()
            remaining_s = getattr(reconstructor, 'remaining_s', None)
            left = '' if remaining_s is None else f', {format_duration(remaining_s)} left'
            self._attached_status_view.progress_bar.setFormat(f'%p%{left}')
            curve = getattr(reconstructor, 'training_curve', self._plotted_curve)
            if is_processing and curve is not self._plotted_curve:
                plot_training(self._attached_status_view, curve)
                self._plotted_curve = curve

    return AttachingProcessingController


def plot_training(status_view: Any, curve: TrainingCurve) -> None:
    """Plots a training run while it lasts, where Ptychodus plots the losses of a product."""
    axes = status_view.axes
    axes.clear()
    axes.set(title='Training', xlabel='Epoch', ylabel='Loss')
    for label, part in (('training', curve.training), ('held-out', curve.validation)):
        if part:
            axes.semilogy(
                [item.epoch for item in part], [item.value for item in part], '.-', label=label
            )
    if axes.lines:
        axes.legend()
    axes.grid(True)
    status_view.figure_canvas.draw()


def select_some_algorithm(algorithm_parameter: Any) -> None:
    """Selects what the combo box shows, where Ptychodus has selected nothing.

    With an algorithm in the settings that is not installed, Ptychodus shows the first one, but
    the active one does nothing at all.
    """
    for key in list(algorithm_parameter.available_reconstructors()):
        if not isinstance(algorithm_parameter.get_current_reconstructor(), NullReconstructor):
            return
        algorithm_parameter.set_value(key)


def make_factories(libraries: Iterable[Any], file_dialog_factory: Any) -> list[Any]:
    """Returns the view factories of the libraries that offer one; a broken one is left out."""
    factories = []
    for library in libraries:
        try:
            if hasattr(library, 'create_view_controller_factory'):
                factories.append(library.create_view_controller_factory(file_dialog_factory))
        except Exception as error:  # noqa: BLE001 - one library must not harm the window
            logger.error('%s has no settings view: %s', library.name, error)
    return factories
