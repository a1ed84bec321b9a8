"""The window of Ptychodus without a screen, with one scan loaded."""

import time

from PyQt5.QtWidgets import QApplication, QLabel

APPLICATION = QApplication.instance() or QApplication(['ptychodus'])


class Window:
    """The application with one scan loaded, and the means to press its buttons."""

    def __init__(self, model, folder):
        from ptychodus.controller import ControllerCore
        from ptychodus.view import ViewCore

        self.model = model
        self.view = ViewCore(is_developer_mode_enabled=False)
        self.controller = ControllerCore(model, self.view, is_developer_mode_enabled=False)
        self.processing = self.controller._processing_controller
        self.actions = self.processing._actions_view
        self.status = self.view.processing_status_view
        self.parameter = model.processing_core.algorithm_parameter
        self.controller.show_main_window('Ptychodus')
        self.controller._swap_central_widgets(self.view.processing_action)
        diffraction = model.workflow_api.load_assembled_diffraction_data(folder / 'diffraction.h5')
        model.workflow_api.load_product(folder / 'product.h5', diffraction=diffraction)
        self.wait(lambda: self.actions.reconstruct_button.isEnabled())

    @property
    def reconstructor(self):
        return self.parameter.get_current_reconstructor()

    @property
    def log(self):
        return self.status.text_edit.toPlainText()

    @property
    def settings_view(self):
        return self.processing._stacked_widget.currentWidget()

    def wait(self, condition, hang_s=300.0):
        """Waits for what must come; only a program that hangs takes as long as `hang_s`."""
        end_s = time.monotonic() + hang_s
        while not condition():
            if time.monotonic() > end_s:
                raise TimeoutError(self.log)
            APPLICATION.processEvents()
            self.model.run_tasks()
            time.sleep(0.02)

    def is_working(self):
        return self.model.processing_core.processing_api.task_monitor.is_processing

    def wait_for_work(self):
        self.wait(self.is_working)
        self.wait(lambda: not self.is_working())
        self.wait(lambda: not self.status.progress_bar.isVisible())

    def widget(self, kind, label):
        for candidate in self.settings_view.findChildren(QLabel):
            if candidate.text() == label:
                buddy = candidate.buddy()
                return buddy if isinstance(buddy, kind) else buddy.findChild(kind)
        raise AssertionError(f'no {label}')
