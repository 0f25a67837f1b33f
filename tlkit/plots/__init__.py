"""Figures of reports: readable in print, without colour vision, and in any script."""
