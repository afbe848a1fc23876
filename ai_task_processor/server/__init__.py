"""The task server: the Task API's contract from the other side."""
