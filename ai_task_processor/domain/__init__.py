"""The vocabulary of the program: values, errors, events and ports; standard library only."""
