"""Reading, pairing and checking images and masks."""

from protoseg_deploy.data.folders import DataSets, Sample, find_data, write_list
from protoseg_deploy.data.images import IMAGE_SUFFIXES, image_size, read_image, read_mask

__all__ = [
    "IMAGE_SUFFIXES",
    "DataSets",
    "Sample",
    "find_data",
    "image_size",
    "read_image",
    "read_mask",
    "write_list",
]
