"""What a run will take, as estimated, is what it takes: files, kept tensors, sent bytes."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.peak_memory import peak_bytes
from vicreg import checkpoint
from vicreg.config import DataConfig, ModelConfig, OptimizerConfig, PretrainConfig, TrainConfig
from vicreg.config_json import to_json
from vicreg.cost.estimate import Cost, estimate
from vicreg.losses.settings import VicregLossConfig as LossConfig
from vicreg.losses.vicreg import vicreg_loss
from vicreg.methods import vicreg
from vicreg.networks import vicreg as vicreg_network
from vicreg.ranks import distributed
from vicreg.ranks.sync_batch_norm import SyncBatchNorm
from vicreg.training.learner import Learner

CPU = torch.device("cpu")


def _config(
    encoder: str = "resnet10-narrow",
    expander: str = "96-64",
    *,
    optimizer: str = "lars",
    side: int = 32,
    small_images: bool = True,
    **train: Any,
) -> PretrainConfig:
    return PretrainConfig(
        vicreg.Config(),
        data=DataConfig(image_size=side, eval_resize=side),
        model=ModelConfig(encoder, small_images, expander),
        optimizer=OptimizerConfig(name=optimizer),
        train=TrainConfig(**{"global_batch": 16, **train}),
    )


@pytest.fixture
def as_one_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[tuple[str, int]]]:
    """Let this process believe that it is one of several ranks with equal rows; returns what it sends, as it grows."""

    def pretend(ranks: int) -> list[tuple[str, int]]:
        sent: list[tuple[str, int]] = []

        def sum_over_ranks(tensor: Tensor) -> Tensor:
            sent.append(("sum", tensor.nbytes))
            return tensor

        def gather_rows(tensor: Tensor) -> Tensor:
            parts = [tensor.clone() for _ in range(ranks)]
            sent.append(("gather", tensor.nbytes * ranks))
            return torch.cat(parts)

        def exchange(parts: Tensor) -> Tensor:
            sent.append(("exchange", parts.nbytes))
            return parts.clone()

        monkeypatch.setattr(distributed, "world_size", lambda: ranks)
        monkeypatch.setattr(distributed, "_exchange", exchange)
        monkeypatch.setattr(distributed, "sum_over_ranks", sum_over_ranks)
        if ranks > 1:
            monkeypatch.setattr(distributed, "gather_rows", gather_rows)
        return sent

    return pretend


# Parameters and checkpoints


def test_known_number_of_parameters_without_memory() -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cost = estimate(PretrainConfig(vicreg.Config()), 32, on_gpu=True)
    grown_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) * 1024
    resnet50 = 25_557_032 - (2048 * 1000 + 1000)  # torchvision's documented number, without its classifier
    layer = 8192 * 8192
    expander = 2048 * 8192 + layer + layer + 2 * (8192 + 2 * 8192)  # two biases and batch norms, none in the last
    assert cost.num_parameters == resnet50 + expander
    assert cost.gradients_bytes == 4 * cost.num_parameters
    assert grown_bytes < cost.weights_bytes / 2


@pytest.mark.parametrize("optimizer", ["lars", "adamw"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_checkpoint_has_the_expected_size(tmp_path: Path, optimizer: str, precision: str) -> None:
    config = _config(expander="256-256", optimizer=optimizer, precision=precision)
    learner = Learner.build(config, CPU)
    learner.optimizer.step()
    path = checkpoint.save(tmp_path, 1, learner.state() | {"step": 1, "config": to_json(config)}, keep=1)
    size = (path / checkpoint.STATE_FILE).stat().st_size
    cost = estimate(config, 1, on_gpu=False)
    assert cost.checkpoint_bytes == pytest.approx(size, rel=0.05)
    kept = [t for state in learner.optimizer.state.values() for t in state.values() if t.ndim]
    assert cost.optimizer_bytes == sum(t.nbytes for t in kept)
    assert cost.weights_bytes == sum(t.nbytes for t in learner.method.state_dict().values())
    assert cost.gradients_bytes == sum(p.grad.nbytes for p in learner.method.parameters() if p.grad is not None)


# Memory


def _kept_bytes(learner: Learner, rows: int) -> int:
    """What a real forward pass of both views keeps, beside parameters, buffers and the views themselves."""
    side, dtype = learner.config.data.image_size, learner.dtype
    layout = torch.channels_last if learner.config.train.channels_last else torch.contiguous_format
    views = [torch.randn(rows, 3, side, side, dtype=dtype).contiguous(memory_format=layout) for _ in range(2)]
    method = learner.method
    known = {t.untyped_storage().data_ptr() for t in [*views, *method.parameters(), *method.buffers()]}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = [method.expander(method.encoder(view)) for view in views]
    assert all(output.grad_fn is not None for output in outputs)
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in known)


@pytest.mark.parametrize(
    ("config", "ranks"),
    [
        pytest.param(_config(), 1, id="narrow"),
        pytest.param(_config(global_batch=6, precision="float64"), 2, id="float64"),
        pytest.param(_config("resnet18"), 2, id="resnet18"),
        pytest.param(_config("resnet18", side=64, small_images=False, channels_last=False), 4, id="contiguous"),
        pytest.param(_config("mobilenet_v3_small", small_images=False), 1, id="mobilenet"),
        pytest.param(_config("test_vit", side=160, small_images=False), 2, id="transformer"),
    ],
)
def test_activations_are_those_of_a_real_forward_pass(config: PretrainConfig, ranks: int) -> None:
    cost = estimate(config, ranks, on_gpu=False)
    assert cost.activations_bytes == _kept_bytes(Learner.build(config, CPU), config.train.global_batch // ranks)


def test_batch_norm_over_ranks_keeps_as_much(as_one_of: Callable[[int], object]) -> None:
    config = _config("resnet18")
    as_one_of(2)
    learner = Learner.build(config, CPU)
    assert any(isinstance(layer, SyncBatchNorm) for layer in learner.method.modules())
    assert estimate(config, 2, on_gpu=False).activations_bytes == pytest.approx(_kept_bytes(learner, 8), rel=0.005)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_activations_are_linear_in_the_batch(on_gpu: bool) -> None:
    costs = [estimate(_config(global_batch=batch), 1, on_gpu) for batch in (10, 20, 30)]
    sizes = [cost.activations_bytes for cost in costs]
    assert sizes[1] - sizes[0] == sizes[2] - sizes[1] > 0
    assert estimate(_config(global_batch=20), 2, on_gpu).activations_bytes == sizes[0]
    assert [cost.batch_bytes for cost in costs] == [2 * batch * 3 * 32 * 32 * (4 + 1) for batch in (10, 20, 30)]


@pytest.mark.parametrize("encoder", ["resnet10-narrow", "resnet18"])
def test_half_precision_halves_the_activations(encoder: str) -> None:
    auto, half, single = (
        estimate(_config(encoder, precision=precision, global_batch=4096), 2, on_gpu=True)
        for precision in ("auto", "fp16", "float32")
    )
    assert auto == half
    assert auto.activations_bytes / single.activations_bytes == pytest.approx(0.5, abs=0.01)
    assert auto.weights_bytes == single.weights_bytes
    assert single.activations_bytes == estimate(_config(encoder, global_batch=4096), 2, False).activations_bytes


def test_weights_are_cast_once_for_both_views() -> None:
    config = _config(expander="512-512", global_batch=2)
    auto, single = (
        estimate(dataclasses.replace(config, train=dataclasses.replace(config.train, precision=p)), 1, on_gpu=True)
        for p in ("auto", "float32")
    )
    matrices = [p for p in Learner.build(config, CPU).method.parameters() if p.ndim > 1]
    views = 2 * 2 * 3 * 32 * 32  # values; their casts are kept, where the views themselves count as the batch
    casts = 2 * (sum(p.numel() for p in matrices) + views)
    assert auto.activations_bytes == pytest.approx(single.activations_bytes / 2 + casts, rel=0.01)


@pytest.mark.parametrize("expander", ["24-16", "4096-4096"])
def test_micro_batches_keep_one_part_or_what_stands_behind(expander: str) -> None:
    """The features of all images with their gradients, and more of: a part of one view, the expander's of all."""
    config = _config("resnet18", expander=expander, global_batch=32)
    learner = Learner.build(config, CPU)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    known = {t.untyped_storage().data_ptr() for t in [*learner.method.parameters(), *learner.method.buffers()]}
    part = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        learner.method.encoder(part)
    of_part = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in known) - part.nbytes
    features = 2 * 32 * 512 * 4
    behind = sum(2 * 32 * int(width) * 4 * 3 for width in expander.split("-")[:-1])  # linear, batch norm, ReLU
    whole, in_parts = (
        estimate(dataclasses.replace(config, train=dataclasses.replace(config.train, micro_batch=size)), 1, False)
        for size in (0, 4)
    )
    assert in_parts.activations_bytes == pytest.approx(2 * features + max(of_part, behind), rel=0.1)
    assert in_parts.activations_bytes < whole.activations_bytes / 5
    assert in_parts.memory_bytes < whole.memory_bytes


@pytest.mark.parametrize(
    ("rows", "dims", "ranks"), [(96, 384, 1), (96, 1024, 4), (16, 2048, 32), (128, 96, 4), (64, 512, 8), (12, 512, 64)]
)
@pytest.mark.parametrize("form", ["samples", "dimensions", "features"])
def test_the_loss_holds_what_is_expected(
    form: str, rows: int, dims: int, ranks: int, as_one_of: Callable[[int], object]
) -> None:
    as_one_of(ranks)
    config = LossConfig(form=form)
    embeddings = [torch.randn(rows, dims, requires_grad=True) for _ in range(2)]
    given = sum(embedding.nbytes for embedding in embeddings)
    peak = given + peak_bytes(lambda: vicreg_loss(*embeddings, config))
    whole = PretrainConfig(
        vicreg.Config(), model=ModelConfig(expander=str(dims)), train=TrainConfig(global_batch=rows * ranks)
    )
    cost = vicreg_network.loss_cost(whole, ranks, 4)
    assert cost.held_bytes + cost.forms[form].memory_bytes == pytest.approx(peak, rel=0.04)


def test_the_sum_of_parts() -> None:
    cost = Cost(7, 1, 10, 100, 1000, "samples", 10_000, 100_000, 5, 3, 30, 300)
    assert cost.memory_bytes == 111_111
    assert cost.traffic_bytes == 333


# Traffic


def _chunks_sent(kind: str, nbytes: int, ranks: int) -> Iterator[float]:
    """The chunks that one rank of a ring passes on to the next."""
    for _ in range(ranks - 1):
        yield nbytes / ranks
    if kind == "sum":  # once around to add, once more to tell
        for _ in range(ranks - 1):
            yield nbytes / ranks


def _sent_bytes(calls: list[tuple[str, int]], ranks: int) -> float:
    return sum(chunk for kind, nbytes in calls for chunk in _chunks_sent(kind, nbytes, ranks))


@pytest.mark.parametrize("ranks", [2, 8])
@pytest.mark.parametrize("expander", ["40-24", "40-48"])  # narrower and wider than the batch
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("form", ["samples", "dimensions", "features"])
def test_traffic_on_cpus(
    ranks: int, expander: str, precision: str, form: str, as_one_of: Callable[[int], list[tuple[str, int]]]
) -> None:
    config = _config(expander=expander, global_batch=32, precision=precision)
    config = dataclasses.replace(config, method=vicreg.Config(form=form))
    sent = as_one_of(ranks)
    learner = Learner.build(config, CPU)
    views = [torch.randn(32 // ranks, 3, 32, 32, dtype=learner.dtype) for _ in range(2)]
    embeddings = [learner.method.expander(learner.method.encoder(view)) for view in views]
    batch_norm_calls = list(sent)
    sent.clear()
    loss = vicreg_loss(*embeddings, config.method)["loss"]
    loss_calls = list(sent)
    sent.clear()
    loss.backward()
    batch_norm_calls += sent  # the loss sends nothing in its backward pass
    gradient_calls = [("sum", bucket.nbytes) for bucket in learner.gradients._buckets]

    cost = estimate(config, ranks, on_gpu=False)
    assert cost.batch_norm_traffic_bytes == pytest.approx(_sent_bytes(batch_norm_calls, ranks), abs=1)
    assert cost.embedding_traffic_bytes == pytest.approx(_sent_bytes(loss_calls, ranks), abs=1)
    assert cost.gradient_traffic_bytes == pytest.approx(_sent_bytes(gradient_calls, ranks), abs=1)


@pytest.mark.parametrize("ranks", [2, 8])
def test_traffic_on_gpus(ranks: int) -> None:
    config = _config()
    calls = []
    for layer in Learner.build(config, CPU).method.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):  # torch.nn.modules._functions.SyncBatchNorm
            for _view in range(2):
                calls.append(("gather", ranks * 4 * (2 * layer.num_features + 1)))
                calls.append(("sum", 4 * 2 * layer.num_features))
    on_gpu, on_cpu = (estimate(config, ranks, where) for where in (True, False))
    assert on_gpu.batch_norm_traffic_bytes == pytest.approx(_sent_bytes(calls, ranks), abs=1)
    assert on_gpu.gradient_traffic_bytes == on_cpu.gradient_traffic_bytes
    assert on_gpu.embedding_traffic_bytes == on_cpu.embedding_traffic_bytes


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_single_rank_sends_nothing(on_gpu: bool) -> None:
    assert estimate(_config(), 1, on_gpu).traffic_bytes == 0


# Refusals, and no traces


def test_what_cannot_run_is_refused() -> None:
    with pytest.raises(ValueError, match="global_batch is 16, allowed: a multiple of the 3 ranks"):
        estimate(_config(), 3, on_gpu=True)
    with pytest.raises(ValueError, match="world_size is 0"):
        estimate(_config(), 0, on_gpu=True)
    with pytest.raises(ValueError, match="precision is 'bf16', allowed: auto, float32, float64 on a CPU"):
        estimate(_config(precision="bf16"), 1, on_gpu=False)


def test_an_estimate_leaves_no_trace() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    estimate(_config(), 1, on_gpu=True)
    assert torch.equal(torch.rand(1), expected)
    assert not torch.is_autocast_enabled("cuda")
    assert torch.empty(1).device == CPU
