"""What every room needs: files and locks, the cache, progress, and records as text."""
