"""Processes that encode chunks in parallel and hand them back in order; a dead one is an error, never a hang.

Not concurrent.futures: its workers share one result pipe, and a worker killed in the middle of a message leaves the
parent waiting for the rest of it for ever. Here every worker has a pipe of its own, so that a death is an end of file.
Not multiprocessing's spawn: it imports the caller's main module into every worker (for a training job all of torch).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import cast

from dataprep.writing.images import ImageOptions
from dataprep.writing.sample_encoding import Chunk, Result, encode_chunk

_CHUNKS_AHEAD_PER_WORKER = 2
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 26)}
"""glibc gives a chunk's memory back and has the kernel clear it anew for the next: a tenth of a worker's time."""


class WorkerDied(RuntimeError):
    """An encoder process ended before its work did; `chunk` is what it was working on."""

    def __init__(self, message: str, chunk: int) -> None:
        super().__init__(message)
        self.chunk = chunk


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    chunk: int = -1
    """Number of the chunk that it is working on; -1 when idle."""


class EncoderPool:
    """`num_workers` encoder processes; none for 0, when chunks are encoded in this process."""

    def __init__(self, num_workers: int, options: ImageOptions) -> None:
        self._options = options
        self._workers: list[_Worker] = []
        try:
            for _ in range(num_workers):
                self._workers.append(_start_worker())
                self._workers[-1].connection.send(options)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> EncoderPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    def encode(self, num_chunks: int, get_chunk: Callable[[int], Chunk]) -> Iterator[list[Result]]:
        """Results of chunks 0..num_chunks-1 in order; `get_chunk` is called when a worker is free for it.

        At most two chunks per worker are under way or waiting to be taken. WorkerDied names the worker and its chunk.
        """
        if not self._workers:
            for number in range(num_chunks):
                yield encode_chunk(get_chunk(number), self._options)
            return
        finished: dict[int, list[Result]] = {}
        next_out = next_in = 0
        while next_out < num_chunks:
            limit = min(num_chunks, next_out + _CHUNKS_AHEAD_PER_WORKER * len(self._workers))
            for worker in self._workers:
                if worker.chunk < 0 and next_in < limit:
                    self._send(worker, next_in, get_chunk(next_in))
                    next_in += 1
            if next_out in finished:
                yield finished.pop(next_out)
                next_out += 1
                continue
            busy = {worker.connection.fileno(): worker for worker in self._workers if worker.chunk >= 0}
            for ready in wait(list(busy)):
                worker = busy[cast(int, ready)]
                finished[worker.chunk] = self._receive(worker)
                worker.chunk = -1

    def _send(self, worker: _Worker, number: int, chunk: Chunk) -> None:
        worker.chunk = number
        try:
            worker.connection.send(chunk)
        except OSError as error:
            raise _death(worker) from error

    def _receive(self, worker: _Worker) -> list[Result]:
        try:
            results: list[Result] = worker.connection.recv()
        except (EOFError, OSError) as error:
            raise _death(worker) from error
        return results

    def close(self) -> None:
        """End all workers, whatever they are doing."""
        for worker in self._workers:
            worker.connection.close()
            worker.process.terminate()
        for worker in self._workers:
            try:
                worker.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers = []


def _start_worker() -> _Worker:
    """A fresh interpreter in a process group of its own (a terminal's Ctrl-C reaches the parent only)."""
    parent_end, child_end = Pipe(duplex=True)
    project = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([project, *filter(None, [os.environ.get("PYTHONPATH")])])
    with contextlib.closing(child_end):
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dataprep.writing.encoder_process", str(child_end.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[child_end.fileno()],
            process_group=0,
            env={**_KEEP_MEMORY, **os.environ, "PYTHONPATH": path},
        )
    return _Worker(process, parent_end)


def _death(worker: _Worker) -> WorkerDied:
    """What to say of a worker whose pipe has closed."""
    pid = worker.process.pid
    try:
        code = worker.process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return WorkerDied(f"encoder process {pid} closed its pipe", worker.chunk)
    if code >= 0:
        return WorkerDied(f"encoder process {pid} ended with exit code {code}", worker.chunk)
    name = signal.Signals(-code).name
    cause = " (out of memory? try fewer --num-workers)" if name == "SIGKILL" else ""
    return WorkerDied(f"encoder process {pid} was ended by {name}{cause}", worker.chunk)
