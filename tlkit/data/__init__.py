"""Images: found, checked, divided, decoded and augmented."""
