"""Zip files of unknown origin: members by name, with limits."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ['ArchiveError', 'SafeZip']

MAX_MEMBER_BYTES = 2**30
MAX_BYTES = 2**32
MAX_MEMBERS = 4096
MAX_RATIO = 400
"""Weights hardly shrink; a member that grows more than this when unpacked is a bomb."""

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


class SafeZip:
    """Reads members into memory; writes nothing, follows nothing, keeps no file open.

    Args:
        file: The path of a zip, or its bytes.
        source: What to call it in messages.

    Raises:
        ArchiveError: not a zip, damaged, too many members, a name twice, or one that leads out.
    """

    def __init__(self, file: Path | bytes, source: str) -> None:
        self.source, self._file = source, file
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

    def read(self, name: str, most_bytes: int | None = None) -> bytes:
        """Returns a member.

        Without a greatest length, it is bound by how far data of models can shrink.

        Raises:
            ArchiveError: it is missing, damaged, encrypted, or too large.
        """
        if name not in self._members:
            raise ArchiveError(f'{self.source}: {name} is missing; it holds {self.shown()}.')
        item = self._members[name]
        limit = min(MAX_MEMBER_BYTES, MAX_RATIO * max(item.compress_size, 1024))
        limit = limit if most_bytes is None else most_bytes
        if item.file_size > limit:
            raise ArchiveError(
                f'{self.source}: {name} would unpack to {item.file_size} bytes from '
                f'{item.compress_size}, which is larger than {limit}: refused.'
            )
        with self._open(name) as bundle, bundle.open(item) as member:
            data = member.read(limit + 1)
        if len(data) != item.file_size:
            raise ArchiveError(f'{self.source}: {name} has another length than it says: refused.')
        return data

    def repacked(self) -> io.BytesIO:
        """Returns a new zip of all members, every one of them checked against its sum.

        A reader that is less careful than this one then sees what was checked, and nothing else.
        """
        total = sum(item.file_size for item in self._members.values())
        if total > MAX_BYTES:
            raise ArchiveError(f'{self.source}: would unpack to {total} bytes: refused.')
        copy = io.BytesIO()
        with zipfile.ZipFile(copy, 'w') as target:
            for name in self._members:
                target.writestr(zipfile.ZipInfo(name), self.read(name))
        copy.seek(0)
        return copy
