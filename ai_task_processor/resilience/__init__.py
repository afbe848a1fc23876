"""Circuit breakers and retries for calls that may fail."""
