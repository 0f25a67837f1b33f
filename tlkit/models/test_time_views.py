"""The names of test-time views; loads neither Keras nor TensorFlow."""

NONE, FLIP = "none", "flip"
TEST_TIME_VIEWS = (NONE, FLIP)
