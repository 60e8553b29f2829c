"""What every scheduler and every plugin module must do, as svdkit tests its own."""

from __future__ import annotations

from svdkit.testing import PluginConformance, SchedulerConformance


class TestRK2(SchedulerConformance):
    """All that a scheduler must do."""

    scheduler = "rk2"
    order = 2


class TestPlugin(PluginConformance):
    """Names, summaries and targets; and that listing them imports next to nothing."""

    plugin = "svdkit_example_scheduler.plugin"
