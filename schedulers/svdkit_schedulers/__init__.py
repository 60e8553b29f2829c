"""Schedulers and sigma schedules that come with svdkit."""
