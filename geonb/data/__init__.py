"""Places and what is known of them: sources, stores, sampling, splits, masking and checks."""
