"""Names of the ways to estimate importance; apart from them, so that checking loads nothing."""

WITHOUT_TRAINING = ("fisher", "fisher_sampled", "empirical_fisher", "mas")
METHODS = (*WITHOUT_TRAINING, "synaptic")
