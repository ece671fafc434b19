"""A network becomes an fp32 graph with pre- and post-processing inside."""
