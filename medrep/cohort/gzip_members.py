"""The content of a gzip file, checked: one door for every packed image.

A gzip file is one member or several, one behind the other (RFC 1952; block-wise packers write many), each with the checksum
and the length of its content; zeros behind the last are padding, as tapes and block devices leave it and as gzip itself
takes it. All of that is read. Anything else behind the last member, an end that is missing, and a checksum or a length
that does not fit are damage.
"""

from isal import isal_zlib

from medrep.errors import CohortError

GZIP_MAGIC = b"\x1f\x8b"
"""How a gzip file begins."""

_GZIP = 31  # window bits, and a gzip header around
_PIECE = 2**20
_MOST_BEHIND = 2**30  # a small file can unpack to a thousand times its size, and holds who reads it


class GzipContent:
    """What is packed in a gzip file in memory, handed out from front to end; only after `finish` it is known to be whole.

    Args:
        packed: The file.

    Raises:
        CohortError: No gzip file; one line without the file's name, as from all methods.
    """

    def __init__(self, packed: bytes) -> None:
        if not packed.startswith(GZIP_MAGIC):
            raise CohortError("it is not packed, whatever its name says")
        self._pending, self._stream, self._ended = packed, isal_zlib.decompressobj(_GZIP), False

    def take(self, count: int) -> bytes:
        """Return the next bytes of the content; fewer only at its end.

        Args:
            count: How many at most; no more memory than that is taken.

        Raises:
            CohortError: Damage.
        """
        pieces: list[bytes] = []
        while count > 0 and not self._ended:
            piece = self._piece(count)
            pieces.append(piece)
            count -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def finish(self) -> int:
        """Check what has not been taken, without keeping it.

        Returns:
            How many bytes were left, the last of them one that is not zero; 0 where nothing but zeros was left.

        Raises:
            CohortError: Damage.
        """
        count = last = 0
        while not self._ended:
            piece = self._piece(_PIECE)
            filled = len(piece.rstrip(b"\0"))
            last = count + filled if filled else last
            count += len(piece)
            if count > _MOST_BEHIND:
                raise CohortError(f"more than {_MOST_BEHIND} bytes behind what its header tells of")
        return last

    def _piece(self, most: int) -> bytes:
        before = len(self._pending)
        try:
            piece = self._stream.decompress(self._pending, most)
        except isal_zlib.error as error:  # type: ignore[misc]  # its stub takes the class for an instance
            raise CohortError(_told(str(error))) from None
        if self._stream.eof:
            self._pending = self._stream.unused_data.lstrip(b"\0")
            if self._pending and not self._pending.startswith(GZIP_MAGIC):
                raise CohortError(f"{len(self._pending)} bytes behind its end are no part of it")
            self._ended = not self._pending
            self._stream = isal_zlib.decompressobj(_GZIP)
            return piece
        self._pending = self._stream.unconsumed_tail
        if not piece and len(self._pending) == before:
            raise CohortError("its end is missing")
        return piece


def _told(error: str) -> str:
    """Return what isal found, in words."""
    if "checksum" in error.lower():
        return "its checksum does not fit, so at least one bit of it is not what was written"
    return f"it cannot be unpacked ({error})"
