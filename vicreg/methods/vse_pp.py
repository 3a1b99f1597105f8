"""VSE++ (Faghri et al., BMVC 2018): an image and its caption nearer to each other than to the hardest others."""

from __future__ import annotations

from dataclasses import dataclass

from vicreg.config import MethodConfig, require
from vicreg.method_file import Published, Term
from vicreg.presets import coco_captions, digit_captions
from vicreg.shared_terms import SPREAD


@dataclass(frozen=True)
class Config(MethodConfig):
    """VSE++: the margin of its hinge (official code, `--margin`, with `--max_violation`)."""

    name: str = "vse_pp"
    margin: float = 0.2
    """By how much the cosine of what belongs together is to exceed that of the hardest other."""

    def __post_init__(self) -> None:
        require(self.margin > 0, "margin", self.margin, "above 0")


TERMS = {
    "loss": Term("Loss", "Hinges on the hardest negatives, both ways, summed over the global batch.", "loss", 3),
    "positive_similarity": Term(
        "Similarity of pairs", "Mean cosine between the embeddings of what belongs together.", "sim", 3
    ),
    "violations": Term("Open hinges", "Share of the rows whose hardest negative is within the margin.", "open", 3),
    **SPREAD,
}


RECIPES = {
    "coco-captions-vse-pp": Published(
        source="VSE++, paper and official code: ResNet-152, one linear layer to 1024, a GRU of 1024 on words of 300, "
        "margin 0.2, batch 128, Adam 2e-4, 30 epochs; ours: a cosine in place of its one step, no clipping of "
        "gradients, no unit length before the linear layer. Published runs begin with supervised weights: "
        "--model.weights torchvision, with --model.frozen True or fine-tuned",
        expected="COCO 5K: image to text 41.3 / 71.1 / 81.2 %, text to image 30.3 / 59.4 / 72.4 % at 1, 5, 10 "
        "(fine-tuned; VICReg paper, Table 3, with its columns exchanged)",
        pretrain=coco_captions(Config(), expander="1024", expander_b="none"),
    ),
    "digit-captions-vse-pp": Published(
        source="ours: rendered digits and their names",
        expected="none is published",
        pretrain=digit_captions(Config()),
    ),
}
