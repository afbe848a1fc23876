"""How many tasks may go to providers in a window of time."""
