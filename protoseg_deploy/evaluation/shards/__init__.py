"""Prediction of very many images: in shards, by many processes or machines, resumable to the byte.

A plan (`plan.py`) gives every image its shard and the name of its mask. `worker.py` predicts one shard, whoever
asks: a pool of local processes (`local_engine.py`) or a Ray cluster (`ray_engine.py`). A finished shard is one Parquet
file (`rows.py`), written in one step after its masks (`masks.py`); that file is all that says that a shard is done.
`predicting.py` puts these together.
"""
