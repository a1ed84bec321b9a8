"""The last door before the terminal: what leaves is plain text, and an error is one sentence."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ['TRACEBACK_VARIABLE', 'PlainStream', 'explain', 'plain_streams', 'plain_text']

TRACEBACK_VARIABLE = 'PTYCHODUS_PINN_TRACEBACK'
"""The environment variable; where it is set, errors come with their traceback."""

MAX_LENGTH = 2000
ERASE_LINE = '\r\033[K'
"""What our own progress lines begin with."""

_CONTROLS = (
    *(code for code in range(0x20) if chr(code) not in '\n\t'),
    *range(0x7F, 0xA0),
    *range(0x2028, 0x202F),  # ends of lines and directions of writing
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),  # bytes of file names that are no text
)
_ESCAPED = {code: f'\\x{code:02x}' if code < 0x100 else f'\\u{code:04x}' for code in _CONTROLS}
_EXPECTED = (ValueError, OSError, RuntimeError, MemoryError, ImportError)
"""What we raise ourselves, with a sentence."""


def plain_text(text: str) -> str:
    """Returns the text with control characters, and bytes that are no text, shown by their escapes."""
    return text.translate(_ESCAPED)


class PlainStream:
    """A stream that shows control characters by their escapes, for names and texts come from files.

    Args:
        stream: Where the text goes.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.is_closed_by_reader = False

    def write(self, text: str) -> int:
        """Returns the length of the text, which was written without control characters."""
        start = ERASE_LINE if text.startswith(ERASE_LINE) else ''
        plain = start + plain_text(text[len(start) :])
        encoding = getattr(self._stream, 'encoding', None) or 'utf-8'
        with self._noticing_the_end():
            self._stream.write(plain.encode(encoding, 'backslashreplace').decode(encoding))
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        """Writes all of them."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Writes what waits."""
        with self._noticing_the_end():
            self._stream.flush()

    @contextlib.contextmanager
    def _noticing_the_end(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.is_closed_by_reader = True
            with contextlib.suppress(OSError, ValueError):  # Python flushes again when it ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def plain_streams() -> Iterator[PlainStream]:
    """Lets stdout and stderr be plain; gives stdout."""
    stdout = PlainStream(sys.stdout)
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(PlainStream(sys.stderr)):  # type: ignore[type-var]
        yield stdout


def explain(error: BaseException, inputs: Sequence[str]) -> str:
    """Returns one sentence about an error, which names the files that were read.

    What is none of our own errors is a defect, or a damaged file; the sentence says so.
    """
    text = _text_of(error)
    if not _is_expected(error):
        text = (
            f'{type(error).__name__}: {text}: a damaged file, or a defect of the program '
            f'({TRACEBACK_VARIABLE}=1 shows where).'
        )
    if inputs and not any(Path(item).name in text for item in inputs):
        text = f'{", ".join(inputs[:3])}: {text}'
    return text if len(text) <= MAX_LENGTH else f'{text[: MAX_LENGTH - 200]} ... {text[-200:]}'


def _is_expected(error: BaseException) -> bool:
    if isinstance(error, (RecursionError, NotImplementedError, UnicodeError)):
        return False
    # a KeyError of ours is a sentence, one of others the key alone
    return isinstance(error, _EXPECTED) or isinstance(error, KeyError) and ' ' in str(error)


def _text_of(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f'{error.filename}: {error.strerror}.'
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, MemoryError):
        text = f'there is not enough memory: {text or "use less of the scan at once"}'
    return ' '.join(text.split()) or type(error).__name__
