"""Networks of other packages, brought as a user would."""
