"""Unix sockets that another program connects to: we listen before it runs, so that nobody has to wait."""

from __future__ import annotations

import socket
from pathlib import Path

from blindbuild.errors import MachineError


def listen_at(path: Path) -> socket.socket:
    """Return a listening stream socket at `path`, for one connection at a time.

    Raises:
        MachineError: the path is taken, too long for a socket, or not writable.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        listener.listen(1)
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        raise MachineError(
            f"{path}: cannot listen: {reason}", hint="set TMPDIR to a short path that can be written"
        ) from error
    return listener
