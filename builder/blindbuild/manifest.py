"""Statements to canonical bytes and back: exactly what is signed."""
