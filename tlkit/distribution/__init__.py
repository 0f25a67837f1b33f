"""Training on several devices and several machines: strategies, shards and workers."""
