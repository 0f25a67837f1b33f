"""A small HTTP server that says what is in an image."""
