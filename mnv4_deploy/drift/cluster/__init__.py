"""``--cluster``: the same shards on an existing Dask cluster."""
