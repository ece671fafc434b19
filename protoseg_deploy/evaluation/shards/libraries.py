"""Libraries that only sharded prediction needs."""

from typing import Any

from protoseg_deploy.extras import require_library

pa: Any = require_library("pyarrow", "batch", "sharded prediction needs")
pq: Any = require_library("pyarrow.parquet", "batch", "sharded prediction needs")
