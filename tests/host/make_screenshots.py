"""Makes the pictures of the documentation: python tests/host/make_screenshots.py docs/pictures."""

import logging
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault('QT_QPA_PLATFORM', 'offscreen')
sys.path.insert(0, str(Path(__file__).parent))

import numpy
from gui_window import APPLICATION, Window
from ptychodus.api.reconstruct import ReconstructInput
from ptychodus.model import ModelCore
from staging import stage

from ptychodus_pinn_torch.scan.io.products import make_host_product
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan

WIDTH_PX, HEIGHT_PX = 1180, 800


def make_parameters():
    """Returns a simulated scan, as Ptychodus hands it to a reconstructor."""
    spec = SimulationSpec(pattern_size=64, num_positions=225, step_px=5.0, photons=3e5, seed=4)
    scan = simulate_scan(spec)
    product = make_host_product(
        scan, numpy.ones_like(scan.object_), scan.positions_px, scan.probe, []
    )
    product = replace(product, metadata=replace(product.metadata, name='sample'))
    return ReconstructInput(numpy.asarray(scan.patterns), ~scan.good_pixels, product)


def photograph(window, path):
    """Writes a picture of the window."""
    end_s = time.monotonic() + 1.5
    while time.monotonic() < end_s:
        APPLICATION.processEvents()
        window.model.run_tasks()
        time.sleep(0.02)
    window.view.grab().save(str(path))


def show_object(window, row):
    """Shows the object of a product."""
    window.controller._swap_central_widgets(window.view.object_action)
    tree = window.view.object_view.tree_view
    window.view.object_action.setChecked(True)
    tree.setCurrentIndex(tree.model().index(row, 0))
    ribbon = window.view.object_image_view.image_ribbon
    ribbon.colormap_group_box.renderer_combo_box.setCurrentText('Phase')
    ribbon.colormap_group_box.renderer_combo_box.textActivated.emit('Phase')
    ribbon.data_range_group_box.auto_button.click()
    ribbon.image_tools_group_box.home_button.click()
    APPLICATION.processEvents()
    ribbon.image_tools_group_box.home_button.click()


def main(pictures):
    """Trains, infers, and photographs each step."""
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, ModelCore(log_level=logging.INFO) as model:
        staged = stage(Path(folder) / 'in', make_parameters())
        training = Path(folder) / 'training'
        training.mkdir()
        window = Window(model, staged)
        window.view.resize(WIDTH_PX, HEIGHT_PX)
        window.view.processing_action.setChecked(True)
        settings = window.reconstructor._settings
        settings.get_parameter('training.max_steps').set_value(os.environ.get('STEPS', '120'))
        photograph(window, pictures / 'gui_processing.png')

        factory = window.processing._file_dialog_factory
        factory.get_save_file_path = lambda *a, **k: (training / 'train_data.npz', '')
        factory.get_existing_directory_path = lambda *a, **k: training
        window.processing._export_training_data_action.trigger()
        window.actions.train_button.click()
        bar = window.status.progress_bar
        window.wait(lambda: bar.value() > 0.6 * bar.maximum() > 30, hang_s=900)
        photograph(window, pictures / 'gui_training.png')
        window.wait(lambda: not window.is_working(), hang_s=900)
        window.actions.reconstruct_button.click()
        window.wait_for_work()
        photograph(window, pictures / 'gui_infer.png')
        show_object(window, 1)
        photograph(window, pictures / 'gui_object.png')
        sys.stdout.flush()
        os._exit(0)  # Qt crashes when Python collects the widgets in the wrong order


if __name__ == '__main__':
    main(Path(sys.argv[1]))
