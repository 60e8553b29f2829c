"""A scheduler and a sigma schedule for svdkit."""
