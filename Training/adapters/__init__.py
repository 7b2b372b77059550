"""One small adapter per dataset: what a publisher shipped, as volumes with named masks."""
