"""What a run would take on 1 to 512 ranks and with each form of the loss, predicted: the tables of --dry-run."""

from __future__ import annotations

from rich.table import Table

from slurm.cluster import Cluster
from vicreg.config import PretrainConfig
from vicreg.cost.loss_form import AUTO, form_of, loss_cost
from vicreg.cost.prediction import predict
from vicreg.losses.forms import Speeds, known_speeds
from vicreg.method import TrainingData

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def scaling_table(config: PretrainConfig, num_steps: int, cluster: Cluster, on_gpu: bool, data: TrainingData) -> Table:
    """Duration, memory and traffic for each number of ranks that divides the batch and leaves every rank two images."""
    things = config.model.sound.samples_are
    title = f"predicted for {config.train.global_batch} {things} a step"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    headings = ("GPUs" if on_gpu else "ranks", "step", f"{things}/s", "network", "loss", "memory", "sent", "whole run")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "loss" else "right", no_wrap=True)
    batch = config.train.global_batch
    for ranks in RANKS:
        if batch % ranks or batch < 2 * ranks:
            continue
        step = predict(config, ranks, on_gpu, speeds_of(cluster, ranks, on_gpu), data)
        table.add_row(
            str(ranks),
            _duration(step.seconds),
            f"{batch / step.seconds:,.0f}",
            f"{step.communication_s / step.seconds:.0%}",
            step.cost.loss_form,
            f"{three_digits(step.cost.memory_bytes / 1e9)} GB",
            f"{step.cost.traffic_bytes / 1e6:,.0f} MB",
            _duration(num_steps * step.seconds) if num_steps else "",
        )
    return table


def forms_table(config: PretrainConfig, ranks: int, cluster: Cluster, on_gpu: bool) -> Table:
    """What each exact form of the loss costs one of so many ranks in a step, and which is taken."""
    speeds, loss = speeds_of(cluster, ranks, on_gpu), loss_cost(config, ranks)
    taken = form_of(config, ranks, speeds)
    title = f"{loss.title} on {ranks} {'GPUs' if on_gpu else 'ranks'}, of one of them"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("loss", "arithmetic", "memory", "sent", "collectives", "time", ""):
        table.add_column(heading, justify="left" if heading in ("loss", "") else "right", no_wrap=True)
    chosen = "taken" if getattr(config.method, "form", AUTO) == AUTO else "forced"
    for form, form_cost in loss.forms.items():
        table.add_row(
            form,
            f"{three_digits(form_cost.flops / 1e9)} GFLOP",
            f"{form_cost.memory_bytes / 1e6:,.0f} MB",
            f"{form_cost.sent_bytes / 1e6:,.0f} MB",
            str(form_cost.num_collectives if ranks > 1 else 0),
            f"{three_digits(1000 * form_cost.seconds(speeds, ranks))} ms",
            chosen if form == taken else "",
        )
    return table


def assumptions(cluster: Cluster, on_gpu: bool) -> str:
    """The speeds that the table rests on, and where they come from."""
    near, far = (speeds_of(cluster, ranks, on_gpu) for ranks in (1, 10**6))
    stated = [name for name in ("gpu_tflops", "interconnect_gb_s", "node_interconnect_gb_s") if getattr(cluster, name)]
    source = f"{', '.join(stated)} of profile {cluster.name}" if stated else "usual numbers; yours: clusters.toml"
    return (
        f"from {far.tflops:g} TFLOP/s a {'GPU' if on_gpu else 'rank'}, {near.link_gb_s:g} GB/s within a node, "
        f"{far.link_gb_s:g} GB/s between nodes, {far.latency_us:g} us a collective ({source}; benchmarks/step.py "
        "measures them); reading data not counted"
    )


def speeds_of(cluster: Cluster, ranks: int, on_gpu: bool) -> Speeds:
    """What a profile states, and usual speeds for what it does not."""
    one_node = ranks <= cluster.gpus_per_node
    return known_speeds(
        "cuda" if on_gpu else "cpu",
        one_node,
        tflops=cluster.gpu_tflops,
        link_gb_s=cluster.node_interconnect_gb_s if one_node else cluster.interconnect_gb_s,
        latency_us=cluster.interconnect_latency_us,
    )


def three_digits(number: float) -> str:
    """Of a number above a thousand all before the point: 2,750 where the usual form has 2.75e+03."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= 2 * size or (unit == "s" and seconds >= 1):
            return f"{seconds / size:.1f} {unit}"
    return f"{1000 * seconds:.0f} ms"
