"""Detection and segmentation as published: settings and numbers, as data, each with its source.

Stands apart from protocols.py, which puts them beside the others.
"""

from __future__ import annotations

from vicreg.evals.published import Column, DataSet, Preset

VOC0712, COCO = "VOC07+12", "COCO 2017"
DATA_SETS = (DataSet(VOC0712, 16_551, 4_952, 20), DataSet(COCO, 118_287, 5_000, 80))

_PAPER = "VICReg paper, appendix C.3"
_MOCO = "facebookresearch/moco, detection/configs"
_DINOV2 = "DINOv2's linear heads (dinov2/eval/segmentation), which are mmsegmentation's 40k schedule"
_RANDOM = ("random",)
_FPN = {
    "head": "fpn",
    "masks": True,
    "measure": "coco",
    "steps": 90_000,
    "milestones": [60_000, 80_000],
    "lr": 0.04,
    "warmup_steps": 50,
    "rpn_weight": 1.0,
    "short_sides": [640, 800, 32],
    "proposals_before": [2_000, 1_000],
    "proposals_after": [1_000, 1_000],
}
PRESETS = {
    "voc-detection": Preset(
        "detection", {}, f"{_PAPER}; what it does not say is {_MOCO}/pascal_voc_R_50_C4_24k", "voc-detection", _RANDOM
    ),
    "voc-detection-moco": Preset(
        "detection",
        {"lr": 0.02, "warmup_steps": 100, "warmup_factor": 0.001, "rpn_weight": 1.0},
        f"{_MOCO}/pascal_voc_R_50_C4_24k_moco",
        "voc-detection",
        _RANDOM,
    ),
    "coco-detection": Preset(
        "detection",
        _FPN,
        f"{_PAPER}; what it does not say is VISSL's R50_FPN_MaskRCNN_COCOInstance/sBN_precBN",
        "coco-detection",
        _RANDOM,
    ),
    "linear-segmentation": Preset("linear_segmentation", {}, _DINOV2, "voc-segmentation", _RANDOM),
    "linear-segmentation-ade20k": Preset("linear_segmentation", {}, _DINOV2, "ade20k", _RANDOM),
}

_TABLE_2 = "Table 2"
COLUMNS = (
    Column(
        "AP50",
        _TABLE_2,
        VOC0712,
        {
            "Supervised": 81.3,
            "MoCo v2": 82.5,
            "SimSiam": 82.4,
            "SwAV (multi-crop)": 82.6,
            "OBoW": 82.9,
            "Barlow Twins": 82.6,
            "VICReg": 82.4,
        },
        "voc-detection",
        "ap50",
    ),
    Column(
        "AP of boxes",
        _TABLE_2,
        COCO,
        {
            "Supervised": 39.0,
            "MoCo v2": 39.8,
            "BYOL": 40.4,
            "SwAV (multi-crop)": 41.6,
            "Barlow Twins": 40.0,
            "VICReg": 39.4,
        },
        "coco-detection",
        "ap_box",
    ),
    Column(
        "AP of masks",
        _TABLE_2,
        COCO,
        {
            "Supervised": 35.4,
            "MoCo v2": 36.1,
            "BYOL": 37.0,
            "SwAV (multi-crop)": 37.8,
            "Barlow Twins": 36.7,
            "VICReg": 36.4,
        },
        "coco-detection",
        "ap_mask",
    ),
)
