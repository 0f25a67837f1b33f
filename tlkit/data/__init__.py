"""Image data: listing, checks, splits, decoding and augmentation."""
