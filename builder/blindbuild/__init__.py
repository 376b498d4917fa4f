"""blindbuild: stripped, RAM-only OS images whose operator cannot look inside, and the proof of it."""

__version__ = "0.1.0"
