"""An image becomes probabilities: decode, batch, run.  Knows no HTTP and no settings."""
