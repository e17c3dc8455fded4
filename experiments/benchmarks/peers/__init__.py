"""Other libraries' losses, run as they are, on numbers that are fixed: no file here restates a formula."""
