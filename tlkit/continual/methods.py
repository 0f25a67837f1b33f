"""Names of the methods of estimating importance, in a module that loads no TensorFlow."""

WITHOUT_TRAINING = ("fisher", "fisher_sampled", "empirical_fisher", "mas")
METHODS = (*WITHOUT_TRAINING, "synaptic")
