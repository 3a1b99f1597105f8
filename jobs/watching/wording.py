"""How far a job is, in words: for the terminal and for the board."""

from __future__ import annotations

from datetime import timedelta

from jobs.watching.job_traces import Progress


def progress_line(progress: Progress) -> str:
    """epoch 3/40, step 12/200, 803 images/s, loss 24.1, 0:03:10 left."""
    if not progress.total:
        return ""
    if not progress.epochs:
        return f"{100 * progress.done // progress.total} % done"
    parts = [f"epoch {progress.epoch}/{progress.epochs}, step {progress.done:,}/{progress.total:,}"]
    if progress.images_per_s:
        parts.append(f"{progress.images_per_s:,.0f} images/s")
    if progress.loss == progress.loss:
        parts.append(f"loss {progress.loss:.4g}")
    if progress.eta_s:
        parts.append(f"{clock(progress.eta_s)} left")
    return ", ".join(parts)


def pace_line(progress: Progress) -> str:
    """Steps of 310 ms (95 % under 420), 2 % waiting for data, MFU 41 %; as far as it is known."""
    parts = []
    if progress.step_ms_p50:
        parts.append(f"steps of {progress.step_ms_p50:,.0f} ms (95 % under {progress.step_ms_p95:,.0f})")
    if progress.data_wait_share == progress.data_wait_share:
        parts.append(f"{progress.data_wait_share:.0%} waiting for data")
    if progress.mfu:
        parts.append(f"MFU {progress.mfu:.0%}")
    if progress.slowest:
        parts.append(f"slowest {progress.slowest}: {progress.slowest_factor:.2f} of the median")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """0:03:10, and with days 2 days, 0:03:10."""
    return str(timedelta(seconds=round(seconds)))
