"""Near-duplicates: pictures of the same scene among many images."""

from protoseg_deploy.data.similarity.finding import SAME_SCENE, SimilarPair, find_similar, groups_of, joined
from protoseg_deploy.data.similarity.thumbnails import Thumbnails, read_thumbnails

__all__ = ["SAME_SCENE", "SimilarPair", "Thumbnails", "find_similar", "groups_of", "joined", "read_thumbnails"]
