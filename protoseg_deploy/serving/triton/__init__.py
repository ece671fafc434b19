"""Model repositories for the Triton Inference Server, generated from the artefacts of bundles."""
