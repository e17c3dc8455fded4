"""One question a file, run with `python -m experiments.<name>`; prefjax is used through its public names alone."""
