"""The forms of a head that is solved, by name; loads neither Keras nor TensorFlow."""

AUTO, LINEAR, CLOSED_FORM = "auto", "linear", "closed-form"
FORMS = (AUTO, LINEAR, CLOSED_FORM)
