"""Reading, pairing and checking images and masks; batches and views of them.

`loading` and `views` need torch and are imported by name, so that checking a data set does not wait for it.
"""

from protoseg_deploy.data.checking import check_before_training, check_data, examine_data
from protoseg_deploy.data.folders import DataSets, Sample, find_data, write_list
from protoseg_deploy.data.formats import IMAGE_SUFFIXES
from protoseg_deploy.data.images import image_header, image_size, read_image, used_share
from protoseg_deploy.data.masks import open_mask, read_mask
from protoseg_deploy.data.pool import ImagePool
from protoseg_deploy.data.report import DataReport, PartSummary
from protoseg_deploy.data.value_range import with_measured_range

__all__ = [
    "IMAGE_SUFFIXES",
    "DataReport",
    "DataSets",
    "ImagePool",
    "PartSummary",
    "Sample",
    "check_before_training",
    "check_data",
    "examine_data",
    "find_data",
    "image_header",
    "image_size",
    "open_mask",
    "read_image",
    "read_mask",
    "used_share",
    "with_measured_range",
    "write_list",
]
