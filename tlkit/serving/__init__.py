"""A small HTTP server that classifies images."""
