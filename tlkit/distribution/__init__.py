"""Several devices and several machines: which shard each takes, and what they exchange."""
