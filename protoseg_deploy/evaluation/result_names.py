"""Names of files that `predict` writes."""

from protoseg_deploy.file_names import fitted as fitted
from protoseg_deploy.file_names import folded as folded

PLAN, PLAN_TABLE = "plan.json", "plan.parquet"
"""Files in the folder of results of a prediction in shards: what was begun, and its images."""
