"""Records as figures: readable in print and without telling colours apart, in any script."""
