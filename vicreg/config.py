"""What one pretraining run is made of: frozen dataclasses, checked when they are built, and nothing else.

The defaults are the official VICReg program's (facebookresearch/vicreg, `main_vicreg.py`, `augmentations.py`);
the recipes of the methods depart from them by name. As JSON they travel by `config_json.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dataprep.beton.pixel_format import MAX_CHANNELS
from vicreg.branch_kinds import Kind, kind_of
from vicreg.checked import require as require
from vicreg.online_config import OnlineConfig as OnlineConfig
from vicreg.sound_config import SoundConfig as SoundConfig
from vicreg.view_config import ViewConfig as ViewConfig
from vicreg.view_config import each_view as each_view
from vicreg.view_config import official_views as official_views
from vicreg.view_config import paper_views as paper_views
from vicreg.view_config import require_no_colours as require_no_colours
from vicreg.view_config import without_colours as without_colours

Precision = Literal["auto", "float32", "bf16", "fp16"]
"""Arithmetic of an encoder that is measured; auto: half precision on a GPU, float32 on a CPU."""


@dataclass(frozen=True)
class DataConfig:
    """Where the images are and how they reach the model."""

    train: str = "data/imagenet/train.beton"
    """Beton to learn from."""
    val: str = "data/imagenet/val.beton"
    """Beton to measure on."""
    loader: Literal["beton", "array"] = "beton"
    """beton: decode on CPU threads, every epoch anew. array: hold the decoded data set as uint8 on the device."""
    image_size: int = 224
    """Side in pixels of the images that are measured, and of views that say no other."""
    eval_resize: int = 256
    """When measuring: the shorter side is resized to this many pixels, then the centre of image_size is cut out."""
    workers: int = 0
    """Decoding threads per rank; 0 takes the CPU cores this process may use, shared among the ranks of the machine."""
    batches_ahead: int = 3
    """Batches decoded before they are asked for."""
    on_bad: Literal["fail", "skip"] = "fail"
    """What training does about a sample that cannot be decoded: fail, or skip it (the next one of its class stands in,
    which is counted and said). Evaluations fail: they count every image once."""
    order: Literal["shuffled", "blocks"] = "shuffled"
    """shuffled: any image after any other. blocks: neighbours in the file are read together, for data larger than
    memory or on a network file system; global_batch x block_samples stored images are in memory, over all ranks."""
    block_samples: int = 32
    """Images of a block, where the order is blocks."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Mean per channel that normalisation subtracts, for values from 0 to 1."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Standard deviation per channel that normalisation divides by."""

    def __post_init__(self) -> None:
        require(self.image_size >= 8, "image_size", self.image_size, "8 pixels or more")
        require(
            self.eval_resize >= self.image_size,
            "eval_resize",
            self.eval_resize,
            f"image_size ({self.image_size}) or more",
        )
        require(self.workers >= 0, "workers", self.workers, "0 (from the CPU cores) or more")
        require(self.batches_ahead >= 1, "batches_ahead", self.batches_ahead, "1 or more")
        require(self.block_samples >= 1, "block_samples", self.block_samples, "1 or more")
        require(all(s > 0 for s in self.std), "std", self.std, "above 0")
        require(len(self.std) == len(self.mean), "std", self.std, f"{len(self.mean)} numbers, as mean has")


PUBLISHERS = ("torchvision", "timm")
"""Whose published weights `ModelConfig.weights` may name."""


@dataclass(frozen=True)
class ModelConfig:
    """Encoder and expander."""

    encoder: str = "resnet50"
    """Name of the encoder in torchvision, else in timm."""
    small_images: bool = False
    """Stem for images of about 32 px: a 3x3 convolution of stride 1 and no max-pooling."""
    expander: str = "8192-8192-8192"
    """Widths of the expander's layers; batch norm and ReLU after all but the last."""
    expander_bias: Literal["hidden", "all", "none"] = "hidden"
    """Which of the expander's linear layers have a bias: all but the last (official VICReg), all (solo-learn), none."""
    expander_norm: Literal["hidden", "none", "all", "plain", "last"] = "hidden"
    """Where the expander has batch norm: behind all layers but the last (VICReg), nowhere (MoCo), or behind the last
    too, there with a scale and no shift (all; SimCLR) or with neither (plain; SimSiam), or only there (last)."""
    unit_length: bool = False
    """Embeddings divided by their length."""
    encoder_norm: Literal["batch", "layer"] = "batch"
    """layer: every batch norm of the encoder becomes a layer norm over channels and places (CPC v2)."""
    colours: Literal["rgb", "lab"] = "rgb"
    """lab: two encoders of that name, of which one sees L and one a and b of CIE Lab; features are both's (CMC)."""
    stem_padding: int = 1
    """Padding of the small images' stem: 1 keeps the image's size, 2 (solo-learn, eb_jepa) makes 34 x 34 of 32 x 32."""
    encoder_b: str = ""
    """Encoder of the second branch, which then has weights and an expander of its own; empty: both branches share.
    gru-300-1024, or other widths of word embedding and state, is one of captions."""
    expander_b: str = ""
    """Widths of the second branch's expander, or none for no expander; empty: those of the first's."""
    frozen: bool = False
    """Whether the first encoder stays as it begins, with its running statistics; else it learns."""
    num_words: int = 0
    """Words that the encoder of captions knows. Follows the training data."""
    min_word_count: int = 4
    """Times that a word must stand in the training captions to be known."""
    weights: str = ""
    """Weights to begin with: a file that jobs/import_encoder.py reads (of the encoder, and of the expander where it has
    one that fits), or torchvision or timm for those that these publish of the encoder. Empty: random ones."""
    weights_part: str = ""
    """Which network, where that file holds several: a word of its name (student, teacher, ema) or the whole of it."""
    weights_channels: Literal["refuse", "mean"] = "refuse"
    """What becomes of weights for another number of channels than the images have: refused, or the first layer has
    their mean for each channel, times their number over the images', which keeps the sum."""
    channels: int = 0
    """Channels of images that are not RGB, 1 to 16, which the first layer takes; 0: RGB. Follows the training data."""
    sound: SoundConfig = field(default_factory=SoundConfig)
    """Sound instead of images, and its spectrograms, which have one channel."""

    def __post_init__(self) -> None:
        require(self.stem_padding in (1, 2), "stem_padding", self.stem_padding, "1 or 2")
        for name, words in (("expander", ("none",)), ("expander_b", ("none", ""))):
            widths = getattr(self, name)
            ok = widths in words or all(width.isdigit() and int(width) > 0 for width in widths.split("-"))
            require(ok, name, widths, "positive widths joined by dashes, such as 8192-8192-8192")
        require(0 <= self.channels <= MAX_CHANNELS, "channels", self.channels, f"0 (RGB), or 1 to {MAX_CHANNELS}")
        has_colours = not self.channels or self.colours == "rgb"
        require(has_colours, "colours", self.colours, f"rgb: {self.channels} channels have none")
        require(not self.sound.is_on or self.channels == 1, "channels", self.channels, "1 for sound")
        both = bool(self.weights and self.encoder_b) and kind_of(self.encoder_b) == kind_of(self.encoder)
        require(not both, "weights", self.weights, "none with an encoder_b of images: they are one network's")
        require(not self.expander_b or bool(self.encoder_b), "expander_b", self.expander_b, "with encoder_b")
        require(self.num_words >= 0, "num_words", self.num_words, "0 or more")
        require(self.min_word_count >= 1, "min_word_count", self.min_word_count, "1 or more")
        require(bool(self.weights) or not self.weights_part, "weights_part", self.weights_part, "with weights")
        alone = bool(self.weights) or self.weights_channels == "refuse"
        require(alone, "weights_channels", self.weights_channels, "refuse without weights")

    @property
    def is_plain(self) -> bool:
        """Whether the encoder is the network of its name: RGB images, its own norms."""
        return self.colours == "rgb" and self.encoder_norm == "batch" and not self.channels

    @property
    def in_channels(self) -> int:
        """Channels of the images that it takes."""
        return self.channels or 3


@dataclass(frozen=True)
class MethodConfig:
    """What a method is told: the `Config` of its file in vicreg/methods adds fields to this."""

    name: str = ""
    """Method: the name of a file in vicreg/methods."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and learning-rate schedule."""

    name: Literal["lars", "adamw", "sgd"] = "lars"
    """LARS as in the official code, AdamW for small networks, or SGD with momentum."""
    base_lr: float = 0.2
    """Learning rate for 256 images: the peak is base_lr x global_batch / 256, but for AdamW base_lr itself."""
    weight_decay: float = 1e-6
    """Weight decay; biases and batch-norm parameters are excluded."""
    momentum: float = 0.9
    """Momentum of LARS and SGD."""
    nesterov: bool = False
    """SGD with Nesterov's momentum."""
    trust_coefficient: float = 0.001
    """LARS's eta."""
    clip_lr: bool = False
    """LARS as in solo-learn: the layer's rate is clipped at the global one, weight decay is added after the norms."""
    warmup_epochs: float = 10.0
    """Epochs over which the rate rises linearly."""
    warmup_start_lr: float = 0.0
    """Learning rate of the first step, where there is a warm-up."""
    final_lr_ratio: float = 0.001
    """Final learning rate over the peak (official code 0.001; the paper's text amounts to 0.00125 or 0.01)."""

    def __post_init__(self) -> None:
        require(self.base_lr > 0, "base_lr", self.base_lr, "above 0")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "from 0 to below 1")
        require(not self.nesterov or self.name == "sgd", "nesterov", self.nesterov, "False, but for optimizer sgd")
        require(self.warmup_start_lr >= 0, "warmup_start_lr", self.warmup_start_lr, "0 or more")
        require(self.warmup_epochs >= 0, "warmup_epochs", self.warmup_epochs, "0 or more")
        require(0 <= self.final_lr_ratio <= 1, "final_lr_ratio", self.final_lr_ratio, "from 0 to 1")


@dataclass(frozen=True)
class TrainConfig:
    """Length, precision and housekeeping of a run."""

    epochs: int = 1000
    """Passes over the training set."""
    global_batch: int = 2048
    """Images per step over all ranks; every rank takes an equal part."""
    micro_batch: int = 0
    """Images that a rank passes through an encoder at once, where its part of the batch does not fit in memory: loss
    and gradient are the whole batch's, for a third more arithmetic; an encoder's batch norm sees this many. 0: all."""
    precision: Literal["auto", "float32", "bf16", "fp16", "float64"] = "auto"
    """Arithmetic of encoder and expander; the loss is float32 or better. auto: bf16 on GPUs, float32 on CPUs."""
    channels_last: bool = True
    """Memory format of the convolutions."""
    joint_views: bool = False
    """Pass all views through the network at once, with batch statistics of each alone: fewer, larger kernels."""
    compile: bool = False
    """Pass the method's networks through torch.compile."""
    trial: Literal["auto", "off"] = "auto"
    """auto: on a GPU, where neither compile nor joint_views is asked for, a short trial at the start takes the fastest
    of their forms; the run goes on with it. Not with deterministic. off: as they are given."""
    capture: Literal["auto", "off"] = "auto"
    """auto: steps on one GPU that holds the data set (data.loader array) are recorded once and replayed, as a CUDA
    graph, with the same result; where that cannot be, the log says why. off: never."""
    deterministic: bool = False
    """Bit-identical resume on GPUs too, at a cost in speed; on CPUs it always is."""
    seed: int = 0
    """Seed of order, augmentation and initial weights."""
    log_every_steps: int = 20
    """Steps between two lines of metrics."""
    checkpoint_every_steps: int = 0
    """Steps between two checkpoints; 0 for one per epoch."""
    checkpoint_every_min: float = 20.0
    """Minutes after which a checkpoint is due, whatever the step."""
    keep_checkpoints: int = 2
    """Newest checkpoints that stay."""
    stop_check_every_steps: int = 1
    """Steps between two agreements of the ranks on stopping."""
    wandb_project: str = ""
    """Project on Weights & Biases that metrics go to as well; empty for none."""
    max_skipped_steps: int = 50
    """Consecutive steps with a non-finite gradient before the run goes back to its last checkpoint."""
    max_rollbacks: int = 2
    """Times that it does so, going on with the data behind those that failed, before it gives up."""

    def __post_init__(self) -> None:
        for name in ("epochs", "log_every_steps", "keep_checkpoints", "stop_check_every_steps", "max_skipped_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(0 <= self.seed < 2**63, "seed", self.seed, "0 or more, below 2^63")
        require(self.max_rollbacks >= 0, "max_rollbacks", self.max_rollbacks, "0 or more")
        require(self.global_batch >= 2, "global_batch", self.global_batch, "2 or more (the loss needs a variance)")
        require(
            self.micro_batch == 0 or self.micro_batch >= 2, "micro_batch", self.micro_batch, "0 (none), or 2 or more"
        )
        require(self.checkpoint_every_steps >= 0, "checkpoint_every_steps", self.checkpoint_every_steps, "0 or more")
        require(self.checkpoint_every_min > 0, "checkpoint_every_min", self.checkpoint_every_min, "above 0")


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run."""

    method: MethodConfig
    data: DataConfig = field(default_factory=DataConfig)
    views: tuple[ViewConfig, ...] = field(default_factory=official_views)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)

    def __post_init__(self) -> None:
        require(len(self.each_view) > 0, "views", self.views, "at least one, with a count above 0")
        require(self.model.expander != "none", "model.expander", "none", "widths; none is for --model.expander-b")
        first = self.model.encoder
        require(kind_of(first) != "text", "model.encoder", first, "one of images (of captions: --model.encoder-b)")
        channels = self.model.in_channels
        allowed = f"a number for each of the encoder's {channels} channels"
        require(len(self.data.mean) == channels, "data.mean", self.data.mean, allowed)
        if self.model.channels and not self.model.sound.is_on:
            require_no_colours(self.views)

    @property
    def each_view(self) -> tuple[ViewConfig, ...]:
        """One entry for each view of an image, in the order of their numbers; views of another kind follow them."""
        return each_view(self.views, self.data.image_size)

    @property
    def other_kinds(self) -> tuple[Kind, ...]:
        """The kinds of the views that are no images, in the order of their numbers, behind those of `each_view`."""
        kinds = (kind_of(self.model.encoder), kind_of(self.model.encoder_b or self.model.encoder))
        return tuple(kind for kind in kinds if kind != "image")
