"""`ptychodus-pinn live`: from a source to files, a page and the image of the whole."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.commands import live as live_command
from ptychodus_pinn_torch.live.live_reconstruction import LiveReconstruction
from ptychodus_pinn_torch.live.page import LivePage
from ptychodus_pinn_torch.scan.io.images import read_image
from ptychodus_pinn_torch.scan.io.output import write_scan_npz
from ptychodus_pinn_torch.scan.scan import Scan


@pytest.fixture(scope='module')
def scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scan = pinn.simulate(
        pattern_size=32, num_positions=144, step_px=3.0, object_kind='leaves', seed=5
    )
    return write_scan_npz(tmp_path_factory.mktemp('scan') / 'scan.npz', scan)


def replay(scan_file: Path, folder: Path, rate: int = 300) -> threading.Thread:
    words = ['replay', str(scan_file), '--folder', str(folder), '--rate', str(rate), '--quiet']
    thread = threading.Thread(target=main, args=(words,), daemon=True)
    thread.start()
    return thread


class Viewer:
    """Looks at a page as a browser does, until it cannot be reached."""

    def __init__(self) -> None:
        self.sentences, self.picture = [''], b''
        self.thread = threading.Thread(target=self._look, daemon=True)

    def watch(self, address: str) -> None:
        if not self.thread.ident:
            self._address = address
            self.thread.start()

    def _look(self) -> None:
        shown = 0
        with contextlib.suppress(OSError):
            while True:
                with urllib.request.urlopen(self._address + 'status.json') as answer:
                    status = json.loads(answer.read())
                self.sentences.append(status['sentence'])
                if status['picture'] > shown:
                    shown = status['picture']
                    with urllib.request.urlopen(self._address + 'image.png') as answer:
                        self.picture = answer.read()
                time.sleep(0.1)


def test_a_scan_that_arrives_becomes_files_and_a_page(
    scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    seen: list[Any] = []
    viewer = Viewer()
    update = live_command._Output.update

    def look(self: Any, arguments: Any, *, is_last: bool = False) -> None:
        update(self, arguments, is_last=is_last)
        viewer.watch(self._page.address)
        if self._page.number and len(seen) < 2:
            for name in ('', 'status.json', 'image.png'):
                with urllib.request.urlopen(self._page.address + name) as answer:
                    seen.append((name, answer.headers['Content-Type'], answer.read()))

    prepare = LiveReconstruction.prepare

    def then_replay(self: LiveReconstruction) -> None:
        prepare(self)
        replay(scan_file, source, rate=40)

    monkeypatch.setattr(live_command._Output, 'update', look)
    monkeypatch.setattr(LiveReconstruction, 'prepare', then_replay)
    out, source = tmp_path / 'out', tmp_path / 'in'
    words = ['live', '--probe', scan_file, '--output', out, '--folder', source, '--every', '0.3']
    assert main([*map(str, words), '--serve', '0', '--json', '--threads', '1']) == 0
    told = json.loads(capsys.readouterr().out)
    assert told['status']['joined'] == told['status']['frames'] == 144
    assert told['verdict'] == 'right' and told['status']['late'] == 0
    shape = pinn.read_scan(scan_file).positions_px.shape
    assert read_image(out / 'image.npz').positions_px.shape == shape  # type: ignore[union-attr]
    assert read_image(out / 'product.h5').object_.ndim == 2
    assert (out / 'live.png').stat().st_size > 5000 and (out / 'image.png').is_file()
    kinds = {name: (kind, body) for name, kind, body in seen}
    assert b'Live reconstruction' in kinds[''][1] and 'html' in kinds[''][0]
    assert kinds['image.png'][1].startswith(b'\x89PNG')
    status = json.loads(kinds['status.json'][1])
    assert status['frames'] > 0 and 'joined frames in the image' in status['sentence']
    viewer.thread.join(60.0)
    assert any('the final image: refine' in text for text in viewer.sentences)
    assert 'the image is right' in viewer.sentences[-1]
    assert viewer.picture == (out / 'image.png').read_bytes()


def test_an_interrupted_run_goes_on_where_it_was(
    scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    out, source = tmp_path / 'out', tmp_path / 'in'
    replay(scan_file, source).join()
    files = sorted(source.glob('*.npz'))
    later = tmp_path / 'later'
    later.mkdir()
    for path in files[len(files) // 2 :]:
        path.rename(later / path.name)
    words = ['live', '--probe', str(scan_file), '--output', str(out), '--quiet', '--threads', '1']
    finish = live_command._finish

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(live_command, '_finish', stop)
    assert main([*words, '--folder', str(source)]) == 130
    monkeypatch.setattr(live_command, '_finish', finish)
    assert main([*words, '--folder', str(source)]) == 1
    assert 'holds a journal already: resume it' in capsys.readouterr().err
    (later / 'finished').touch()
    other = write_scan_npz(
        tmp_path / 'other.npz', pinn.simulate(pattern_size=32, num_positions=36, probe_kind='kb')
    )
    words[2] = str(other)
    assert main([*words, '--folder', str(later), '--resume']) == 2
    assert 'other.npz: has another probe than the journal' in capsys.readouterr().err
    words[2] = str(scan_file)
    assert main([*words, '--folder', str(later), '--resume', '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert told['status']['joined'] == 144 and told['verdict'] == 'right'
    assert main([*words, '--folder', str(later)]) == 1
    assert 'exists already' in capsys.readouterr().err


def test_what_a_run_reads_is_not_replaced_when_it_goes_on(
    scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    out.mkdir()
    shutil.copyfile(scan_file, out / 'image.npz')
    before = (out / 'image.npz').read_bytes()
    for flag in ('--resume', '--overwrite'):
        words = ['live', '--probe', out / 'image.npz', '--output', out, '--folder', tmp_path, flag]
        assert main([str(word) for word in words]) == 2
        assert 'image.npz: is an input of this command' in capsys.readouterr().err
    assert (out / 'image.npz').read_bytes() == before


@pytest.mark.parametrize(
    ('words', 'status', 'reason'),
    [
        ([], 2, 'nothing to take frames from'),
        (['--folder', 'SCAN'], 1, 'is no folder'),
        (['--hdf5', 'SCAN'], 1, 'cannot be read as HDF5'),
        (['--folder', 'empty', '--idle', '0.3'], 1, 'no frame has both'),
        (['--folder', 'empty', '--resume'], 1, 'holds no journal'),
        (['--folder', 'empty', '--model', 'none.h5.zip', '--idle', '0.3'], 1, ''),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    scan_file: Path, tmp_path: Path, words: list[str], status: int, reason: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    words = [str(scan_file) if word == 'SCAN' else word for word in words]
    begin = ['live', '--probe', str(scan_file), '--output', 'out']
    assert main([*begin, *words]) == status
    told = capsys.readouterr().err
    assert reason in told and 'Traceback' not in told


def test_the_page_is_read_only_and_bound_to_this_machine() -> None:
    page = LivePage(0, lambda: {'sentence': 'x', 'trouble': '', 'picture': 0})
    try:
        assert page.address.startswith('http://127.0.0.1:')
        for path, method in (('image.png', 'GET'), ('../etc/passwd', 'GET'), ('', 'POST')):
            request = urllib.request.Request(page.address + path, method=method)
            with pytest.raises(urllib.error.HTTPError) as found:
                urllib.request.urlopen(request)
            assert found.value.code in (404, 501)
            found.value.close()
    finally:
        page.close()


STATUS = {'sentence': 'x', 'trouble': '', 'picture': 0}


@pytest.fixture
def page() -> Iterator[LivePage]:
    shown = LivePage(0, lambda: STATUS)
    yield shown
    shown.close()


@pytest.mark.parametrize(
    ('host', 'status'),
    [('127.0.0.1:PORT', 200), ('localhost:PORT', 200), ('localhost', 403), ('evil.example', 403),
     ('evil.example:PORT', 403), ('127.0.0.1:1', 403), ('', 403)],
)  # fmt: skip
@pytest.mark.parametrize('method', ['GET', 'HEAD'])
def test_the_page_answers_to_its_own_name_only(
    page: LivePage, host: str, status: int, method: str
) -> None:
    port = int(page.address.rstrip('/').rpartition(':')[2])
    connection = http.client.HTTPConnection('127.0.0.1', port)
    connection.request(method, '/status.json', headers={'Host': host.replace('PORT', str(port))})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == status
    if status == 200:
        assert body == (b'' if method == 'HEAD' else json.dumps(STATUS).encode())
        assert int(answer.headers['Content-Length']) > 0


def test_a_browser_that_leaves_is_no_trouble(
    page: LivePage, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    page.show(b'x' * 10_000_000)
    port = int(page.address.rstrip('/').rpartition(':')[2])
    for _ in range(5):
        with socket.create_connection(('127.0.0.1', port)) as connection:
            connection.sendall(b'GET /image.png HTTP/1.1\r\nHost: localhost:%d\r\n\r\n' % port)
            connection.recv(10)
            linger = struct.pack('ii', 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    wait = time.monotonic() + 5.0
    while threading.active_count() > 2 and time.monotonic() < wait:
        time.sleep(0.02)
    told = capfd.readouterr()
    assert told.err == told.out == caplog.text == ''
    assert urllib.request.urlopen(page.address).status == 200


def test_a_browser_that_says_nothing_is_left_alone(
    page: LivePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page._server.RequestHandlerClass, 'timeout', 0.1)
    port = int(page.address.rstrip('/').rpartition(':')[2])
    with socket.create_connection(('127.0.0.1', port), timeout=20.0) as connection:
        connection.sendall(b'GET / HTT')
        assert connection.recv(10) == b'', 'the page hangs up'


def test_a_product_serves_as_the_probe(scan_file: Path, tmp_path: Path, tiny_scan: Scan) -> None:
    known = live_command._known(scan_file)
    assert known.pixel_size_m is not None and known.probe.shape == (1, 32, 32)
    numpy.savez(tmp_path / 'p.npz', object=numpy.ones((4, 4)), probe=tiny_scan.probe)
    assert live_command._known(tmp_path / 'p.npz').probe.shape == tiny_scan.probe.shape
    numpy.savez(tmp_path / 'q.npz', object=numpy.ones((4, 4)))
    with pytest.raises(ValueError, match='q.npz: holds no probe'):
        live_command._known(tmp_path / 'q.npz')
