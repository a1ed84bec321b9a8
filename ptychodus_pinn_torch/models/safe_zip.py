"""Zip files of unknown origin: members by name, with limits."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ['ArchiveError', 'SafeZip']

MAX_MEMBER_BYTES = 2**31
MAX_MEMBERS = 4096
MAX_RATIO = 20
"""Weights hardly shrink (the shipped model by 8 %); what grows more than this is a bomb."""
MIN_ALLOWANCE = 2**23
"""Bytes that a file of any size may unpack to."""

_PACKINGS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
    IndexError,
    OSError,
)
"""What Python's zip reader raises on damaged files; places beyond the end give an OSError."""


class ArchiveError(ValueError):
    """A model that cannot be used; the message names the file and the reason."""


@dataclass
class _Allowance:
    """How many bytes a file, with all that is in it, may still unpack to."""

    left: int
    size: int


class SafeZip:
    """Reads members into memory; writes nothing, follows nothing, keeps no file open.

    Args:
        file: The path of a zip, or its bytes.
        source: What to call it in messages.
        within: The zip that it is a member of; they share what they may unpack to.

    Raises:
        ArchiveError: not a zip, damaged, too many members, a name twice, or one that leads out.
    """

    def __init__(self, file: Path | bytes, source: str, *, within: SafeZip | None = None) -> None:
        self.source, self._file = source, file
        size = len(file) if isinstance(file, bytes) else file.stat().st_size
        self._allowance: _Allowance = (
            _Allowance(max(MIN_ALLOWANCE, MAX_RATIO * size), size)
            if within is None
            else within._allowance
        )
        self._members: dict[str, zipfile.ZipInfo] = {}
        with self._open('') as bundle:
            items = bundle.infolist()
        if items and min(item.header_offset for item in items) > 0:
            # what was found is the end of a zip inside this one
            raise ArchiveError(f'{source}: is no zip, or is damaged or cut short: copy it again.')
        if len(items) > MAX_MEMBERS:
            raise ArchiveError(f'{source}: holds {len(items)} members: refused.')
        for item in items:
            self._add(item)

    def _add(self, item: zipfile.ZipInfo) -> None:
        name = item.filename
        if '..' in Path(name.replace('\\', '/')).parts or name[:1] in {'/', '\\'} or ':' in name:
            raise ArchiveError(
                f'{self.source}: the member {name!r} leads out of the archive: refused.'
            )
        if name in self._members:
            raise ArchiveError(f'{self.source}: holds {name!r} twice: it is damaged or forged.')
        if item.compress_type not in _PACKINGS:
            raise ArchiveError(
                f'{self.source}: {name!r} is packed as no model is: it is damaged or forged.'
            )
        self._members[name] = item

    @contextmanager
    def _open(self, name: str) -> Iterator[zipfile.ZipFile]:
        """Gives the zip; damage that is met becomes a sentence that names the member."""
        try:
            file = io.BytesIO(self._file) if isinstance(self._file, bytes) else self._file
            with zipfile.ZipFile(file) as bundle:
                yield bundle
        except (ArchiveError, FileNotFoundError, PermissionError):
            raise
        except _DAMAGE as error:
            reason = f'{name} is damaged' if name else 'is no zip, or is damaged or cut short'
            raise ArchiveError(f'{self.source}: {reason}: copy it again.') from error

    @property
    def names(self) -> list[str]:
        """The names of the members."""
        return list(self._members)

    def shown(self) -> str:
        """Returns the first names, for messages."""
        return ', '.join(sorted(self._members)[:6]) or 'nothing'

    def read(self, name: str, most_bytes: int = MAX_MEMBER_BYTES) -> bytes:
        """Returns a member.

        Raises:
            ArchiveError: it is missing, damaged, encrypted, longer than `most_bytes`, or all that
                was read by now is more than data of models can shrink to the file.
        """
        if name not in self._members:
            raise ArchiveError(f'{self.source}: {name} is missing; it holds {self.shown()}.')
        item = self._members[name]
        if item.file_size > most_bytes:
            raise ArchiveError(
                f'{self.source}: {name} would unpack to {item.file_size} bytes, which is larger '
                f'than {most_bytes}: refused.'
            )
        self.spend(item.file_size, name)
        with self._open(name) as bundle, bundle.open(item) as member:
            data = member.read(item.file_size + 1)
        if len(data) != item.file_size:
            raise ArchiveError(f'{self.source}: {name} has another length than it says: refused.')
        return data

    def spend(self, num_bytes: int, name: str) -> None:
        """Counts bytes that are made of the file.

        Raises:
            ArchiveError: they are more than data of models can shrink to.
        """
        self._allowance.left -= num_bytes
        if self._allowance.left < 0:
            raise ArchiveError(
                f'{self.source}: {name} would unpack to {num_bytes} bytes from a file of '
                f'{self._allowance.size}: refused.'
            )

    def inside(self, name: str) -> SafeZip:
        """Returns the zip that is a member of this one.

        Raises:
            ArchiveError: as `read`; or it is no zip.
        """
        return SafeZip(self.read(name), f'{self.source}: {name}', within=self)
