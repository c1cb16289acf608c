"""The chart that `nsbroker map` draws: which containers, units and processes share which namespaces."""
