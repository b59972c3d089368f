"""The verdict: values in, a value out. Standard library only, no I/O, no environment; the clock is an argument."""
