"""One process each: builds its case, runs it once, says that it is ready, then runs it when told. See `duel`."""
