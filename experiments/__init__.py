"""One question a file; each runs with `python -m experiments.<name>` and uses prefjax through its public names alone."""
