"""Zip files of unknown origin: members by name, with limits."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

from .archive import ArchiveError

__all__ = ['MAX_MEMBER_BYTES', 'SafeZip']

MAX_MEMBER_BYTES = 2**30
MAX_MEMBERS = 4096
MAX_RATIO = 400
"""Weights hardly shrink; a member that grows more than this when unpacked is a bomb."""


class SafeZip:
    """Reads members into memory; writes nothing, follows nothing.

    Raises:
        ArchiveError: not a zip, damaged, too many members, a name twice, or one that leads out.
    """

    def __init__(self, file: Path | bytes, source: str) -> None:
        self.source = source
        self._sizes: dict[str, zipfile.ZipInfo] = {}
        try:
            self._bundle = zipfile.ZipFile(io.BytesIO(file) if isinstance(file, bytes) else file)
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
            raise ArchiveError(f'{source}: is no zip, or is cut short: copy it again.') from error
        items = self._bundle.infolist()
        if items and min(item.header_offset for item in items) > 0:
            # what was found is the end of a zip inside this one
            raise ArchiveError(f'{source}: is no zip, or is cut short: copy it again.')
        if len(items) > MAX_MEMBERS:
            raise ArchiveError(f'{source}: holds {len(items)} members: refused.')
        for item in items:
            parts = Path(item.filename.replace('\\', '/')).parts
            if '..' in parts or item.filename.startswith(('/', '\\')) or ':' in item.filename:
                raise ArchiveError(
                    f'{source}: the member {item.filename!r} leads out of the archive: refused.'
                )
            if item.filename in self._sizes:
                raise ArchiveError(
                    f'{source}: holds {item.filename!r} twice: it is damaged or forged.'
                )
            self._sizes[item.filename] = item

    @property
    def names(self) -> list[str]:
        """The names of the members."""
        return list(self._sizes)

    def read(self, name: str) -> bytes:
        """Returns a member.

        Raises:
            ArchiveError: it is missing, damaged, encrypted, or too large.
        """
        if name not in self._sizes:
            shown = ', '.join(self.names[:8]) or 'nothing'
            raise ArchiveError(f'{self.source}: {name} is missing; it holds {shown}.')
        item = self._sizes[name]
        limit = min(MAX_MEMBER_BYTES, MAX_RATIO * max(item.compress_size, 1024))
        if item.file_size > limit:
            raise ArchiveError(
                f'{self.source}: {name} would unpack to {item.file_size} bytes from '
                f'{item.compress_size}: refused.'
            )
        try:
            with self._bundle.open(item) as member:
                data = member.read(limit + 1)
        except (
            zipfile.BadZipFile,
            EOFError,
            zlib.error,
            RuntimeError,
            NotImplementedError,
            ValueError,
        ) as error:
            raise ArchiveError(f'{self.source}: {name} is damaged: copy it again.') from error
        if len(data) > limit:
            raise ArchiveError(f'{self.source}: {name} is larger than it says: refused.')
        return data
