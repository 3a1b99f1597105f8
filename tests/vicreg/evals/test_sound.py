"""Sound against scikit-learn fold by fold, on ranks, stopped and gone on with; and no recording on both sides."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from tests import tones
from tests.ranks import run_ranks
from vicreg.config import DataConfig, ModelConfig, SoundConfig
from vicreg.evals import sound
from vicreg.evals.clip_pool import ClipPool
from vicreg.evals.features import Splits, open_splits
from vicreg.evals.results import CannotMeasure
from vicreg.evals.semisup import Classifier
from vicreg.evals.work import Stopped, Work
from vicreg.exchange.encoder_file import untrained_encoder
from vicreg.views.keyed_random import uniform
from vicreg.views.order import epoch_order

CPU = torch.device("cpu")
SOUND = SoundConfig(tones.RATE_HZ, round(tones.RATE_HZ * tones.SECONDS), window_samples=128, hop_samples=64, bands=16)
CONFIG = sound.Config(tuned_epochs=2, batch=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folds of four classes, the third held out."""
    return tones.write_folds(tmp_path_factory.mktemp("folds"), 9, folds=3, held_out=3)


def _data(folder: Path) -> DataConfig:
    return DataConfig(train=str(folder / "train.beton"), val=str(folder / "val.beton"), mean=(0.0,), std=(0.3,))


def _splits(folder: Path) -> Splits:
    return replace(open_splits(_data(folder), CPU, 1), batch=16)


def _encoder() -> nn.Module:
    return untrained_encoder(ModelConfig(encoder="resnet10-narrow", channels=1, sound=SOUND), seed=5)


def _evaluate(folder: Path, config: sound.Config = CONFIG, work: Work | None = None) -> dict[str, float]:
    torch.set_num_threads(1)
    return sound.evaluate(_encoder(), _splits(folder), config, work).metrics


def test_linear_accuracies_are_those_of_scikit_learn_fold_by_fold(folder: Path) -> None:
    splits, encoder = _splits(folder), _encoder()
    measured = sound.evaluate(encoder, splits, sound.Config())
    pool = ClipPool.open(splits)
    rows = np.concatenate([splits.features(encoder, split).values.double().numpy() for split in ("train", "val")])
    folds = pool.numbers("fold")
    wanted = []
    for fold in (1, 2, 3):
        known, held = folds != fold, folds == fold
        mean, std = rows[known].mean(0), rows[known].std(0)
        std[std == 0] = 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = LogisticRegression(C=0.1, tol=1e-8, max_iter=5_000)
            model.fit((rows[known] - mean) / std, pool.labels[known])
        wanted.append(100 * float((model.predict((rows[held] - mean) / std) == pool.labels[held]).mean()))
    assert measured.metrics == {
        "top1_linear_held_out": pytest.approx(wanted[2]),
        "top1_linear_all_folds": pytest.approx(np.mean(wanted)),
        "top1_linear_all_folds_std": pytest.approx(np.std(wanted, ddof=1)),
    }
    assert measured.details["linear"] == {"folds": [1, 2, 3], "top1": pytest.approx(wanted)}
    assert len(set(wanted)) > 1


def test_divisions_hold_every_clip_out_once(folder: Path) -> None:
    held_out, *folds = ClipPool.open(_splits(folder)).divisions()
    assert (len(held_out.learned), len(held_out.measured)) == (24, 12)
    assert sorted(np.concatenate([fold.measured for fold in folds]).tolist()) == list(range(36))
    for division in (held_out, *folds):
        assert not np.intersect1d(division.learned, division.measured).size


def test_tuning_is_plain_stochastic_gradient_descent(folder: Path) -> None:
    torch.set_num_threads(1)
    splits, encoder = _splits(folder), _encoder()
    pool = ClipPool.open(splits)
    division = pool.divisions()[1]
    config = replace(CONFIG, lr_encoder=1e-3, lr_head=0.01)  # at larger rates rounding grows tenfold with every step
    tuning = sound._Tuning(encoder, splits, config, pool, [division])
    tuning.run(Work())

    model = Classifier(encoder, 4, CONFIG.seed).train()
    parts = [{"params": model.encoder.parameters()}, {"params": model.head.parameters()}]
    optimizer = torch.optim.SGD(parts, momentum=0.9, weight_decay=1e-4)
    waveforms = [beton.decode(clip)[0, :, 0] for beton in pool.betons for clip in range(beton.num_samples)]
    for epoch in range(2):
        for group, rate in zip(optimizer.param_groups, (1e-3, 0.01), strict=True):
            group["lr"] = rate * (1, 0.5)[epoch]
        order = epoch_order(24, CONFIG.seed, epoch)
        for begin in range(0, 24, 8):
            clips = division.learned[order[begin : begin + 8]]
            starts = np.floor(uniform(CONFIG.seed, epoch, clips, 0, 0).astype(float) * 101).astype(int)
            crops = np.stack([waveforms[clip][start : start + 900] for clip, start in zip(clips, starts, strict=True)])
            scores = model(torch.from_numpy(crops.astype(np.float32) / 32768 / 0.3)[:, None])
            optimizer.zero_grad()
            nn.functional.cross_entropy(scores, torch.from_numpy(pool.labels[clips])).backward()
            optimizer.step()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(tuning._model.state_dict()[name], weight, rtol=1e-3, atol=2e-5, msg=name)
    model.eval()
    whole = np.stack([waveforms[clip] for clip in division.measured]).astype(np.float32)
    predicted = model(torch.from_numpy(whole / 32768 / 0.3)[:, None]).argmax(1).numpy()
    assert tuning.correct == [int((predicted == pool.labels[division.measured]).sum())]


def test_tuning_stops_and_goes_on_to_the_same_bits(folder: Path, tmp_path: Path) -> None:
    longer = replace(CONFIG, tuned_epochs=3)
    whole = _evaluate(folder, longer)
    steps = 0

    def count(step: int, num_steps: int) -> None:
        nonlocal steps
        steps = step
        assert num_steps == 4 * 3 * 3  # divisions, epochs, batches

    before = 0
    work = Work(tmp_path, {"a": 1}, should_stop=lambda: steps > before and steps in (4, 10, 29), beat=count)
    for _ in range(3):
        with pytest.raises(Stopped):
            _evaluate(folder, longer, work)
        before = steps
    assert _evaluate(folder, longer, work) == whole


def test_ranks_measure_the_same(folder: Path, tmp_path: Path) -> None:
    short = replace(CONFIG, tuned_epochs=1)
    alone, shared = _evaluate(folder, short), run_ranks(_evaluate, 2, tmp_path, folder, short)
    linear = [name for name in alone if "linear" in name]
    assert {name: shared[name] for name in linear} == {name: alone[name] for name in linear}
    for name in alone.keys() - set(linear) - {"top1_tuned_all_folds_std"}:  # rounding may turn a clip or two
        assert shared[name] == pytest.approx(alone[name], abs=100 / 12 + 0.1)


def test_a_recording_on_both_sides_is_refused(tmp_path: Path) -> None:
    """Files of one number modulo 1000 are one recording of it: 0 of every class, and 9 of no other fold."""
    folder = tones.write_folds(tmp_path, 4, folds=2, held_out=2, recordings=r"\d*?(?P<recording>\d)")
    divisions = ClipPool.open(_splits(folder)).divisions()
    assert len(divisions) == 3
    shared = replace(_splits(folder), data=replace(_data(folder), val=str(folder / "train.beton")))
    with pytest.raises(CannotMeasure, match="2 recordings have clips on both sides, the first is that of clip 0"):
        sound.evaluate(_encoder(), shared, sound.Config())


def test_what_is_no_sound_or_too_little_is_refused(folder: Path, digits_folder: Path) -> None:
    digits = DataConfig(train=str(digits_folder / "train.beton"), val=str(digits_folder / "val.beton"))
    with pytest.raises(CannotMeasure, match="holds images, allowed for sound: clips"):
        sound.evaluate(_encoder(), open_splits(digits, CPU, 1), sound.Config())
    with pytest.raises(CannotMeasure, match="batch is 64, allowed: up to the 24 clips"):
        _evaluate(folder, replace(CONFIG, batch=64))
