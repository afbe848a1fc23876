"""The whole daemon in a simulated world that one integer decides: clocks, wire, Task API, providers, crashes."""
