"""Several devices and several machines: who does which share, and what they tell each other."""
