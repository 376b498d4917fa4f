"""What one machine shows to whoever looks at it from outside."""
