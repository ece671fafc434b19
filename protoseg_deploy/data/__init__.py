"""Reading, pairing and checking images and masks."""

from protoseg_deploy.data.checking import check_data
from protoseg_deploy.data.folders import DataSets, Sample, find_data, write_list
from protoseg_deploy.data.images import IMAGE_SUFFIXES, image_size, read_image, read_mask
from protoseg_deploy.data.loading import Batch, TrainingBatches, derived_seed, training_loader
from protoseg_deploy.data.report import DataReport, PartSummary
from protoseg_deploy.data.views import CutMix, View, strong_view, weak_view

__all__ = [
    "IMAGE_SUFFIXES",
    "Batch",
    "CutMix",
    "DataReport",
    "DataSets",
    "PartSummary",
    "Sample",
    "TrainingBatches",
    "View",
    "check_data",
    "derived_seed",
    "find_data",
    "image_size",
    "read_image",
    "read_mask",
    "strong_view",
    "training_loader",
    "weak_view",
    "write_list",
]
