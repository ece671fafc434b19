"""fp16 and bf16 graphs."""
