"""Start training on a cluster."""
