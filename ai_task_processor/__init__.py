"""AI Task Processor: does the AI tasks which an application collects; nothing lost, nothing paid for twice."""

__version__ = "0.1.0"
