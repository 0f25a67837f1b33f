"""Pictures: found, checked, divided, decoded and augmented."""
