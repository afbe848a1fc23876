"""One module per task type: content to work to outcome."""
