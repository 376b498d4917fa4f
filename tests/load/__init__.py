"""The gate, and the verifier, when there is far too much to do."""
