"""The worker: a process that receives chunks of samples over one pipe, encodes them, and sends the results back.

Started by encoder_pool.py as `python -m dataprep.writing.encoder_process FD`. It leaves by itself when the pipe closes,
so that no worker outlives a parent that was killed.
"""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection

from dataprep.writing.images import ImageOptions
from dataprep.writing.sample_encoding import encode_chunk


def main() -> None:
    """Serve chunks until the parent closes the pipe or dies."""
    connection = Connection(int(sys.argv[1]))
    try:
        options: ImageOptions = connection.recv()
        while True:
            connection.send(encode_chunk(connection.recv(), options))
    except (EOFError, OSError):  # the pipe, nothing else: what happens to a sample is caught with the sample
        return


if __name__ == "__main__":
    main()
